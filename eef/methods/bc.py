"""Behavior cloning (SFT-POS): explore nothing, train on the experts' wins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from eef.methods.base import Method, MethodOptions
from eef.methods.examples import select_episodes
from eef.methods.queries import winning_trajectories, wins_from_start
from eef.selection import PlannedState, Selection
from eef.trajectory import Trajectory, TrajectorySet


class BcOptions(MethodOptions):
    """Options of `bc`."""


@dataclass(frozen=True, slots=True)
class Bc(Method[BcOptions]):
    """Behavior cloning.

    `plan`: nothing. `select`: every win of the experts, each sequence of actions once, the shortest
    wins of a task first.
    """

    Options: ClassVar[type[MethodOptions]] = BcOptions

    def plan(
        self, trajectories: TrajectorySet, tasks: Sequence[str], round: int
    ) -> list[PlannedState]:
        return []

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        def wins(task: str) -> list[Trajectory]:
            found = winning_trajectories(trajectories, task, range(0), self.options.bc_experts)
            return wins_from_start(trajectories, found)

        return select_episodes(self, trajectories, tasks, wins)


METHOD = Bc
