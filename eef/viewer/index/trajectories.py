"""Trajectories of rows, without their texts: enough to measure grids."""

from __future__ import annotations

from collections.abc import Iterable

from eef.errors import StoreError
from eef.trajectory import Author, StateRef, Step, Trajectory, TrajectorySet
from eef.viewer.index.rows import Row

_PLACEHOLDER = Step(observation="", completion="", action="")


def light_set(rows: Iterable[Row]) -> TrajectorySet:
    """Trajectories with empty steps, enough to measure grids. Those without their origin are
    skipped."""
    trajectories = TrajectorySet()
    for row in rows:
        add_if_possible(
            trajectories,
            Trajectory(
                id=row.name,
                task=row.task,
                author=Author("expert" if row.role == "expert" else "student", row.author),
                steps=(_PLACEHOLDER,) * row.steps,
                final_observation="",
                status=row.status,  # type: ignore[arg-type]
                reward=row.reward,
                success=row.success,
                start=StateRef(row.origin, row.t) if row.origin is not None else None,
                round=row.round,
                replayable=row.replayable,
            ),
        )
    return trajectories


def add_if_possible(trajectories: TrajectorySet, item: Trajectory) -> str:
    """Add a trajectory unless its origin is missing or its id is taken; returns the problem."""
    try:
        trajectories.add(item)
    except StoreError as error:
        return error.message
    return ""
