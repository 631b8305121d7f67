"""SFT-ALL: explore nothing, train on every episode of the experts, failures included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from eef.methods.base import Configured, Method, MethodOptions
from eef.methods.examples import select_episodes
from eef.methods.queries import distinct_by_actions, expert_episodes
from eef.selection import PlannedState, Selection
from eef.trajectory import Trajectory, TrajectorySet


class SftAllOptions(MethodOptions):
    """Options of `sft_all`; `bc_experts` applies to failures as well."""


@dataclass(frozen=True, slots=True)
class SftAll(Configured[SftAllOptions]):
    """Supervised fine-tuning on all expert data.

    `plan`: nothing. `select`: every episode of the experts, won or lost, each sequence of actions
    once.
    """

    Options: ClassVar[type[MethodOptions]] = SftAllOptions

    def plan(
        self, trajectories: TrajectorySet, tasks: Sequence[str], round: int
    ) -> list[PlannedState]:
        return []

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        def episodes(task: str) -> list[Trajectory]:
            found = expert_episodes(trajectories, task, self.options.bc_experts)
            return distinct_by_actions(trajectories, found)

        return select_episodes(self, trajectories, tasks, episodes)


METHOD: type[Method] = SftAll
