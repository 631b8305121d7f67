"""EEF+GRPO: groups that start at tasks and at states inside the experts' failures.

The states of an expert's failure are a curriculum: after its first steps, a task is nearer to its
end, so a group from there may hold wins and losses when a group from the start holds only losses.
Optionally, the first rounds explore like `eef`, and the student is trained on what `eef` selects
from them before the groups begin.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from eef.methods.advantages import (
    GroupOptions,
    group_acts,
    groups_of_round,
    outcome_advantages,
    select_acts,
    tasks_of_round,
)
from eef.methods.base import MethodOptions
from eef.methods.eef import Eef, EefOptions, check_failures_replayable
from eef.methods.labels import count_wins
from eef.methods.state_choice import StateChoice, choose_states
from eef.selection import PlannedState, Selection
from eef.trajectory import StateRef, TrajectorySet

_OF_EEF_ROUNDS = (
    "M", "rollouts_per_state", "state_choice", "label_rule", "expert_actions", "recovery", "grid",
    "accumulate", "solution", "examples", "neutral", "weights",
)  # fmt: skip
"""Options of `eef` that only its rounds use."""


class EefGrpoOptions(GroupOptions, EefOptions):
    """Options of `eef+grpo`: those of `grpo`, and those of `eef` for the rounds that explore like
    it."""

    group_states: int = Field(default=1, ge=0)
    """Number of states that groups start from, besides the task's start, inside each trajectory
    that `eef` would branch from (by default the experts' failures)."""

    group_state_choice: StateChoice = "random"
    """How these states are chosen; see `state_choice`."""

    eef_rounds: int = Field(default=0, ge=0)
    """Number of rounds that explore like `eef` before groups are played. The student is trained on
    what they select only after the last of them."""

    grid: Literal["round", "all"] = "all"
    """Label the expert's actions by the rollouts of this `round`, or of `all` rounds so far."""

    @model_validator(mode="after")
    def _options_of_eef_have_effect(self) -> EefGrpoOptions:
        for name in _OF_EEF_ROUNDS:
            default = type(self).model_fields[name].default
            if not self.eef_rounds and getattr(self, name) != default:
                raise ValueError(
                    f"`{name}` has no effect without `eef_rounds`; groups start as "
                    "`group_states` and `group_state_choice` say"
                )
        return self


@dataclass(frozen=True, slots=True)
class EefGrpo(Eef):
    """Group relative policy optimization from the states of the experts' failures.

    `plan`: groups from the start of each of the round's tasks, and from states of its failed expert
    trajectories. `select`: the acts of this round, each compared with the rollouts from its state.
    With `eef_rounds`, both are those of `eef` in these rounds, for the round's tasks.
    """

    options: EefGrpoOptions

    Options: ClassVar[type[MethodOptions]] = EefGrpoOptions

    @property
    def acts(self) -> bool:
        return True

    @property
    def branches(self) -> bool:
        like_eef = self.options.eef_rounds > 0 and self.options.M > 0
        return self.options.group_states > 0 or like_eef

    def plan(
        self, trajectories: TrajectorySet, tasks: Sequence[str], round: int
    ) -> list[PlannedState]:
        chosen = tasks_of_round(tasks, round, self.options.tasks_per_round)
        if round <= self.options.eef_rounds:
            return self.planned_states(trajectories, chosen, round)
        if self.options.group_states and self.options.branch_from == "expert":
            check_failures_replayable(trajectories, self.options.experts)
        size = self.options.group_size
        plan = []
        for task in chosen:
            plan.append(PlannedState(task, None, size))
            for origin in self._branched(trajectories, task, round):
                measured = count_wins(trajectories, origin, range(1, round))
                states = choose_states(
                    self.options.group_state_choice,
                    origin.length,
                    self.options.group_states,
                    measured,
                    f"{origin.id} in round {round}",
                )
                plan += [PlannedState(task, StateRef(origin.id, t), size) for t in states]
        return plan

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        if round == self.options.eef_rounds:
            return Eef.select(self, trajectories, tasks, round)
        groups = groups_of_round(trajectories, tasks, round)
        if round < self.options.eef_rounds:
            return select_acts([], groups, trajectories, tasks, round)
        acts = group_acts(groups, lambda group: outcome_advantages(group, self.options))
        return select_acts(acts, groups, trajectories, tasks, round)


METHOD = EefGrpo
