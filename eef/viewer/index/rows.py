"""Rows of the index: rollouts, examples and tasks without their texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Phase = Literal["collect", "explore", "evaluate"]
Trained = Literal["examples", "pairs", "acts"]
Kind = Literal["rollouts", Trained]


@dataclass(frozen=True, slots=True)
class Row:
    """A rollout without its texts. `id` is its number in the index, `name` its id in the run.

    `steps` counts its own steps; `origin` and `t` are the state it starts from (None and 0 for the
    task's start). `round` is the round of its method: of the stage for an evaluation.
    """

    id: int
    name: str
    task: str
    method: str
    round: int
    phase: Phase
    role: str
    author: str
    status: str
    success: bool
    reward: float | None
    steps: int
    origin: str | None
    t: int
    error_kind: str | None
    replayable: bool

    @property
    def length(self) -> int:
        """Steps of the whole path."""
        return self.t + self.steps

    @property
    def outcome(self) -> Literal["won", "lost", "failed"]:
        if self.status == "error":
            return "failed"
        return "won" if self.success else "lost"


@dataclass(frozen=True, slots=True)
class ExampleRow:
    """A training example, a preference pair or the acts of a rollout, without its weights.

    `state` is the step that a solution starts from, or the first act with an advantage. `group`
    names the rollouts that acts are compared with, "" for examples and pairs.
    """

    id: int
    kind: Trained
    name: str
    task: str
    trajectory: str
    method: str
    round: int
    state: int
    group: str


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task with the numbers that the table of tasks is filtered and sorted by.

    `students` counts the students' rollouts that did not fail, of which `wins` won.
    `expert` is whether an expert won it (None: no expert played it). `rate` is the win rate of the
    students' rollouts, None without any. `recovery` counts the states that need recovery in the
    last explored round. `only_by` is the only method that won it, "" if there is none or several.
    """

    task: str
    position: int
    split: Literal["train", "test"]
    instruction: str
    rollouts: int
    students: int
    wins: int
    rate: float | None
    expert: bool | None
    expert_reward: float | None
    recovery: int
    errors: int
    overflows: int
    unverified: int
    never: bool
    newly: bool
    only_by: str


@dataclass(frozen=True, slots=True)
class Problem:
    """A line that could not be read."""

    file: str
    line: int
    message: str
