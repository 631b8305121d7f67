"""EEF+DPO: the examples of EEF, and preference pairs from its grids.

In a harmful segment, the student wins from the first state and loses from the last. The rollouts
that show this also provide the pair, so it needs no further exploration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eef.methods.eef import Eef, label_counts
from eef.methods.examples import make_pair, make_selection, suffix_example
from eef.methods.labels import OutcomeGrid, Segment
from eef.methods.queries import least_expert_first
from eef.selection import PreferencePair, Selection
from eef.trajectory import TrajectorySet


@dataclass(frozen=True, slots=True)
class EefDpo(Eef):
    """Exploring Expert Failures, with preference pairs.

    `plan`: that of `eef`. `select`: the examples of `eef`, and one pair for each harmful segment:
    the student's shortest win from the segment's first state (chosen), and the expert's actions of
    the segment (rejected). A state that only its neighbors make solvable (`label_rule =
    "smoothed"`) has no win of its own, and its segment no pair.
    """

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        selection = Eef.select(self, trajectories, tasks, round)
        found = (
            _pair(trajectories, grid, segment)
            for task in tasks
            for grid in self.grids(trajectories, task, round).values()
            for segment in grid.segments()
            if segment.label == "harmful"
        )
        pairs = [pair for pair in found if pair is not None]
        counts = label_counts(selection)
        return make_selection(self.name, selection.examples, tasks, counts, pairs)


def _pair(
    trajectories: TrajectorySet, grid: OutcomeGrid, segment: Segment
) -> PreferencePair | None:
    rollouts = [trajectories[name] for name in grid.rollouts[grid.states.index(segment.start)]]
    win = min((item for item in rollouts if item.success), key=least_expert_first, default=None)
    if win is None:
        return None
    harm = suffix_example(
        trajectories[grid.trajectory], segment.start, end=segment.end, reason="harmful"
    )
    return make_pair(suffix_example(win, segment.start), harm)


METHOD = EefDpo
