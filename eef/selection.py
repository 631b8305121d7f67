"""PlannedState, TrainingExample, Selection: what a method has played, and what it then trains on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from eef.errors import StoreError
from eef.trajectory import StateRef

RECORD_VERSION = 1


@dataclass(frozen=True, slots=True)
class PlannedState:
    """`count` rollouts of a task which the method wants from `state`; None is the task's start."""

    task: str
    state: StateRef | None
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingExample:
    """The whole path of one trajectory from the task's start, with a loss weight and a reason for each of its steps.

    `weights[t]` 0 = visible as context, never trained. `reasons[t]` is why: `context`, `expert-win`, `student-win`,
    `beneficial` (an expert action which leads from the important state to one the student wins from), `neutral`,
    `harmful`, … `state` is the important state the solution starts from (its t), `evidence` the ids of the rollouts
    which prove the labels.

    Worked example (the recovery state 4 of the example in `eef.labels`): the student's win from state 6 took two
    steps; the example is that branch's path of 8 steps with weights (0, 0, 0, 0, 1, 1, 1, 1) and reasons
    (context ×4, beneficial ×2, student-win ×2).
    """

    id: str
    task: str
    trajectory: str
    state: int
    weights: tuple[float, ...]
    reasons: tuple[str, ...]
    evidence: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.reasons):
            raise StoreError(f"example {self.id!r}: {len(self.weights)} weights, {len(self.reasons)} reasons")

    def to_record(self) -> dict[str, Any]:
        return {"version": RECORD_VERSION, **asdict(self)}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> TrainingExample:
        fields = dict(record)
        version = fields.pop("version", None)
        if version != RECORD_VERSION:
            raise StoreError(f"example record has version {version!r}, this `eef` reads {RECORD_VERSION}")
        for name in ("weights", "reasons", "evidence"):
            fields[name] = tuple(fields[name])
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Selection:
    """What a method trains on in a round, and how many of what it met on the way there (for the report)."""

    examples: tuple[TrainingExample, ...]
    counts: dict[str, int]
