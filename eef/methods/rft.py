"""Rejection-sampling fine-tuning (RFT, RFT×k): explore from every task's start, train on all wins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from eef.methods.base import Configured, MethodOptions
from eef.methods.examples import select_episodes
from eef.methods.queries import winning_trajectories, wins_from_start
from eef.selection import PlannedState, Selection
from eef.trajectory import Trajectory, TrajectorySet


class RftOptions(MethodOptions):
    """Options of `rft`."""

    k: int = Field(default=1, ge=1)
    """Rollouts from each task's start a round. `rft6` is `rft` with k = 6, the budget of `eef` with M = 5."""

    cap: int | None = Field(default=None, ge=1)
    """Wins of a task at most: the student's own first, the shortest of them first; all when left out."""


@dataclass(frozen=True, slots=True)
class Rft(Configured[RftOptions]):
    """Wins of expert and student over all rounds, each sequence of actions once."""

    Options: ClassVar[type[MethodOptions]] = RftOptions

    def plan(
        self, trajectories: TrajectorySet, tasks: Sequence[str], round: int
    ) -> list[PlannedState]:
        return [PlannedState(task, None, self.options.k) for task in tasks]

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        def won(task: str) -> list[Trajectory]:
            wins = winning_trajectories(
                trajectories, task, range(round + 1), self.options.bc_experts
            )
            return wins_from_start(trajectories, wins)[: self.options.cap]

        return select_episodes(self, trajectories, tasks, won)
