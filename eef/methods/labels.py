"""OutcomeGrid: what rollouts from an expert's states say about the expert's actions. Between explore and select.

From the states of one expert trajectory and the student's rollouts from each it is read whether the student
wins from there (`solvable`); a segment between two neighbouring states is named by how that changes along it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from eef.trajectory import Trajectory, TrajectorySet

Label = Literal["beneficial", "harmful", "neutral", "unknown"]
LabelRule = Literal["any", "majority"]


def evenly_spaced_states(length: int, count: int) -> tuple[int, ...]:
    """The states s_l, s_2l, …, s_Ml of a path of `length` steps; l = max(1, ⌊length / (M + 1)⌋), M = `count`.

    States at or behind the path's end are dropped; s_0 is not among them.

    >>> evenly_spaced_states(12, 5)
    (2, 4, 6, 8, 10)
    >>> evenly_spaced_states(4, 5)
    (1, 2, 3)
    """
    stride = max(1, length // (count + 1))
    return tuple(t for t in range(stride, stride * count + 1, stride) if t < length)


@dataclass(frozen=True, slots=True)
class Segment:
    """The expert's actions `start` … `end - 1`, its label, and by how much the win rate rises along it."""

    start: int
    end: int
    label: Label
    advantage: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeGrid:
    """What was measured along one expert trajectory; all tuples have an entry a state, s_0 first.

    `solvable[j]` is None where no rollout from state j came to an end: such a state is neither won nor lost, the
    segments that touch it are unknown, and it never counts as one that needs recovery.

    Worked example. An expert path of 12 steps, M = 5, one rollout a state:

        states     0     2     4     6     8    10
        ok        lose  win   lose  win   win   lose
        segments    benef. harmful benef. neutral harmful
        recovery: states 4 and 10, where the student loses after it would have won from the state before.
    """

    trajectory: str
    states: tuple[int, ...]
    rollouts: tuple[tuple[str, ...], ...]
    wins: tuple[int, ...]
    solvable: tuple[bool | None, ...]

    def segments(self) -> tuple[Segment, ...]:
        """The segments between neighbouring states; the steps behind the last state belong to none."""
        measured = list(zip(self.states, self.solvable, self.win_rates(), strict=True))
        return tuple(
            Segment(start, end, _label(before, after), rate_after - rate_before)
            for (start, before, rate_before), (end, after, rate_after) in pairwise(measured)
        )

    def segment_at(self, t: int) -> Segment | None:
        """The segment in which the expert's action `t` lies; None behind the last state."""
        return next(
            (segment for segment in self.segments() if segment.start <= t < segment.end), None
        )

    def recovery_states(self) -> tuple[int, ...]:
        """The states the student loses from, though it wins from the state before."""
        return tuple(
            state
            for (before, after), state in zip(pairwise(self.solvable), self.states[1:], strict=True)
            if before is True and after is False
        )

    def rollouts_between(self, first: int, last: int) -> tuple[str, ...]:
        """Ids of the rollouts from the states `first` … `last` and from the one before `first`."""
        before = max((state for state in self.states if state < first), default=first)
        between = zip(self.states, self.rollouts, strict=True)
        return tuple(name for state, names in between if before <= state <= last for name in names)

    def win_rates(self) -> list[float]:
        """Win rate of each state; 0 where nothing was measured (its segments are unknown)."""
        return [
            won / max(1, len(names)) for won, names in zip(self.wins, self.rollouts, strict=True)
        ]


def measure_grid(
    trajectories: TrajectorySet,
    expert: Trajectory,
    states: Sequence[int],
    *,
    rounds: Collection[int],
    rule: LabelRule,
) -> OutcomeGrid:
    """The grid of an expert trajectory from the student's rollouts of some rounds.

    `states` are the states behind s_0. Rollouts from the task's start count for s_0 of each of its expert
    trajectories; rollouts with status "error" say nothing and are left out.
    """
    grid = (0, *states)
    played = rollouts_from(trajectories, expert, rounds)
    per_state = [played.get(state, []) for state in grid]
    wins = tuple(sum(rollout.success for rollout in rollouts) for rollouts in per_state)
    return OutcomeGrid(
        trajectory=expert.id,
        states=grid,
        rollouts=tuple(tuple(rollout.id for rollout in rollouts) for rollouts in per_state),
        wins=wins,
        solvable=tuple(
            _is_solvable(won, len(rollouts), rule)
            for won, rollouts in zip(wins, per_state, strict=True)
        ),
    )


def rollouts_from(
    trajectories: TrajectorySet, expert: Trajectory, rounds: Collection[int]
) -> dict[int, list[Trajectory]]:
    """The student's rollouts of some rounds by the state along a trajectory from which they were played.

    The task's start (0) is always among the states; broken rollouts say nothing and are left out.
    """
    played: dict[int, list[Trajectory]] = {0: []}
    for rollout in sorted(trajectories.of_task(expert.task), key=lambda item: item.id):
        state = _state_in(rollout, expert)
        if (
            state is not None
            and rollout.by_student
            and rollout.status != "error"
            and rollout.round in rounds
        ):
            played.setdefault(state, []).append(rollout)
    return played


def count_wins(
    trajectories: TrajectorySet, expert: Trajectory, rounds: Collection[int]
) -> dict[int, tuple[int, int]]:
    """(wins, rollouts) of the student from every state along a trajectory that it played on from in some rounds."""
    played = rollouts_from(trajectories, expert, rounds)
    return {
        state: (sum(item.success for item in played[state]), len(played[state]))
        for state in sorted(played)
    }


def _state_in(rollout: Trajectory, expert: Trajectory) -> int | None:
    """The state of the expert's path a rollout started from; None where it started in another trajectory."""
    if rollout.start is None:
        return 0
    return rollout.start.t if rollout.start.trajectory == expert.id else None


def _is_solvable(wins: int, rollouts: int, rule: LabelRule) -> bool | None:
    if rollouts == 0:
        return None
    return wins > 0 if rule == "any" else 2 * wins >= rollouts


def _label(before: bool | None, after: bool | None) -> Label:
    if before is None or after is None:
        return "unknown"
    if before == after:
        return "neutral"
    return "beneficial" if after else "harmful"
