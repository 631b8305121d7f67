"""SFT-ALL: explore nothing, train on every episode of the experts, failures included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from eef.methods.base import Method, MethodOptions
from eef.methods.examples import make_selection, suffix_example
from eef.methods.queries import check_experts, distinct_by_actions, expert_episodes
from eef.selection import PlannedState, Selection
from eef.trajectory import TrajectorySet


class SftAllOptions(MethodOptions):
    """Options of `sft_all`; `bc_experts` applies to failures as well."""

    cut_failures: int = Field(default=0, ge=0)
    """Number of steps at the end of a failure that are not trained. This assumes, without any
    rollouts, that the last steps of an expert's failure are the wrong ones."""


@dataclass(frozen=True, slots=True)
class SftAll(Method[SftAllOptions]):
    """Supervised fine-tuning on all expert data.

    `plan`: nothing. `select`: every episode of the experts, won or lost, each sequence of actions
    once, failures without their last `cut_failures` steps.
    """

    Options: ClassVar[type[MethodOptions]] = SftAllOptions

    def plan(
        self, trajectories: TrajectorySet, tasks: Sequence[str], round: int
    ) -> list[PlannedState]:
        return []

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        check_experts(trajectories, self.options.bc_experts)
        examples = []
        for task in tasks:
            found = expert_episodes(trajectories, task, self.options.bc_experts)
            for item in distinct_by_actions(trajectories, found):
                cut = 0 if item.success else self.options.cut_failures
                if item.length > cut:
                    examples.append(suffix_example(item, 0, end=item.length - cut))
        return make_selection(self.name, examples, tasks)


METHOD = SftAll
