"""EEF+DPO: EEF, and pairs from its grid: the student's win from a state before the expert's harmful actions from it.

The rollouts which label a segment harmful are the pair, so no further ones are played.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from eef.methods.eef import Eef
from eef.methods.examples import make_pair, make_selection, suffix_example
from eef.methods.labels import OutcomeGrid, Segment
from eef.methods.queries import least_expert_first
from eef.selection import PreferencePair, Selection
from eef.trajectory import TrajectorySet


@dataclass(frozen=True, slots=True)
class EefDpo(Eef):
    """The examples of `eef` (and its options), then its same-state pairs, one for each harmful segment."""

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        plain = Eef.select(self, trajectories, tasks, round)
        pairs = [
            _pair(trajectories, grid, segment)
            for task in tasks
            for grid in self.grids(trajectories, task, round).values()
            for segment in _harmful(grid)
        ]
        return make_selection(self.name, plain.examples, tasks, _own_counts(plain), pairs)


def _harmful(grid: OutcomeGrid) -> Iterator[Segment]:
    return (segment for segment in grid.segments() if segment.label == "harmful")


def _pair(trajectories: TrajectorySet, grid: OutcomeGrid, segment: Segment) -> PreferencePair:
    """The win with least steps from the segment's first state, and the segment."""
    names = grid.rollouts[grid.states.index(segment.start)]
    win = min(
        (trajectories[name] for name in names if trajectories[name].success), key=least_expert_first
    )
    harm = suffix_example(
        trajectories[grid.trajectory], segment.start, end=segment.end, reason="harmful"
    )
    return make_pair(suffix_example(win, segment.start), harm)


def _own_counts(selection: Selection) -> dict[str, int]:
    """What `eef` itself counted; `make_selection` counts the rest anew."""
    return {
        name: count
        for name, count in selection.counts.items()
        if name.startswith(("segments.", "states."))
    }
