"""Weak-for-Strong (W4S): imitate every turn of the student, weighted by how much it improved.

Source: Nie et al., *Weak-for-Strong: Training Weak Meta-Agent to Harness Strong Executors*, arXiv
2504.04785, and its code. There, a meta-agent writes workflows; the environment `workflow` is ours.
The method itself reads nothing but step rewards, and works with any environment that rewards steps.

Departures. Each turn has the weight of its own reward; in the published code, all turns of a
conversation have that of the last one, and earlier turns appear in several conversations. The loss
of a batch is the mean over tokens; there, over conversations, each the mean of its tokens. The
published code keeps the workflow with the best test accuracy; see `docs/workflow.md`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from pydantic import Field

from eef.methods.base import Configured, Method, MethodOptions
from eef.methods.examples import apply_step_weight, make_selection
from eef.selection import PlannedState, Selection, TrainingExample
from eef.tools import is_format_error
from eef.trajectory import Trajectory, TrajectorySet

_REASONS = ((0.75, "improved"), (0.25, "better-than-last"), (-math.inf, "no-gain"))
"""Lower bounds of a step's reward; see `eef.envs.workflow.env.improvement`."""


class W4sOptions(MethodOptions):
    """Options of `w4s`; `bc_experts` has no effect, since only the student's turns are trained."""

    m: int = Field(default=5, ge=1)
    """Rollouts per round from each task's start."""

    temperature: float = Field(default=0.4, gt=0)
    """Temperature of the weights: a turn with reward r has the weight exp(r / temperature)."""


@dataclass(frozen=True, slots=True)
class W4s(Configured[W4sOptions]):
    """Reward-weighted regression on turns.

    `plan`: m rollouts from every task's start. `select`: every rollout of the student in all
    rounds; its own steps have the weight exp(reward / temperature), whatever became of the episode.
    A step without an action is context.
    """

    Options: ClassVar[type[MethodOptions]] = W4sOptions

    def plan(
        self, trajectories: TrajectorySet, tasks: Sequence[str], round: int
    ) -> list[PlannedState]:
        return [PlannedState(task, None, self.options.m) for task in tasks]

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        examples = [
            self._example(item)
            for task in tasks
            for item in sorted(trajectories.of_task(task), key=lambda item: (item.round, item.id))
            if item.by_student and item.round <= round and item.status != "error" and item.steps
        ]
        selection = make_selection(
            self.name, [each for each in examples if any(each.weights)], tasks
        )
        solved = {item.task for item in trajectories if item.success and item.start is None}
        counts = {**selection.counts, "tasks.unsolved": len(set(tasks) - solved)}
        return replace(selection, counts=counts)

    def _example(self, item: Trajectory) -> TrainingExample:
        steps = [(0.0, "context")] * item.first
        for step in item.steps:
            if is_format_error(step.action):
                steps.append((0.0, "no-action"))
                continue
            weight = math.exp(step.reward / self.options.temperature)
            reason = next(name for bound, name in _REASONS if step.reward >= bound)
            steps.append(apply_step_weight(weight, reason, step))
        return TrainingExample(
            id=f"{item.id}@{item.first}",
            task=item.task,
            trajectory=item.id,
            state=item.first,
            weights=tuple(weight for weight, _ in steps),
            reasons=tuple(reason for _, reason in steps),
            evidence=(item.id,),
        )


METHOD: type[Method] = W4s
