"""Rejection-sampling fine-tuning (RFT): explore from every task's start, train on all wins.

Source: Yuan et al., *Scaling Relationship on Learning Mathematical Reasoning with Large Language
Models*, arXiv 2308.01825.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from eef.methods.base import Method, MethodOptions
from eef.methods.examples import select_episodes
from eef.methods.queries import winning_trajectories, wins_from_start
from eef.selection import PlannedState, Selection
from eef.trajectory import Trajectory, TrajectorySet


class RftOptions(MethodOptions):
    """Options of `rft`."""

    k: int = Field(default=1, ge=1)
    """Rollouts from each task's start per round. `rft6` is `rft` with k = 6, the budget of `eef`
    with M = 5."""

    cap: int | None = Field(default=None, ge=1)
    """Maximum number of wins per task, the student's own first, then the shortest; by default
    all."""


@dataclass(frozen=True, slots=True)
class Rft(Method[RftOptions]):
    """Rejection sampling.

    `plan`: k rollouts from every task's start. `select`: the wins of the student in all rounds and
    of the experts, each sequence of actions once.
    """

    Options: ClassVar[type[MethodOptions]] = RftOptions

    def plan(
        self, trajectories: TrajectorySet, tasks: Sequence[str], round: int
    ) -> list[PlannedState]:
        return [PlannedState(task, None, self.options.k) for task in tasks]

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        def wins(task: str) -> list[Trajectory]:
            rounds = range(round + 1)
            found = winning_trajectories(trajectories, task, rounds, self.options.bc_experts)
            return wins_from_start(trajectories, found)[: self.options.cap]

        return select_episodes(self, trajectories, tasks, wins)


METHOD = Rft
