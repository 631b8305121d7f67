"""PlannedState, PlannedNote, TrainingExample, PreferencePair, Acts, TextExample, TextPair,
Selection: the outputs of a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from eef.errors import StoreError
from eef.note import Shown
from eef.trajectory import StateRef
from eef.utils.records import Json, Migration, Record


@dataclass(frozen=True, slots=True)
class PlannedState:
    """`count` rollouts of a task that a method requests from `state`; None is the task's start.

    `prompt_suffix` is appended to the environment's prompt, in place of the method's own.
    """

    task: str
    state: StateRef | None
    count: int
    prompt_suffix: str = ""


def accept_any(text: str) -> object:
    """A check that accepts every text."""
    return text


@dataclass(frozen=True, slots=True)
class PlannedNote:
    """`count` texts that a method requests from a role, about a task, a state or a trajectory.

    The role is sent the environment's prompt, the task's instruction and `question`. `check` raises
    ValueError, with the reason, for a text that the method cannot use. Empty texts, and those that
    reach the role's maximum length, are never usable.
    """

    role: str
    task: str
    about: str
    question: str
    count: int = 1
    check: Callable[[str], object] = field(default=accept_any, compare=False)


def _add_suffix(record: Json) -> Json:
    """1 → 2: an example may have a prompt suffix (called `told` until version 3)."""
    return {"told": "", **record}


def _rename_suffix(record: Json) -> Json:
    """2 → 3: `told` became `prompt_suffix`."""
    fields = {key: value for key, value in record.items() if key != "told"}
    return {**fields, "prompt_suffix": record.get("told", "")}


def _add_advice(record: Json) -> Json:
    """3 → 4: an example may show advice."""
    return {"advice": "none", **record}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingExample(Record):
    """The whole path of one trajectory, with a loss weight and a reason for each of its steps.

    A step with `weights[t]` 0 is visible as context and never trained. `reasons[t]` is the reason:
    `context`, `expert-win`, `student-win`, `beneficial` (an expert action that leads from the
    important state to one the student wins from), `neutral`, `harmful`, … `state` is the step index
    of the important state the solution starts from. `evidence` holds the ids of the rollouts that
    prove the labels. `prompt_suffix` is appended to the environment's prompt (see `eef.chat`), for
    methods that state the outcome of an episode in its prompt. `advice` is the advice that the
    example shows; "last" is that of the last trained step.

    Worked example (recovery state 4 of the example in `eef.methods.labels`): the student's win from
    state 6 took two steps; the example is that branch's path of 8 steps with weights
    (0, 0, 0, 0, 1, 1, 1, 1) and reasons (context ×4, beneficial ×2, student-win ×2).
    """

    KIND: ClassVar[str] = "example"
    VERSION: ClassVar[int] = 4
    MIGRATIONS: ClassVar[Mapping[int, Migration]] = {
        1: _add_suffix,
        2: _rename_suffix,
        3: _add_advice,
    }

    id: str
    task: str
    trajectory: str
    state: int
    weights: tuple[float, ...]
    reasons: tuple[str, ...]
    evidence: tuple[str, ...] = ()
    prompt_suffix: str = ""
    advice: Shown = "none"

    def __post_init__(self) -> None:
        if len(self.weights) != len(self.reasons):
            raise StoreError(
                f"example {self.id!r}: {len(self.weights)} weights, {len(self.reasons)} reasons"
            )


def _migrate_responses(migration: Migration) -> Migration:
    """The same migration for both responses of a pair."""

    def migrate(record: Json) -> Json:
        sides = {side: dict(record[side]) for side in ("chosen", "rejected")}
        for fields in sides.values():
            fields.pop("version", None)
        return {**record, **{side: migration(fields) for side, fields in sides.items()}}

    return migrate


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferencePair(Record):
    """Two continuations of one state, `chosen` the better one, for preference training.

    Both are whole paths from the task's start. Their weights are 0 up to the state and on steps
    that are not compared; the log-probability of a response is the weighted sum over the rest.

    Worked example (the expert's harmful segment (2, 4) of the example in `eef.methods.labels`):
    `chosen` is the student's win from state 2 with weights (0, 0, 1, 1), `rejected` the expert's
    path with weights (0, 0, 1, 1, 0, …, 0).
    """

    KIND: ClassVar[str] = "pair"
    VERSION: ClassVar[int] = 4
    MIGRATIONS: ClassVar[Mapping[int, Migration]] = {
        1: _migrate_responses(_add_suffix),
        2: _migrate_responses(_rename_suffix),
        3: _migrate_responses(_add_advice),
    }

    id: str
    task: str
    chosen: TrainingExample
    rejected: TrainingExample

    def __post_init__(self) -> None:
        if {self.chosen.task, self.rejected.task} != {self.task}:
            raise StoreError(f"pair {self.id!r} compares paths of a task other than its own")


Ratio = Literal["clipped", "constant", "none"]
"""How the loss of acts uses the ratio of a token's probabilities, now and when it was sampled.

clipped   a factor that gives no gradient beyond its bounds (PPO)
constant  a clipped factor without a gradient of its own, which saturates at its bounds (RetroAct)
none      unused: the loss is a weighted log p (reward-weighted regression)
"""


def _add_ratio(record: Json) -> Json:
    """1 → 2: acts state their ratio."""
    return {"ratio": "clipped", **record}


@dataclass(frozen=True, slots=True, kw_only=True)
class Acts(Record):
    """The acts of one rollout, for policy gradients: an advantage for each step of its path.

    `advantages[t]` is the real-valued advantage of step `t`; it may be negative. A step with 0 is
    visible as context and gives no gradient: the prefix that the student did not play, and steps
    that were as good as expected. `group` names the rollouts that were compared: those from the
    same state in the same round. `ratio` is the same in all acts of a selection. `prompt_suffix` is
    as in `TrainingExample`.

    Worked example. Two rollouts from state 2 of an expert's path, one won after two steps and one
    lost after three, have the advantages (0, 0, 0.5, 0.5) and (0, 0, −0.5, −0.5, −0.5): reward
    minus the group's mean.
    """

    KIND: ClassVar[str] = "acts"
    VERSION: ClassVar[int] = 2
    MIGRATIONS: ClassVar[Mapping[int, Migration]] = {1: _add_ratio}

    id: str
    task: str
    trajectory: str
    group: str
    advantages: tuple[float, ...]
    ratio: Ratio = "clipped"
    prompt_suffix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextExample(Record):
    """A text that a role is trained to write in answer to a question.

    `question` is the whole message, as in `Note`. The loss of a text is `weight` times the mean
    over its tokens. `evidence` holds the ids of the rollouts and notes that it is based on.
    """

    KIND: ClassVar[str] = "text"

    id: str
    role: str
    task: str
    question: str
    text: str
    weight: float = 1.0
    evidence: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise StoreError(f"text {self.id!r}: its weight is {self.weight}; expected 0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextPair(Record):
    """Two texts of a role in answer to one question, `chosen` the better one."""

    KIND: ClassVar[str] = "text pair"

    id: str
    chosen: TextExample
    rejected: TextExample

    def __post_init__(self) -> None:
        asked = {(each.role, each.question) for each in (self.chosen, self.rejected)}
        if len(asked) > 1:
            raise StoreError(f"text pair {self.id!r} compares answers to different questions")


@dataclass(frozen=True, slots=True)
class Selection:
    """The examples, pairs, acts and texts that a method trains on, with counts for the report.

    Examples are imitated first; preference pairs and acts, if a method has any, are trained on
    afterwards. A selection that is empty leaves the student as it is. `texts` and `text_pairs`
    train the method's roles, each in a model of its own.
    """

    examples: tuple[TrainingExample, ...]
    counts: dict[str, int]
    pairs: tuple[PreferencePair, ...] = ()
    acts: tuple[Acts, ...] = ()
    texts: tuple[TextExample, ...] = ()
    text_pairs: tuple[TextPair, ...] = ()
