"""SFT-ALL: explore nothing, train on all that the experts did, the failures like the wins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from eef.methods.base import Configured, MethodOptions
from eef.methods.examples import select_episodes
from eef.methods.queries import distinct_by_actions, expert_episodes
from eef.selection import PlannedState, Selection
from eef.trajectory import Trajectory, TrajectorySet


class SftAllOptions(MethodOptions):
    """Options of `sft_all`; `bc_experts` are the experts whose failures are trained on too."""


@dataclass(frozen=True, slots=True)
class SftAll(Configured[SftAllOptions]):
    """Every episode of the experts, each sequence of actions once."""

    Options: ClassVar[type[MethodOptions]] = SftAllOptions

    def plan(
        self, trajectories: TrajectorySet, tasks: Sequence[str], round: int
    ) -> list[PlannedState]:
        return []

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        def played(task: str) -> list[Trajectory]:
            return distinct_by_actions(
                trajectories, expert_episodes(trajectories, task, self.options.bc_experts)
            )

        return select_episodes(self, trajectories, tasks, played)
