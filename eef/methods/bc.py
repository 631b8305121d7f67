"""Behaviour cloning (SFT-POS): explore nothing, train on the experts' wins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from eef.methods.base import Configured, MethodOptions
from eef.methods.examples import select_episodes
from eef.methods.queries import winning_trajectories, wins_from_start
from eef.selection import PlannedState, Selection
from eef.trajectory import Trajectory, TrajectorySet


class BcOptions(MethodOptions):
    """Options of `bc`."""


@dataclass(frozen=True, slots=True)
class Bc(Configured[BcOptions]):
    """All that the experts won, each sequence of actions once."""

    Options: ClassVar[type[MethodOptions]] = BcOptions

    def plan(
        self, trajectories: TrajectorySet, tasks: Sequence[str], round: int
    ) -> list[PlannedState]:
        return []

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        def won(task: str) -> list[Trajectory]:
            return wins_from_start(
                trajectories,
                winning_trajectories(trajectories, task, range(0), self.options.bc_experts),
            )

        return select_episodes(self, trajectories, tasks, won)
