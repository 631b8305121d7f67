"""Small trajectories written by hand."""

from __future__ import annotations

from eef.trajectory import Author, StateRef, Step, Trajectory

EXPERT = Author("expert", "e")


def steps(*actions: str) -> tuple[Step, ...]:
    return tuple(
        Step(observation=f"before {a}", completion=f"Action: {a}", action=a) for a in actions
    )


def recorded(
    name: str, *actions: str, start: StateRef | None = None, author: Author = EXPERT
) -> Trajectory:
    return Trajectory(
        id=name,
        task="toy/1",
        author=author,
        steps=steps(*actions),
        final_observation=f"end of {name}",
        status="terminated",
        reward=0.0,
        success=False,
        start=start,
    )
