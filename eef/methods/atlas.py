"""ATLaS-like: train on the experts' wins, but only on their critical steps: those along which the measured value rises.

Source: Chen et al., *ATLaS: Agent Tuning via Learning Critical Steps*, arXiv 2503.02197. There a language model names
the critical steps; here rollouts do: the value of a state is the student's win rate from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from pydantic import Field

from eef.methods.base import Configured, MethodOptions
from eef.methods.examples import apply_step_weight, make_selection, plan_task
from eef.methods.labels import count_wins, evenly_spaced_states
from eef.methods.queries import check_experts, distinct_by_actions, expert_episodes
from eef.selection import PlannedState, Selection, TrainingExample
from eef.trajectory import StateRef, Trajectory, TrajectorySet


class AtlasOptions(MethodOptions):
    """Options of `atlas`; `bc_experts` are the experts whose wins are measured and trained on."""

    M: int = Field(default=5, ge=1)
    """States inside an expert's win that are played on from."""

    rollouts_per_state: int = Field(default=1, ge=1)
    """Rollouts from each state, the task's start included, a round."""

    share: float = Field(default=0.3, gt=0, le=1)
    """Part of an expert's steps that is trained at most (rounded up)."""


@dataclass(frozen=True, slots=True)
class Atlas(Configured[AtlasOptions]):
    """The experts' wins, each with its critical steps; the rest of the path is context."""

    Options: ClassVar[type[MethodOptions]] = AtlasOptions

    def plan(
        self, trajectories: TrajectorySet, tasks: Sequence[str], round: int
    ) -> list[PlannedState]:
        plan = []
        for task in tasks:
            wins = self._wins(trajectories, task)
            states = [
                StateRef(win.id, t)
                for win in wins
                if win.replayable
                for t in evenly_spaced_states(win.length, self.options.M)
            ]
            if wins:
                plan += plan_task(task, states, self.options.rollouts_per_state)
        return plan

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        check_experts(trajectories, self.options.bc_experts)
        wins = [win for task in tasks for win in self._wins(trajectories, task)]
        examples = [self._example(trajectories, win, round) for win in wins]
        return make_selection(
            self.name, [example for example in examples if any(example.weights)], tasks
        )

    def _wins(self, trajectories: TrajectorySet, task: str) -> list[Trajectory]:
        episodes = expert_episodes(trajectories, task, self.options.bc_experts)
        return distinct_by_actions(trajectories, [item for item in episodes if item.success])

    def _example(self, trajectories: TrajectorySet, win: Trajectory, round: int) -> TrainingExample:
        advantages = step_advantages(count_wins(trajectories, win, range(1, round + 1)), win.length)
        order = sorted(
            (t for t in range(win.length) if advantages[t] > 0), key=lambda t: (-advantages[t], t)
        )
        critical = set(order[: math.ceil(self.options.share * win.length)])
        steps = [
            apply_step_weight(1.0, "critical", step.weight) if t in critical else (0.0, "context")
            for t, step in enumerate(win.steps)
        ]
        return TrainingExample(
            id=f"{win.id}@0",
            task=win.task,
            trajectory=win.id,
            state=0,
            weights=tuple(weight for weight, _ in steps),
            reasons=tuple(reason for _, reason in steps),
            evidence=(win.id,),
        )


def step_advantages(measured: dict[int, tuple[int, int]], length: int) -> list[float]:
    """By how much the win rate rises along each step of a win: the rise between the two states that were measured
    around it, shared by the steps between them. The end is won; where the start was not measured, nothing rises.

    Worked example: win rates 0 at the start, 0.5 at state 2, and 4 steps.

    >>> step_gains({0: (0, 2), 2: (1, 2)}, 4)
    [0.25, 0.25, 0.25, 0.25]
    """
    rates = {
        t: wins / played for t, (wins, played) in measured.items() if played and t < length
    } | {length: 1.0}
    advantages = [0.0] * length
    for start, end in pairwise(sorted(rates)):
        for t in range(start, end):
            advantages[t] = (rates[end] - rates[start]) / (end - start)
    return advantages
