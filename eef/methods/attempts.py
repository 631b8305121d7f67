"""Attempts at a task: after a failure a reflection, then another try with it in the prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from eef.chat import build_conversation
from eef.methods.base import Planned
from eef.note import Note
from eef.roles import transcript
from eef.selection import PlannedNote, PlannedState
from eef.trajectory import Trajectory, TrajectorySet

REFLECTOR = "reflector"
REFLECT = (
    "This attempt has failed. In two or three sentences, state what went wrong and what the agent "
    "should do differently when it tries the same task again."
)
MEMORY = "Reflections on earlier attempts at this task:"


class Attempt(NamedTuple):
    """A rollout, and the reflection that was written about it; None if there is none."""

    played: Trajectory
    reflection: Note | None


def plan_attempts(
    trajectories: TrajectorySet,
    played: Mapping[str, Sequence[Trajectory]],
    most: int,
    memory: int,
) -> list[Planned]:
    """The attempts at each task so far, and what follows them: a reflection, or another attempt.

    `played` are the rollouts of each task. There are at most `most` attempts, with the latest
    `memory` reflections in the prompt; a win ends them, and so does an unusable reflection.
    """
    planned: list[Planned] = []
    for task, items in played.items():
        attempts = attempts_at(trajectories, items, memory)
        suffixes = [
            reflections_suffix(attempts[:number], memory) for number in range(len(attempts) + 1)
        ]
        planned += [PlannedState(task, None, 1, each) for each in suffixes[: len(attempts)]]
        last = attempts[-1] if attempts else None
        if last is None or (last.reflection and not last.reflection.problem):
            planned += [PlannedState(task, None, 1, suffixes[-1])] * (len(attempts) < most)
        elif not last.played.success and last.reflection is None and len(attempts) < most:
            planned.append(_reflection_on(last.played))
    return planned


def attempts_at(
    trajectories: TrajectorySet, items: Sequence[Trajectory], memory: int
) -> list[Attempt]:
    """The attempts among the rollouts of a task, each with the reflections before in its prompt."""
    attempts: list[Attempt] = []
    while True:
        suffix = reflections_suffix(attempts, memory)
        found = [item for item in items if item.prompt_suffix == suffix]
        if not found:
            return attempts
        notes = trajectories.notes.about(REFLECTOR, found[0].id, range(found[0].round + 1))
        attempts.append(Attempt(found[0], notes[0] if notes else None))
        if found[0].success or not notes or notes[0].problem:
            return attempts


def reflections_suffix(attempts: Sequence[Attempt], memory: int) -> str:
    """The prompt suffix after some attempts, which differs from that after any other number."""
    texts = [
        f"{number}. {attempt.reflection.text}"
        for number, attempt in enumerate(attempts, start=1)
        if attempt.reflection
    ]
    return "\n".join([MEMORY, *texts[-memory:]]) if texts else ""


def _reflection_on(failed: Trajectory) -> PlannedNote:
    log = build_conversation("", failed.steps, failed.final_observation)
    parts = (failed.prompt_suffix, transcript(log), REFLECT)
    question = "\n\n".join(part for part in parts if part)
    return PlannedNote(REFLECTOR, failed.task, failed.id, question)
