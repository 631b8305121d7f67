"""Skills: how often a policy does what winning takes (turn the page, go back, …). Read by results.

What counts as a skill is said here for each environment by name; an environment without an entry has none.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from eef.trajectory import Step, Trajectory


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of action: those that `pattern` matches as a whole, in lower case.

    What the pattern's groups match must stand in the observation, else the action had no effect and does not
    count. The first `free` of an episode do not count either (every episode in the shop begins with a search).
    """

    name: str
    pattern: str
    free: int = 0


BUTTONS = r"search|buy now|description|features|reviews|attributes|back to search|next >|< prev"
SKILLS: dict[str, tuple[Kind, ...]] = {
    "webshop": (
        Kind("Next", r"click\[(next >)\]"),
        Kind("Prev", r"click\[(< prev)\]"),
        Kind("Back to Search", r"click\[(back to search)\]"),
        Kind("Another search", r"search\[.+\]", free=1),
        Kind("Options clicked", rf"click\[((?!(?:{BUTTONS}|b[0-9a-z]{{9}})\]).+)\]"),
    ),
    "scienceworld": (
        Kind("Look around", "look around"),
        Kind("Go, or teleport", r"(?:go|teleport) .+"),
        Kind("Focus", "focus on .+"),
        Kind("Wait", r"wait\d*"),
    ),
    "toy": (
        Kind("Step back", "left"),
        Kind("Another key", r"take \w+", free=1),
    ),
}


@dataclass(frozen=True, slots=True)
class BehaviorUse:
    """How often each kind of action was done in `episodes` episodes, a mean an episode; no mean of none (None)."""

    episodes: int
    means: dict[str, float | None]

    def to_record(self) -> dict[str, Any]:
        return asdict(self)


def count_kinds(steps: Sequence[Step], kinds: Iterable[Kind]) -> dict[str, int]:
    """How many actions of each kind an episode holds.

    >>> from eef.trajectory import Step
    >>> page = Step(observation="Page 1 [SEP] Next >", completion="", action="click[Next >]")
    >>> count_kinds([page, page], [Kind("Next", r"click\\[(next >)\\]", free=1)])
    {'Next': 1}
    """
    return {
        kind.name: max(0, sum(_is_of(step, kind) for step in steps) - kind.free) for kind in kinds
    }


def count_behaviors(episodes: Iterable[Trajectory], env: str) -> dict[str, BehaviorUse]:
    """The use of each skill in episodes "won" and "lost"; empty where the environment names no skills.

    Broken episodes say nothing about the policy and are left out.
    """
    kinds = SKILLS.get(env, ())
    played = [episode for episode in episodes if episode.status != "error"]
    parts = {"won": True, "lost": False}
    return {
        name: _average(
            [count_kinds(item.steps, kinds) for item in played if item.success is won], kinds
        )
        for name, won in parts.items()
        if kinds
    }


def _is_of(step: Step, kind: Kind) -> bool:
    match = re.fullmatch(kind.pattern, step.action.strip().lower())
    return match is not None and all(label in step.observation.lower() for label in match.groups())


def _average(counts: Sequence[dict[str, int]], kinds: Iterable[Kind]) -> BehaviorUse:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    size = len(counts)
    return BehaviorUse(
        size, {kind.name: total[kind.name] / size if size else None for kind in kinds}
    )
