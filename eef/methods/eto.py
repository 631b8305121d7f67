"""ETO: explore from every task's start, and train on pairs of a win and a failure.

There are no examples, only pairs: each round continues from the previous round's student, which is
also the frozen reference model (see `eef.training.dpo`). Source: Song et al., *Trial and Error:
Exploration-Based Trajectory Optimization for LLM Agents*, arXiv 2403.02502.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from eef.methods.base import Method, MethodOptions
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
    """Options of `eto`; `bc_experts` names the experts that the student is compared with."""

    k: int = Field(default=1, ge=1)
    """Rollouts from each task's start per round."""

    pairs: Literal["round", "all"] = "round"
    """Compare the experts with the student's rollouts of this `round`, or of `all` rounds so
    far."""


@dataclass(frozen=True, slots=True)
class Eto(Method[EtoOptions]):
    """Exploration-based trajectory optimization.

    `plan`: k rollouts from every task's start. `select`: for each task, every pair of an expert's
    win (chosen) and a student's failure (rejected), and of a student's win and an expert's failure.
    Responses are whole paths, each sequence of actions once.
    """

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
        student = distinct_by_actions(trajectories, student_episodes(trajectories, task, rounds))
        experts = distinct_by_actions(
            trajectories, expert_episodes(trajectories, task, self.options.bc_experts)
        )
        return [
            make_pair(path_example(win), path_example(failure))
            for winners, losers in ((experts, student), (student, experts))
            for win in winners
            if win.success
            for failure in losers
            if not failure.success
        ]


METHOD = Eto
