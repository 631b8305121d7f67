"""IPR: measure every step of the experts' wins by rollouts, prefer the expert's way on from where it gains.

The value of a state is the mean final reward of the student's rollouts from it. Where it rises along an expert's step,
the expert's way on from there is preferred to the student's that ended worse; from the task's start always.
Source: Xiong et al., *Watch Every Step! LLM Agent Learning via Iterative Step-Level Process Refinement*,
arXiv 2406.11176; there the student's own step is measured by further rollouts, here by the very ones it begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from pydantic import Field

from eef.methods.base import Configured, MethodOptions
from eef.methods.examples import make_pair, make_selection, path_example, plan_task, suffix_example
from eef.methods.labels import rollouts_from
from eef.methods.queries import check_experts, distinct_by_actions, expert_episodes
from eef.selection import PlannedState, PreferencePair, Selection
from eef.trajectory import StateRef, Trajectory, TrajectorySet


class IprOptions(MethodOptions):
    """Options of `ipr`; `bc_experts` are the experts whose wins are measured and trained on."""

    samples: int = Field(default=5, ge=1)
    """Rollouts from every state of an expert's win, the task's start included, a round."""

    threshold: float = Field(default=0.1, ge=0, lt=1)
    """How much the value must rise along an expert's step for its way on from there to be preferred."""


@dataclass(frozen=True, slots=True)
class Ipr(Configured[IprOptions]):
    """The experts' wins, and pairs from their states; whole paths where the state is the task's start."""

    Options: ClassVar[type[MethodOptions]] = IprOptions

    def plan(
        self, trajectories: TrajectorySet, tasks: Sequence[str], round: int
    ) -> list[PlannedState]:
        plan = []
        for task in tasks:
            wins = self._wins(trajectories, task)
            states = [
                StateRef(win.id, t) for win in wins if win.replayable for t in range(1, win.length)
            ]
            if wins:
                plan += plan_task(task, states, self.options.samples)
        return plan

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        check_experts(trajectories, self.options.bc_experts)
        wins = [win for task in tasks for win in self._wins(trajectories, task)]
        pairs = [pair for win in wins for pair in self._pairs(trajectories, win, round)]
        return make_selection(self.name, [path_example(win) for win in wins], tasks, pairs=pairs)

    def _wins(self, trajectories: TrajectorySet, task: str) -> list[Trajectory]:
        episodes = expert_episodes(trajectories, task, self.options.bc_experts)
        return distinct_by_actions(trajectories, [item for item in episodes if item.success])

    def _pairs(
        self, trajectories: TrajectorySet, win: Trajectory, round: int
    ) -> list[PreferencePair]:
        played = rollouts_from(trajectories, win, range(round, round + 1))
        values = {
            t: fmean(item.reward or 0.0 for item in rollouts)
            for t, rollouts in played.items()
            if rollouts
        }
        values[win.length] = win.reward or 0.0
        return [
            make_pair(suffix_example(win, t), suffix_example(worse, t))
            for t in range(win.length)
            if t == 0
            or (
                t in values
                and t + 1 in values
                and values[t + 1] - values[t] > self.options.threshold
            )
            for worse in distinct_by_actions(trajectories, played.get(t, []))
            if not worse.success
        ]
