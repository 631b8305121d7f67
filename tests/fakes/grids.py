"""Expert trajectories and rollouts from their states: by hand, and at random for property tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from hypothesis import strategies as st

from eef.trajectory import Author, StateRef, Status, Step, Trajectory, TrajectorySet

TASK = "toy/1"
OUTCOMES = ("win", "lose", "error")


def steps(actions: Sequence[str]) -> tuple[Step, ...]:
    return tuple(
        Step(observation="o", completion=f"Action: {name}", action=name) for name in actions
    )


def expert(
    name: str = "e",
    *,
    actions: Sequence[str] = "abcdefghijkl",
    win: bool = False,
    task: str = TASK,
    by: str = "strong",
    status: Status = "terminated",
) -> Trajectory:
    return Trajectory(
        id=name,
        task=task,
        author=Author("expert", f"{by}"),
        steps=steps(actions),
        final_observation="end",
        status=status,
        reward=None if status == "error" else float(win),
        success=win and status != "error",
    )


def rollout(
    name: str,
    start: StateRef | None,
    outcome: str,
    *,
    actions: Sequence[str] = "xy",
    round: int = 1,
    task: str = TASK,
) -> Trajectory:
    """A student's rollout; `outcome` is "win", "lose" or "error"."""
    return Trajectory(
        id=name,
        task=task,
        author=Author("student", f"eef@round{round}"),
        steps=steps(actions),
        final_observation="end",
        status="error" if outcome == "error" else "terminated",
        reward=None if outcome == "error" else float(outcome == "win"),
        success=outcome == "win",
        start=start,
        round=round,
    )


def played(
    states: Sequence[int], outcomes: Sequence[str], *, origin: str = "e", round: int = 1
) -> list[Trajectory]:
    """One rollout from each state of an expert trajectory, with its outcome ("-" is not played)."""
    return [
        rollout(f"{origin}@{t}:{round}", StateRef(origin, t) if t else None, outcome, round=round)
        for t, outcome in zip(states, outcomes, strict=True)
        if outcome != "-"
    ]


class World(NamedTuple):
    """The trajectories of some rounds: the experts', then the student's."""

    experts: list[Trajectory]
    rollouts: list[Trajectory]
    tasks: list[str]
    round: int

    @property
    def trajectories(self) -> TrajectorySet:
        return TrajectorySet([*self.experts, *self.rollouts])


@st.composite
def worlds(draw: st.DrawFn, *, outcomes: Sequence[str] = OUTCOMES, inside: bool = True) -> World:
    """Few actions and states, so that experts share prefixes and solutions are found twice.

    `outcomes` are those an expert may have; rollouts start in experts' states too unless `inside`
    is False.
    """
    tasks = [f"toy/{number}" for number in range(draw(st.integers(1, 3)))]
    experts, rollouts = [], []
    rounds = draw(st.integers(1, 2))
    for task in tasks:
        own = [draw(_experts(task, number, outcomes)) for number in range(draw(st.integers(0, 2)))]
        states = (
            [StateRef(item.id, t) for item in own for t in range(item.length)] if inside else []
        )
        experts += own
        count = draw(st.integers(0, 12))
        rollouts += [
            draw(_rollouts(task, number, [None, *states], rounds)) for number in range(count)
        ]
    return World(experts, rollouts, tasks, rounds)


@st.composite
def _experts(draw: st.DrawFn, task: str, number: int, outcomes: Sequence[str]) -> Trajectory:
    outcome = draw(st.sampled_from(outcomes))
    return expert(
        f"{task}:e{number}",
        actions=draw(st.text("ab", min_size=1, max_size=9)),
        win=outcome == "win",
        task=task,
        by=f"by{number}",
        status="error" if outcome == "error" else "truncated",
    )


@st.composite
def _rollouts(
    draw: st.DrawFn, task: str, number: int, places: Sequence[StateRef | None], rounds: int
) -> Trajectory:
    return rollout(
        f"{task}:r{number}",
        draw(st.sampled_from(places)),
        draw(st.sampled_from(OUTCOMES)),
        actions=draw(st.text("ab", min_size=1, max_size=3)),
        round=draw(st.integers(1, rounds)),
        task=task,
    )
