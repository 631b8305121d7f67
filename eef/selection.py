"""PlannedState, TrainingExample, PreferencePair, Selection: what a method has played, and what it then trains on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from eef.errors import StoreError
from eef.trajectory import StateRef

RECORD_VERSION = 2


def _told_nothing(record: dict[str, Any]) -> dict[str, Any]:
    """1 → 2: an example may be told something (`prompt_suffix`)."""
    return {"prompt_suffix": "", **record}


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _told_nothing}
"""`MIGRATIONS[v]` makes version v + 1 of an example's record out of version v."""


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
    which prove the labels. `prompt_suffix` is what the prompt says beside the environment's own (`eef.chat`): how the episode
    ends, for methods that train on failures too.

    Worked example (the recovery state 4 of the example in `eef.methods.labels`): the student's win from state 6 took two
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
    prompt_suffix: str = ""

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.reasons):
            raise StoreError(
                f"example {self.id!r}: {len(self.weights)} weights, {len(self.reasons)} reasons"
            )

    def to_record(self) -> dict[str, Any]:
        return {"version": RECORD_VERSION, **asdict(self)}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> TrainingExample:
        fields = dict(record)
        version = fields.pop("version", None)
        if version != RECORD_VERSION and version not in MIGRATIONS:
            raise StoreError(
                f"example record has version {version!r}, this `eef` reads 1 to {RECORD_VERSION}"
            )
        for older in range(version, RECORD_VERSION):
            fields = MIGRATIONS[older](fields)
        for name in ("weights", "reasons", "evidence"):
            fields[name] = tuple(fields[name])
        return cls(**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferencePair:
    """Two ways to go on from one state, of which `chosen` is the better: for preference training (`eef.preference`).

    Both are whole paths from the task's start. Their weights are 0 up to the state and on what is not compared; a
    way's log-probability is the weighted sum over the rest.

    Worked example (the expert's harmful segment (2, 4) of the example in `eef.methods.labels`): `chosen` is the student's win
    from state 2 with weights (0, 0, 1, 1), `rejected` the expert's path with weights (0, 0, 1, 1, 0, …, 0).
    """

    id: str
    task: str
    chosen: TrainingExample
    rejected: TrainingExample

    def __post_init__(self) -> None:
        if {self.chosen.task, self.rejected.task} != {self.task}:
            raise StoreError(f"pair {self.id!r} compares paths of other tasks than its own")

    def to_record(self) -> dict[str, Any]:
        return {
            "version": RECORD_VERSION,
            "id": self.id,
            "task": self.task,
            "chosen": self.chosen.to_record(),
            "rejected": self.rejected.to_record(),
        }

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> PreferencePair:
        return cls(
            id=record["id"],
            task=record["task"],
            chosen=TrainingExample.from_record(record["chosen"]),
            rejected=TrainingExample.from_record(record["rejected"]),
        )


@dataclass(frozen=True, slots=True)
class Selection:
    """What a method trains on in a round, and how many of what it met on the way there (for the report).

    Examples are imitated; pairs, where a method has such, are trained on after them.
    """

    examples: tuple[TrainingExample, ...]
    counts: dict[str, int]
    pairs: tuple[PreferencePair, ...] = ()
