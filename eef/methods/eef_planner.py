"""EEF+planner: EEF with a planner's plan of the task in the student's prompt.

The planner of MPO is not trained here. With `used = "exploring"`, the plan only helps to find
solutions: the student is trained on them without it, and no other model is needed at test time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from eef.methods.base import Method, MethodOptions, Planned, RoleUse
from eef.methods.eef import Eef, EefOptions
from eef.methods.planning import PLANNER, evaluate_with_plans, plan_note, plan_of
from eef.selection import Selection
from eef.trajectory import TrajectorySet


class EefPlannerOptions(EefOptions):
    """Options of `eef+planner`: those of `eef`, and when the plan is used."""

    used: Literal["always", "exploring"] = "always"
    """Whether the plan is in the student's prompt `always` (in exploration, training and
    evaluation), or only while it is `exploring`."""


@dataclass(frozen=True, slots=True)
class EefPlanner(Eef):
    """Exploring Expert Failures, with plans.

    `plan`: a note of the planner about each task, once; then the states of `eef`, with the plan in
    the prompt. A task whose plan is unusable is explored without one. `select`: the examples of
    `eef`, with the task's plan in the prompt of each.
    """

    options: EefPlannerOptions

    Options: ClassVar[type[MethodOptions]] = EefPlannerOptions

    @property
    def roles(self) -> Mapping[str, RoleUse]:
        return {PLANNER: RoleUse(at_test=self.options.used == "always")}

    def plan(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> list[Planned]:
        notes = trajectories.notes
        plan: list[Planned] = [
            plan_note(task) for task in tasks if not notes.about(PLANNER, task, range(round))
        ]
        for state in self.planned_states(trajectories, tasks, round):
            plan.append(replace(state, prompt_suffix=plan_of(trajectories, state.task)))
        return plan

    def plan_evaluation(
        self, trajectories: TrajectorySet, tasks: Sequence[str]
    ) -> Sequence[Planned]:
        if self.options.used == "exploring":
            return Method.plan_evaluation(self, trajectories, tasks)
        return evaluate_with_plans(trajectories, tasks)

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        selection = Eef.select(self, trajectories, tasks, round)
        if self.options.used == "exploring":
            return selection
        examples = (
            replace(example, prompt_suffix=plan_of(trajectories, example.task))
            for example in selection.examples
        )
        return replace(selection, examples=tuple(examples))


METHOD = EefPlanner
