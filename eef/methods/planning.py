"""The planner: a role that writes a plan for a task, which the agent has in its prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence

from eef.methods.base import Planned
from eef.note import Note
from eef.selection import PlannedNote, PlannedState
from eef.trajectory import TrajectorySet

PLANNER = "planner"
FORM = (
    "Write one line for each step, of the form `Step 1: …`, and nothing else. Do not name what "
    "holds for this task alone, such as where things are."
)
PLAN = f"Write a short, abstract plan that guides an agent through this task. {FORM}"
SUFFIX = "This plan may be helpful:\n{plan}"

_FIRST_STEP = re.compile(r"^\W*step 1\W", re.I | re.M)


def check_plan(text: str) -> None:
    """ValueError if a text is not a plan."""
    if not _FIRST_STEP.search(text):
        raise ValueError("it holds no line `Step 1: …`")


def plan_note(task: str, plans: int = 1) -> PlannedNote:
    """Notes of the planner about a task."""
    return PlannedNote(PLANNER, task, task, PLAN, plans, check_plan)


def plan_suffix(note: Note) -> str:
    """The prompt suffix of an agent that has a plan."""
    return SUFFIX.format(plan=note.text)


def plan_of(trajectories: TrajectorySet, task: str) -> str:
    """The prompt suffix of a task's first usable plan; "" if there is none."""
    notes = trajectories.notes.usable(PLANNER, task)
    return plan_suffix(notes[0]) if notes else ""


def evaluate_with_plans(trajectories: TrajectorySet, tasks: Sequence[str]) -> list[Planned]:
    """A plan for each task, then a rollout with it in the prompt, or without one if it has none."""
    plans: list[Planned] = [plan_note(task) for task in tasks]
    return plans + [PlannedState(task, None, 1, plan_of(trajectories, task)) for task in tasks]
