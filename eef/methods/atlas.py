"""ATLaS-like: train on the steps of the experts' wins along which the win rate rises most.

Source: Chen et al., *ATLaS: Agent Tuning via Learning Critical Steps*, arXiv 2503.02197. There, a
language model names the critical steps; here, the student's rollouts do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from pydantic import Field

from eef.methods.base import Configured, Method, MethodOptions
from eef.methods.examples import apply_step_weight, make_selection, plan_task
from eef.methods.labels import count_wins, evenly_spaced_states
from eef.methods.queries import check_experts, expert_wins
from eef.selection import PlannedState, Selection, TrainingExample
from eef.trajectory import StateRef, Trajectory, TrajectorySet


class AtlasOptions(MethodOptions):
    """Options of `atlas`; `bc_experts` names the experts whose wins are measured and trained on."""

    M: int = Field(default=5, ge=1)
    """Evenly spaced states inside an expert's win to branch from."""

    rollouts_per_state: int = Field(default=1, ge=1)
    """Rollouts per round from each state, including the task's start."""

    share: float = Field(default=0.3, gt=0, le=1)
    """Maximum share of an expert's steps that is trained (rounded up)."""


@dataclass(frozen=True, slots=True)
class Atlas(Configured[AtlasOptions]):
    """Training on critical steps.

    `plan`: rollouts from the start and M states of each expert win; tasks that no expert won are
    not explored. `select`: each expert win, with weight 1 on its critical steps: at most `share` of
    all, those with the highest positive advantage (`step_advantages`), earlier ones first. The
    other steps are context.
    """

    Options: ClassVar[type[MethodOptions]] = AtlasOptions
    branches: ClassVar[bool] = True

    def plan(
        self, trajectories: TrajectorySet, tasks: Sequence[str], round: int
    ) -> list[PlannedState]:
        plan = []
        for task in tasks:
            wins = expert_wins(trajectories, task, self.options.bc_experts)
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
        examples = [
            self._example(trajectories, win, round)
            for task in tasks
            for win in expert_wins(trajectories, task, self.options.bc_experts)
        ]
        return make_selection(
            self.name, [example for example in examples if any(example.weights)], tasks
        )

    def _example(self, trajectories: TrajectorySet, win: Trajectory, round: int) -> TrainingExample:
        measured = count_wins(trajectories, win, range(1, round + 1))
        advantages = step_advantages(measured, win.length)
        rising = [t for t in range(win.length) if advantages[t] > 0]
        rising.sort(key=lambda t: (-advantages[t], t))
        critical = set(rising[: math.ceil(self.options.share * win.length)])
        steps = [
            apply_step_weight(1.0, "critical", step) if t in critical else (0.0, "context")
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
    """The rise of the win rate along each step of a win of `length` steps.

    `measured` maps states to (wins, rollouts). The rise between two measured states is divided
    evenly among the steps between them. The end counts as won. Steps before the first measured
    state have advantage 0.

    Worked example: win rates 0 in the start and 0.5 in state 2, and 4 steps.

    >>> step_advantages({0: (0, 2), 2: (1, 2)}, 4)
    [0.25, 0.25, 0.25, 0.25]
    """
    rates = {
        t: wins / rollouts for t, (wins, rollouts) in measured.items() if rollouts and t < length
    } | {length: 1.0}
    advantages = [0.0] * length
    for start, end in pairwise(sorted(rates)):
        for t in range(start, end):
            advantages[t] = (rates[end] - rates[start]) / (end - start)
    return advantages


METHOD: type[Method] = Atlas
