"""How often a policy shows the behaviors that an environment declares (turn the page, go back, …).

The behaviors themselves are declared by each environment (`eef.envs.spec.EnvSpec.behaviors`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from eef.envs.registry import report_spec
from eef.envs.spec import Behavior
from eef.tools import split_action
from eef.trajectory import Step, Trajectory


@dataclass(frozen=True, slots=True)
class BehaviorUse:
    """Mean number of actions per episode for each behavior, over `episodes` episodes.

    A mean over no episodes is None.
    """

    episodes: int
    means: dict[str, float | None]

    def to_record(self) -> dict[str, Any]:
        return asdict(self)


def count_actions(steps: Sequence[Step], behaviors: Iterable[Behavior]) -> dict[str, int]:
    """Count the actions of each behavior in an episode.

    >>> from eef.trajectory import Step
    >>> page = Step(observation="Page 1 [SEP] Next >", completion="", action="click[Next >]")
    >>> count_actions([page, page], [Behavior("Next", r"click\\[(next >)\\]", free=1)])
    {'Next': 1}
    """
    return {
        behavior.name: max(0, sum(_shows(step, behavior) for step in steps) - behavior.free)
        for behavior in behaviors
    }


def count_behaviors(episodes: Iterable[Trajectory], env: str) -> dict[str, BehaviorUse]:
    """Use of each behavior in the episodes "won" and "lost".

    Empty if the environment declares no behaviors. Failed rollouts (`status` is "error") are not
    counted.
    """
    behaviors = report_spec(env).behaviors
    played = [episode for episode in episodes if episode.status != "error"]
    parts = {"won": True, "lost": False}
    return {
        name: _average(
            [count_actions(item.steps, behaviors) for item in played if item.success is won],
            behaviors,
        )
        for name, won in parts.items()
        if behaviors
    }


def _shows(step: Step, behavior: Behavior) -> bool:
    """Whether one of a turn's actions shows a behavior."""
    seen = step.observation.lower()
    actions = (action.strip().lower() for action in split_action(step.action))
    matches = (re.fullmatch(behavior.pattern, action) for action in actions)
    return any(match and all(label in seen for label in match.groups()) for match in matches)


def _average(counts: Sequence[dict[str, int]], behaviors: Iterable[Behavior]) -> BehaviorUse:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    size = len(counts)
    means = {each.name: total[each.name] / size if size else None for each in behaviors}
    return BehaviorUse(size, means)
