"""ETO: explore from every task's start, prefer what won to what failed, and train on these pairs.

Pairs alone: the student goes on from the round before, which is also the frozen reference (`eef.preference`).
Source: Song et al., *Trial and Error: Exploration-Based Trajectory Optimization for LLM Agents*, arXiv 2403.02502.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from eef.methods.base import Configured, MethodOptions
from eef.methods.examples import make_pair, make_selection, path_example
from eef.methods.queries import (
    check_experts,
    distinct_by_actions,
    expert_episodes,
    student_episodes,
)
from eef.selection import PlannedState, PreferencePair, Selection
from eef.trajectory import TrajectorySet


class EtoOptions(MethodOptions):
    """Options of `eto`; `bc_experts` are the experts that the student is compared with."""

    k: int = Field(default=1, ge=1)
    """Rollouts from each task's start a round."""

    pairs: Literal["round", "all"] = "round"
    """Compare the rollouts of this round with the experts, or those of all rounds up to it."""


@dataclass(frozen=True, slots=True)
class Eto(Configured[EtoOptions]):
    """An expert's win before a student's failure, a student's win before an expert's failure; whole paths."""

    Options: ClassVar[type[MethodOptions]] = EtoOptions

    def plan(
        self, trajectories: TrajectorySet, tasks: Sequence[str], round: int
    ) -> list[PlannedState]:
        return [PlannedState(task, None, self.options.k) for task in tasks]

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        check_experts(trajectories, self.options.bc_experts)
        pairs = [pair for task in tasks for pair in self._pairs(trajectories, task, round)]
        return make_selection(self.name, [], tasks, pairs=pairs)

    def _pairs(self, trajectories: TrajectorySet, task: str, round: int) -> list[PreferencePair]:
        rounds = range(round if self.options.pairs == "round" else 1, round + 1)
        own = distinct_by_actions(trajectories, student_episodes(trajectories, task, rounds))
        experts = distinct_by_actions(
            trajectories, expert_episodes(trajectories, task, self.options.bc_experts)
        )
        return [
            make_pair(path_example(better), path_example(worse))
            for one, other in ((experts, own), (own, experts))
            for better in one
            if better.success
            for worse in other
            if not worse.success
        ]
