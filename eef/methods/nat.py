"""NAT: train on wins and failures, with the outcome of each stated in the prompt.

When the student acts, it gets the prompt of a win. Source: Wang et al., *Learning From Failure:
Integrating Negative Examples when Fine-tuning Large Language Models as Agents*, arXiv 2402.11651.
The paper's control (`tags = "meaningless"`) tests whether the words matter, or only that wins and
failures can be distinguished.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from eef.methods.base import Method, MethodOptions
from eef.methods.examples import make_selection, path_example
from eef.methods.queries import (
    check_experts,
    distinct_by_actions,
    expert_episodes,
    student_episodes,
)
from eef.selection import PlannedState, Selection
from eef.trajectory import TrajectorySet

PROMPT_SUFFIXES = {  # (of a win, of a failure)
    "outcome": ("This episode succeeds.", "This episode fails."),
    "meaningless": ("Tag A.", "Tag B."),
}


class NatOptions(MethodOptions):
    """Options of `nat`; `bc_experts` applies to failures as well."""

    tags: Literal["outcome", "meaningless"] = "outcome"
    """Sentence appended to the prompt of an episode: its `outcome` in words, or (the control) a
    `meaningless` tag."""

    k: int = Field(default=0, ge=0)
    """Rollouts from each task's start per round, trained on like the experts' episodes. The paper
    uses none."""


@dataclass(frozen=True, slots=True)
class Nat(Method[NatOptions]):
    """Negative-aware training.

    `plan`: k rollouts from every task's start. `select`: every episode of the experts and of the
    student, each sequence of actions once, with a prompt suffix that depends on its outcome.
    """

    Options: ClassVar[type[MethodOptions]] = NatOptions

    @property
    def prompt_suffix(self) -> str:
        return PROMPT_SUFFIXES[self.options.tags][0]

    def plan(
        self, trajectories: TrajectorySet, tasks: Sequence[str], round: int
    ) -> list[PlannedState]:
        return [PlannedState(task, None, self.options.k) for task in tasks if self.options.k]

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        check_experts(trajectories, self.options.bc_experts)
        of_win, of_failure = PROMPT_SUFFIXES[self.options.tags]
        examples = []
        for task in tasks:
            episodes = student_episodes(trajectories, task, range(round + 1))
            episodes += expert_episodes(trajectories, task, self.options.bc_experts)
            examples += [
                path_example(item, of_win if item.success else of_failure)
                for item in distinct_by_actions(trajectories, episodes)
            ]
        return make_selection(self.name, examples, tasks)


METHOD = Nat
