"""GRPO: groups of rollouts from each task's start, advantages against the group's mean.

Source: Shao et al., *DeepSeekMath*, arXiv 2402.03300. Departures: an episode is one sequence with
its whole history, and groups whose rollouts have the same outcome are left out of the batch, since
they give no gradient (as in Yu et al., *DAPO*, arXiv 2503.14476). The published code lets the only
rollout of a group keep its raw score; here it has the advantage 0. Without a deviation
(`scale = "one"`) the advantages are those of Liu et al., *Understanding R1-Zero-Like Training*,
arXiv 2503.20783.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from eef.methods.advantages import (
    GroupOptions,
    group_acts,
    groups_of_round,
    outcome_advantages,
    select_acts,
    tasks_of_round,
)
from eef.methods.base import Method, MethodOptions
from eef.selection import PlannedState, Selection
from eef.trajectory import Trajectory, TrajectorySet


class GrpoOptions(GroupOptions):
    """Options of `grpo`."""


@dataclass(frozen=True, slots=True)
class Grpo(Method[GrpoOptions]):
    """Group relative policy optimization.

    `plan`: a group from the start of each of the round's tasks. `select`: the acts of this round;
    every step of a rollout has its rollout's advantage.
    """

    Options: ClassVar[type[MethodOptions]] = GrpoOptions

    @property
    def acts(self) -> bool:
        return True

    def plan(
        self, trajectories: TrajectorySet, tasks: Sequence[str], round: int
    ) -> list[PlannedState]:
        chosen = tasks_of_round(tasks, round, self.options.tasks_per_round)
        return [PlannedState(task, None, self.options.group_size) for task in chosen]

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        groups = groups_of_round(trajectories, tasks, round)
        acts = group_acts(groups, self.advantages)
        return select_acts(acts, groups, trajectories, tasks, round)

    def advantages(self, group: Sequence[Trajectory]) -> dict[str, float]:
        """The advantage of each rollout of a group, by id."""
        return outcome_advantages(group, self.options)


METHOD = Grpo
