"""GiGPO: the advantages of `grpo`, plus those of each step among steps from the same anchor.

Source: Feng et al., *Group-in-Group Policy Optimization for LLM Agent Training*, arXiv 2505.10978.
An anchor of the paper is an observation that several rollouts of a task share. Equal observations
are not equal states: the page before and after an action may look the same. With `anchor = "state"`
steps are compared if the same actions led to them, which is exact in an environment whose episodes
are a function of task and actions. The sources of `grpo` and its departures apply too; a step with
an anchor of its own has the step advantage 0.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from eef.methods.advantages import (
    Scale,
    acts_of,
    anchor_advantages,
    discounted_returns,
    groups_of_round,
    select_acts,
    step_rewards,
)
from eef.methods.base import MethodOptions
from eef.methods.grpo import Grpo, GrpoOptions
from eef.methods.queries import actions_of
from eef.selection import Selection
from eef.trajectory import Trajectory, TrajectorySet


class GigpoOptions(GrpoOptions):
    """Options of `gigpo`."""

    scale: Scale = "one"
    """Divide advantages by the standard `deviation` of their group, or by `one`."""

    anchor: Literal["observation", "state"] = "observation"
    """Steps of a task's rollouts are compared if they follow the same `observation`, or if the same
    actions led to their `state`."""

    step_weight: float = Field(default=1.0, ge=0)
    """Weight of a step's advantage at its anchor, added to its rollout's advantage."""

    discount: float = Field(default=0.95, gt=0, le=1)
    """Discount per step of the returns that are compared at an anchor."""


@dataclass(frozen=True, slots=True)
class Gigpo(Grpo):
    """Group-in-group policy optimization.

    `plan`: that of `grpo`. `select`: the acts of this round; a step's advantage is its rollout's
    plus `step_weight` times (return − mean return of the steps with the same anchor).
    """

    options: GigpoOptions

    Options: ClassVar[type[MethodOptions]] = GigpoOptions

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        groups = groups_of_round(trajectories, tasks, round)
        rollouts = [item for group in groups.values() for item in group]
        steps = self._step_advantages(trajectories, rollouts)
        acts = []
        for name, group in groups.items():
            outcomes = self.advantages(group)
            for item in group:
                advantages = [
                    outcomes[item.id] + self.options.step_weight * steps[item.id, t]
                    for t in range(len(item.steps))
                ]
                acts.append(acts_of(item, name, advantages))
        return select_acts(acts, groups, trajectories, tasks, round)

    def _step_advantages(
        self, trajectories: TrajectorySet, rollouts: Sequence[Trajectory]
    ) -> dict[tuple[str, int], float]:
        anchors: dict[Hashable, list[tuple[str, int]]] = {}
        returns: dict[tuple[str, int], float] = {}
        for item in rollouts:
            actions = actions_of(trajectories, item.id)
            values = discounted_returns(step_rewards(item, self.options), self.options.discount)
            for t, step in enumerate(item.steps):
                before = actions[: item.first + t]
                anchor = step.observation if self.options.anchor == "observation" else before
                anchors.setdefault((item.task, anchor), []).append((item.id, t))
                returns[item.id, t] = values[t]
        return anchor_advantages(anchors, returns, self.options.scale)


METHOD = Gigpo
