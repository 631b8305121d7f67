"""OutcomeGrid: labels of an expert's actions, from the student's rollouts.

For each state of an expert trajectory, the student's rollouts from it show whether the student can
win from there (`solvable`). The segment between two neighboring states is labeled by how that
changes: beneficial (lose → win), harmful (win → lose), neutral, or unknown.

Source: Exploring Expert Failures, arXiv 2504.13145.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from eef.trajectory import Trajectory, TrajectorySet

Label = Literal["beneficial", "harmful", "neutral", "unknown"]
LabelRule = Literal["any", "majority"]
GridRule = Literal["any", "majority", "smoothed"]

NEIGHBOR, EARLIER = 0.5, 0.5
"""Weight of a rollout from a neighboring state of the grid, and of the previous round, in a
"smoothed" grid; both fall geometrically."""


def evenly_spaced_states(length: int, count: int) -> tuple[int, ...]:
    """The states s_l, s_2l, …, s_Ml of a path of `length` steps, where M = `count`.

    l = max(1, ⌊length / (M + 1)⌋). s_0 is not among them; states at or after the path's end are
    dropped.

    >>> evenly_spaced_states(12, 5)
    (2, 4, 6, 8, 10)
    >>> evenly_spaced_states(4, 5)
    (1, 2, 3)
    """
    stride = max(1, length // (count + 1))
    return tuple(t for t in range(stride, stride * count + 1, stride) if t < length)


@dataclass(frozen=True, slots=True)
class Segment:
    """The expert's actions `start` … `end - 1`, and their label.

    `advantage` is the win rate at `end` minus the win rate at `start`.
    """

    start: int
    end: int
    label: Label
    advantage: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeGrid:
    """Outcomes of the student's rollouts from the states of one expert trajectory.

    All tuples have one entry per state, s_0 first. `rollouts[j]` are the ids of the rollouts from
    state j that ended without an error, and `wins[j]` is the number of those that won.
    `solvable[j]` is None if there are none: the segments that touch such a state are unknown, and
    it is not a recovery state.

    Worked example. An expert path of 12 steps, M = 5, one rollout per state:

        states     0      2      4      6      8      10
        solvable   lose   win    lose   win    win    lose
        segments   beneficial, harmful, beneficial, neutral, harmful

    The recovery states are 4 and 10: the student loses from them, although it wins from the state
    before.
    """

    trajectory: str
    states: tuple[int, ...]
    rollouts: tuple[tuple[str, ...], ...]
    wins: tuple[int, ...]
    solvable: tuple[bool | None, ...]

    def segments(self) -> tuple[Segment, ...]:
        """The segments between neighboring states. Steps after the last state belong to none."""
        measured = list(zip(self.states, self.solvable, self.win_rates(), strict=True))
        return tuple(
            Segment(start, end, _label(before, after), rate_after - rate_before)
            for (start, before, rate_before), (end, after, rate_after) in pairwise(measured)
        )

    def segment_at(self, t: int) -> Segment | None:
        """The segment of the expert's action `t`; None after the last state."""
        return next(
            (segment for segment in self.segments() if segment.start <= t < segment.end), None
        )

    def labels(self) -> dict[int, Label]:
        """The label of each of the expert's actions; those after the last state have none."""
        return {
            t: segment.label
            for segment in self.segments()
            for t in range(segment.start, segment.end)
        }

    def recovery_states(self) -> tuple[int, ...]:
        """The states the student loses from, although it wins from the state before."""
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
        """The win rate of each state; 0 for a state without rollouts (its segments are unknown)."""
        return [
            won / max(1, len(names)) for won, names in zip(self.wins, self.rollouts, strict=True)
        ]


def measure_grid(
    trajectories: TrajectorySet,
    origin: Trajectory,
    states: Sequence[int],
    *,
    rounds: Collection[int],
    rule: GridRule,
) -> OutcomeGrid:
    """The grid of a trajectory, from the student's rollouts of some rounds.

    `states` are the states after s_0. Rollouts from the task's start count for s_0 of every
    trajectory of the task. A state is solvable if `any` of its rollouts wins, if the `majority`
    does (half suffices), or if its `smoothed` win rate is at least 0.5 (see `smoothed_rates`).
    """
    grid = (0, *states)
    rollouts = rollouts_from(trajectories, origin, rounds)
    by_state = [rollouts.get(state, []) for state in grid]
    wins = tuple(sum(rollout.success for rollout in each) for each in by_state)
    if rule == "smoothed":
        rates = smoothed_rates(by_state)
        solvable = tuple(
            rate >= 0.5 if each else None for rate, each in zip(rates, by_state, strict=True)
        )
    else:
        solvable = tuple(
            _is_solvable(won, len(each), rule) for won, each in zip(wins, by_state, strict=True)
        )
    return OutcomeGrid(
        trajectory=origin.id,
        states=grid,
        rollouts=tuple(tuple(rollout.id for rollout in each) for each in by_state),
        wins=wins,
        solvable=solvable,
    )


def smoothed_rates(by_state: Sequence[Sequence[Trajectory]]) -> list[float]:
    """The win rate of each state of a grid, estimated from its neighbors and earlier rounds too.

    The mean of a beta distribution: Jeffreys' prior, and every rollout of the grid with weight
    `NEIGHBOR` to the power of its distance in states, times `EARLIER` to the power of its age in
    rounds (counted from the grid's latest).

    Worked example. One rollout from each of three states, all in one round: lose, win, lose. The
    middle state has one win of weight 1 and two losses of weight 0.5: (0.5 + 1) / (1 + 2) = 0.5.
    The first has a loss of 1, a win of 0.5 and a loss of 0.25: (0.5 + 0.5) / (1 + 1.75) = 0.36.
    """
    latest = max((rollout.round for each in by_state for rollout in each), default=0)
    totals = []
    for each in by_state:
        weights = [EARLIER ** (latest - rollout.round) for rollout in each]
        won = sum(weight for weight, rollout in zip(weights, each, strict=True) if rollout.success)
        totals.append((won, sum(weights)))
    rates = []
    for state in range(len(by_state)):
        near = [NEIGHBOR ** abs(state - other) for other in range(len(by_state))]
        wins = sum(weight * won for weight, (won, _) in zip(near, totals, strict=True))
        played = sum(weight * total for weight, (_, total) in zip(near, totals, strict=True))
        rates.append((0.5 + wins) / (1 + played))
    return rates


def rollouts_from(
    trajectories: TrajectorySet, origin: Trajectory, rounds: Collection[int]
) -> dict[int, list[Trajectory]]:
    """The student's rollouts of some rounds, by the state of a trajectory they started from.

    The task's start (0) is always a key. Failed rollouts are excluded.
    """
    by_state: dict[int, list[Trajectory]] = {0: []}
    for rollout in sorted(trajectories.of_task(origin.task), key=lambda item: item.id):
        state = _start_in(rollout, origin)
        if (
            state is not None
            and rollout.by_student
            and rollout.status != "error"
            and rollout.round in rounds
        ):
            by_state.setdefault(state, []).append(rollout)
    return by_state


def count_wins(
    trajectories: TrajectorySet, origin: Trajectory, rounds: Collection[int]
) -> dict[int, tuple[int, int]]:
    """(wins, rollouts) of the student in some rounds, by the state of a trajectory."""
    by_state = rollouts_from(trajectories, origin, rounds)
    return {
        state: (sum(item.success for item in by_state[state]), len(by_state[state]))
        for state in sorted(by_state)
    }


def _start_in(rollout: Trajectory, origin: Trajectory) -> int | None:
    """The state of the origin's path that a rollout started from; None for another trajectory's."""
    if rollout.start is None:
        return 0
    return rollout.start.t if rollout.start.trajectory == origin.id else None


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


def step_advantages(measured: dict[int, tuple[int, int]], length: int) -> list[float]:
    """The rise of the win rate along each step of a win of `length` steps.

    `measured` maps states to (wins, rollouts). The rise between two measured states is divided
    evenly among the steps between them. The end counts as won. Steps before the first measured
    state have advantage 0.

    Worked example: win rates 0 at the start and 0.5 at state 2, and 4 steps.

    >>> step_advantages({0: (0, 2), 2: (1, 2)}, 4)
    [0.25, 0.25, 0.25, 0.25]
    """
    rates = {
        t: wins / rollouts for t, (wins, rollouts) in measured.items() if rollouts and t < length
    } | {length: 1.0}
    advantages = [0.0] * length
    for start, end in pairwise(sorted(rates)):
        for t in range(start, end):
            advantages[t] = (rates[end] - rates[start]) / (end - start)
    return advantages
