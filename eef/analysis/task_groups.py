"""Scores by task group and by held-out part, if an environment's tasks have groups.

A score is the sum of an episode's rewards. The max score is the highest sum during an episode,
which ETO (arXiv 2403.02502) reports: it does not drop when an episode fails after making progress.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import accumulate
from statistics import fmean
from typing import Any

from eef.envs.registry import report_spec
from eef.trajectory import Trajectory


@dataclass(frozen=True, slots=True)
class GroupScore:
    """Number of test tasks, number of wins, mean final reward and mean max score."""

    tasks: int
    wins: int
    mean_reward: float
    mean_max_score: float

    @classmethod
    def of(cls, episodes: Iterable[Trajectory]) -> GroupScore:
        """The score of one or more episodes; a failed rollout counts as lost with reward 0."""
        played = list(episodes)
        return cls(
            tasks=len(played),
            wins=sum(item.success for item in played),
            mean_reward=fmean(item.reward or 0.0 for item in played),
            mean_max_score=fmean(map(max_score, played)),
        )


@dataclass(frozen=True, slots=True)
class TaskGroups:
    """Scores of all test tasks, by held-out part (ScienceWorld: seen, unseen) and by task group."""

    all: GroupScore
    parts: Mapping[str, GroupScore]
    groups: Mapping[str, GroupScore]

    @property
    def mean_of_groups(self) -> float:
        """Mean over groups of their mean final rewards; each group counts once."""
        return fmean(score.mean_reward for score in self.groups.values())

    def to_record(self) -> dict[str, Any]:
        return {**asdict(self), "mean_of_groups": self.mean_of_groups}


def score_task_groups(episodes: Iterable[Trajectory], env: str) -> TaskGroups | None:
    """The scores of an evaluation's episodes, one per task.

    None if the environment's tasks have no groups, or there are no episodes.
    """
    spec = report_spec(env)
    played = {item.task: item for item in episodes}
    if spec.group_of is None or not played:
        return None
    return TaskGroups(
        all=GroupScore.of(played.values()),
        parts=_divide(played, spec.held_out_part),
        groups=_divide(played, spec.group_of),
    )


def max_score(episode: Trajectory) -> float:
    """Highest score of an episode that started at its task's start, in [0, 1].

    0 for a failed rollout. ETO's own figure is -1 if the first action fails a task, so its mean can
    be slightly lower.

    Worked example: rewards 0.5 and -1.5 (a wrong focus after half of the task) end at -1, and the
    max score is 0.5.
    """
    if episode.status == "error":
        return 0.0
    return min(1.0, round(max(accumulate((step.reward for step in episode.steps), initial=0.0)), 6))


def _divide(
    played: Mapping[str, Trajectory], name_of: Callable[[str], str]
) -> dict[str, GroupScore]:
    """Scores by a name derived from the task id, sorted by name.

    Tasks without a name do not count.
    """
    names = sorted({name_of(task) for task in played} - {""})
    return {
        name: GroupScore.of(item for task, item in played.items() if name_of(task) == name)
        for name in names
    }
