"""TaskGroups: scores by kind of task, and by held-out part, where an environment's tasks have kinds. Read by results.

A score here is what an episode's rewards add up to. Beside the final one stands the highest on the way: ETO
(arXiv 2403.02502) reports that, so a failure after progress costs nothing there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import accumulate
from statistics import fmean
from typing import Any

from eef.envs.scienceworld.tasks import held_out_part
from eef.task import group_of
from eef.trajectory import Trajectory

PARTS: dict[str, Callable[[str], str]] = {
    "scienceworld": held_out_part,
    "textworld-express": lambda task: "",
}
"""Environments whose tasks have kinds, and which part of their held-out tasks a task belongs to ("" for none)."""


@dataclass(frozen=True, slots=True)
class GroupScore:
    """Some test tasks: how many were won, mean final reward, and mean of the highest score on the way."""

    tasks: int
    wins: int
    mean_reward: float
    mean_peak: float

    @classmethod
    def of(cls, episodes: Iterable[Trajectory]) -> GroupScore:
        """At least one episode; one that broke counts as lost with 0, as in every mean."""
        played = list(episodes)
        return cls(
            tasks=len(played),
            wins=sum(item.success for item in played),
            mean_reward=fmean(item.reward or 0.0 for item in played),
            mean_peak=fmean(map(peak, played)),
        )


@dataclass(frozen=True, slots=True)
class TaskGroups:
    """All test tasks, the same by part (ScienceWorld: seen, unseen), and by kind."""

    all: GroupScore
    parts: Mapping[str, GroupScore]
    kinds: Mapping[str, GroupScore]

    @property
    def mean_of_kinds(self) -> float:
        """Mean over kinds of their mean final rewards, whatever their numbers of tasks."""
        return fmean(score.mean_reward for score in self.kinds.values())

    def to_record(self) -> dict[str, Any]:
        return {**asdict(self), "mean_of_kinds": self.mean_of_kinds}


def score_task_groups(episodes: Iterable[Trajectory], env: str) -> TaskGroups | None:
    """The scores of an evaluation, the last try of each task; None where the environment's tasks have no kinds."""
    played = {item.task: item for item in episodes}
    if env not in PARTS or not played:
        return None
    return TaskGroups(
        all=GroupScore.of(played.values()),
        parts=_divide(played, PARTS[env]),
        kinds=_divide(played, group_of),
    )


def peak(episode: Trajectory) -> float:
    """The highest score of an episode that began at a task's start, in [0, 1]; 0 for one that broke.

    ETO's own figure is -1 where the first action fails a task, so that its mean may be a little lower.

    Worked example: rewards 0.5 and -1.5 (a wrong focus after half of the task) end at -1, and the peak is 0.5.
    """
    if episode.status == "error":
        return 0.0
    return min(1.0, round(max(accumulate((step.reward for step in episode.steps), initial=0.0)), 6))


def _divide(
    played: Mapping[str, Trajectory], name_of: Callable[[str], str]
) -> dict[str, GroupScore]:
    """Episodes by a name of their task, in the order of the names; tasks without one are left out."""
    names = sorted({name_of(task) for task in played} - {""})
    return {
        name: GroupScore.of(item for task, item in played.items() if name_of(task) == name)
        for name in names
    }
