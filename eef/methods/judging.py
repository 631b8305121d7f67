"""The judge: a role that names the critical steps of a path."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from eef.note import NoteSet
from eef.roles import number_steps, read_step_numbers
from eef.selection import PlannedNote
from eef.trajectory import Step

JUDGE = "judge"
REQUEST = (
    "The agent completed the task in these {steps} steps. First summarize its sub-goals. Then name "
    "the steps that the outcome depends on most: where it makes a plan, reads a key observation, "
    "takes a key action or corrects an error. Name at most {most}. End with one line of the form "
    "`Critical steps: 2, 5`."
)


def judge_note(steps: Sequence[Step], task: str, about: str, request: str) -> PlannedNote:
    """A note of the judge about a path, in which it has to name steps."""

    def check(text: str) -> object:
        return read_step_numbers(text, len(steps))

    return PlannedNote(JUDGE, task, about, f"{number_steps(steps)}\n\n{request}", check=check)


def win_note(steps: Sequence[Step], task: str, about: str, share: float) -> PlannedNote:
    """A judge's note about a won path. It may name at most `share` of the steps."""
    request = REQUEST.format(steps=len(steps), most=most_steps(share, len(steps)))
    return judge_note(steps, task, about, request)


def most_steps(share: float, length: int) -> int:
    """The number of steps that `share` of a path has, rounded down.

    >>> most_steps(0.3, 10)
    3
    """
    # the product of a decimal share may fall short of the whole number it stands for
    return math.floor(share * length + 1e-9)


def may_name(share: float, length: int) -> bool:
    """Whether the judge may name a step of a path at all; if not, it is not asked."""
    return most_steps(share, length) > 0


def critical_steps(
    notes: NoteSet, about: str, rounds: range, length: int, share: float, counts: Counter[str]
) -> set[int] | None:
    """The steps of a won path that the judge named, at most `share` of all; None without a note.

    `judge.skipped` counts paths without a usable note, `judge.beyond_share` the steps dropped. A
    path that the judge is not asked about (`may_name`) has none.
    """
    if not may_name(share, length):
        return set()
    usable = notes.usable(JUDGE, about, rounds)
    if not usable:
        counts["judge.skipped"] += 1
        return None
    named = read_step_numbers(usable[0].text, length)
    kept = named[: most_steps(share, length)]
    counts["judge.beyond_share"] += len(named) - len(kept)
    return set(kept)
