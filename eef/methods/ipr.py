"""IPR: prefer the expert's continuation in states where its step raises the value.

The value of a state is the mean final reward of the student's rollouts from it. Source: Xiong et
al., *Watch Every Step! LLM Agent Learning via Iterative Step-Level Process Refinement*,
arXiv 2406.11176. There, further rollouts measure the student's own step; here, the rollouts from
the state serve for that as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from pydantic import Field

from eef.methods.base import Method, MethodOptions
from eef.methods.examples import (
    make_pair,
    make_selection,
    path_example,
    plan_task,
    suffix_example,
)
from eef.methods.labels import rollouts_from
from eef.methods.queries import check_experts, distinct_by_actions, expert_wins
from eef.selection import PlannedState, PreferencePair, Selection
from eef.trajectory import StateRef, Trajectory, TrajectorySet


class IprOptions(MethodOptions):
    """Options of `ipr`; `bc_experts` names the experts whose wins are measured and trained on."""

    samples: int = Field(default=5, ge=1)
    """Rollouts per round from every state of an expert's win, including the task's start."""

    threshold: float = Field(default=0.1, ge=0, lt=1)
    """Minimum rise of the value along an expert's step for its continuation to be preferred."""


@dataclass(frozen=True, slots=True)
class Ipr(Method[IprOptions]):
    """Iterative step-level process refinement.

    `plan`: `samples` rollouts from every state of each expert win; tasks that no expert won are not
    explored. `select`: the experts' wins as examples, and as pairs in a state the expert's
    continuation (chosen) and each of the student's failures from it (rejected), if the value rises
    by more than `threshold` along the expert's step: V(s_t+1) - V(s_t) > threshold. At the task's
    start, the two are always compared.
    """

    Options: ClassVar[type[MethodOptions]] = IprOptions

    @property
    def branches(self) -> bool:
        return True

    def plan(
        self, trajectories: TrajectorySet, tasks: Sequence[str], round: int
    ) -> list[PlannedState]:
        plan = []
        for task in tasks:
            wins = expert_wins(trajectories, task, self.options.bc_experts)
            states = [
                StateRef(win.id, t) for win in wins if win.replayable for t in range(1, win.length)
            ]
            if wins:
                plan += plan_task(task, states, self.options.samples)
        return plan

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        check_experts(trajectories, self.options.bc_experts)
        wins = [
            win
            for task in tasks
            for win in expert_wins(trajectories, task, self.options.bc_experts)
        ]
        pairs = [pair for win in wins for pair in self._pairs(trajectories, win, round)]
        return make_selection(self.name, [path_example(win) for win in wins], tasks, pairs=pairs)

    def _pairs(
        self, trajectories: TrajectorySet, win: Trajectory, round: int
    ) -> list[PreferencePair]:
        rollouts = rollouts_from(trajectories, win, range(round, round + 1))
        values = state_values(rollouts, win)
        return [
            make_pair(suffix_example(win, t), suffix_example(failure, t))
            for t in range(win.length)
            if t == 0 or self._is_better(values, t)
            for failure in distinct_by_actions(trajectories, rollouts.get(t, []))
            if not failure.success
        ]

    def _is_better(self, values: Mapping[int, float], t: int) -> bool:
        """Whether the expert's step `t` raises the value by more than the threshold."""
        return (
            t in values and t + 1 in values and values[t + 1] - values[t] > self.options.threshold
        )


def state_values(rollouts: Mapping[int, Sequence[Trajectory]], win: Trajectory) -> dict[int, float]:
    """The mean final reward of the rollouts from each state; the value of the end is the win's."""
    values = {t: fmean(item.reward or 0.0 for item in each) for t, each in rollouts.items() if each}
    return {**values, win.length: win.reward or 0.0}


METHOD = Ipr
