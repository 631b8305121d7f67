"""NAT: train on wins and failures alike, each told in the prompt how it ends; act as one that is told it wins.

Source: Wang et al., *Learning From Failure: Integrating Negative Examples when Fine-tuning Large Language Models as
Agents*, arXiv 2402.11651. Its control asks whether the words matter, or only that the two kinds can be told apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from eef.methods.base import Configured, MethodOptions
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
    """Options of `nat`; `bc_experts` are the experts whose episodes are trained on."""

    tags: Literal["outcome", "meaningless"] = "outcome"
    """What the prompt tells of an episode: how it ends in words, or (the control) a tag that means nothing."""

    k: int = Field(default=0, ge=0)
    """Rollouts from each task's start a round, trained on like the experts' episodes; none as published."""


@dataclass(frozen=True, slots=True)
class Nat(Configured[NatOptions]):
    """Every episode of the experts (and, with k, of the student), each sequence of actions once."""

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
