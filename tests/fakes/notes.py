"""Notes by hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from eef.note import Note, NoteSet, RoleUsage
from eef.selection import PlannedNote
from eef.trajectory import Trajectory, TrajectorySet


def note(role: str, about: str, text: str, number: int = 0, **fields: Any) -> Note:
    """A usable note of round 1."""
    settings = {"round": 1, "task": about, "instruction": "Do it.", "question": "Q?", **fields}
    return Note(
        id=f"m/round{settings['round']}/{role}/{about}#{number}",
        role=role,
        author="fake",
        about=about,
        text=text,
        usage=RoleUsage(role=role, completions=1),
        **settings,
    )


def stored(trajectories: Iterable[Trajectory], *notes: Note) -> TrajectorySet:
    return TrajectorySet(trajectories, NoteSet(notes))


def notes_in(plan: Iterable[Any]) -> list[PlannedNote]:
    return [item for item in plan if isinstance(item, PlannedNote)]


def states_in(plan: Iterable[Any]) -> list[Any]:
    return [item for item in plan if not isinstance(item, PlannedNote)]
