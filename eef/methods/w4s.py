"""Weak-for-Strong (W4S): imitate every turn of the student, weighted by how much it improved.

Source: Nie et al., *Weak-for-Strong: Training Weak Meta-Agent to Harness Strong Executors*, arXiv
2504.04785, and its code. There, a meta-agent writes workflows; the environment `workflow` is ours.
The method itself reads only step rewards, and works with any environment that rewards steps.

The loss is reward-weighted regression, as there: if `policy_gradient.mean_over` is "turns", a turn
with reward r contributes exp(r / temperature) times the mean of its tokens' −log p. Departures:
each turn is weighted by its own reward, and only a branch's own turns are trained (there, all turns
of a conversation have the weight of its last one, and earlier turns are in several conversations);
a round trains on its own rollouts, from the weights that played them (there, one training uses all
data); rollouts are played to their end before the best turn of a group determines the next state,
and the first of several turns with the same reward counts as the best. The published code keeps the
workflow with the best test accuracy; see `docs/workflow.md`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from pydantic import Field

from eef.methods.advantages import acts_of, groups_of_round, select_acts
from eef.methods.base import Method, MethodOptions
from eef.selection import PlannedState, Selection
from eef.tools import is_format_error
from eef.trajectory import StateRef, Step, Trajectory, TrajectorySet

_GAINS = ((0.75, "improved"), (0.25, "better-than-last"), (-math.inf, "no-gain"))
"""Lower bounds of a step's reward; see `eef.envs.workflow.env.improvement`."""


class W4sOptions(MethodOptions):
    """Options of `w4s`; `bc_experts` has no effect, since only the student's turns are trained."""

    m: int = Field(default=5, ge=1)
    """Rollouts per round from each state: a task's start, and the states after it (`depth`)."""

    depth: int = Field(default=2, ge=1)
    """States per task and round: its start, then each time the state after the best turn of the
    rollouts from the previous state."""

    temperature: float = Field(default=0.4, gt=0)
    """Temperature of the loss weights: a turn with reward r has the weight exp(r / temperature)."""


@dataclass(frozen=True, slots=True)
class W4s(Method[W4sOptions]):
    """Reward-weighted regression on turns.

    `plan`: m rollouts from every task's start, then from the state after their best turn, and so on
    (`depth`). `select`: the acts of all rollouts of the round, won or lost; a step's advantage is
    exp(reward / temperature), or 0 if it holds no action.
    """

    Options: ClassVar[type[MethodOptions]] = W4sOptions

    @property
    def branches(self) -> bool:
        return self.options.depth > 1

    @property
    def acts(self) -> bool:
        return True

    @property
    def turns(self) -> int:
        return self.options.depth

    def plan(
        self, trajectories: TrajectorySet, tasks: Sequence[str], round: int
    ) -> list[PlannedState]:
        groups = groups_of_round(trajectories, tasks, round)
        plan = []
        for task in tasks:
            plan.append(PlannedState(task, None, self.options.m))
            state = f"{task}@0"
            for _ in range(1, self.options.depth):
                best = best_state(groups.get(state, ()))
                if best is None:
                    break
                plan.append(PlannedState(task, best, self.options.m))
                state = str(best)
        return plan

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        groups = groups_of_round(trajectories, tasks, round)
        played = [(name, item) for name, group in groups.items() for item in group]
        acts = [
            replace(acts_of(item, name, [self._weight(step) for step in item.steps]), ratio="none")
            for name, item in played
        ]
        selection = select_acts(acts, groups, trajectories, tasks, round)
        steps = [step for _, item in played for step in item.steps if self._weight(step)]
        gains = Counter(f"steps.{_gain(step.reward)}" for step in steps)
        return replace(selection, counts={**selection.counts, **gains})

    def _weight(self, step: Step) -> float:
        if is_format_error(step.action):
            return 0.0
        return math.exp(step.reward / self.options.temperature)


def best_state(group: Sequence[Trajectory]) -> StateRef | None:
    """The state after the step with the highest reward, among steps that another one follows.

    None if there is none. Among equal steps, that of the first rollout counts. The last step of a
    rollout does not: it has ended its episode, or used up the step limit.

    Worked example. Of two rollouts with the step rewards (0, 1) and (0.5, 0), the second has the
    best step, its first; the state is `second@1`.
    """
    steps = [
        (step.reward, StateRef(item.id, item.first + number))
        for item in group
        for number, step in enumerate(item.steps[:-1], start=1)
    ]
    return max(steps, key=lambda each: each[0])[1] if steps else None


def _gain(reward: float) -> str:
    return next(name for bound, name in _GAINS if reward >= bound)


METHOD = W4s
