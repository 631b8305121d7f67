"""Advice, Note, NoteSet, RoleUsage: what roles write, and what it costs.

A *role* is a model beside the agent: a judge, planner, critic, reasoner, … It writes *notes*, about
a task, a state or a trajectory, and *advice*, about a turn that the agent is about to take.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

from pydantic import ConfigDict

from eef.errors import StoreError
from eef.utils.records import STRICT_FIELDS, Record

Shown = Literal["none", "last", "all"]
"""The advice that a conversation shows: none, that of its last turn, or that of all turns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleUsage:
    """The output of one role: completions and their tokens, as its policy counts them.

    `repeated` counts unusable texts that were requested a second time, `skipped` requests without a
    usable text after that.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT_FIELDS

    role: str
    completions: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    repeated: int = 0
    skipped: int = 0


def add_usage(*parts: Iterable[RoleUsage]) -> tuple[RoleUsage, ...]:
    """The total usage of each role, by name.

    >>> one = RoleUsage(role="judge", completions=1, generated_tokens=9)
    >>> add_usage([one], [one])[0].generated_tokens
    18
    """
    totals: dict[str, dict[str, int]] = {}
    for usage in (each for part in parts for each in part):
        counts = asdict(usage)
        total = totals.setdefault(counts.pop("role"), dict.fromkeys(counts, 0))
        for name, count in counts.items():
            total[name] += count
    return tuple(RoleUsage(role=role, **totals[role]) for role in sorted(totals))


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """A text that a role wrote about a turn before the agent took it.

    `candidate` is the completion that the text is about, empty if it is about the turn as a whole.
    A lookahead has executed the candidate: `seen` is the observation that it led to and `score` the
    number read from the text; otherwise both are None.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT_FIELDS

    role: str
    text: str
    candidate: str = ""
    seen: str | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Note(Record):
    """A text that a role wrote when a method requested it.

    `about` is what it is about: the id of a task or of a trajectory, or a state (`trajectory@t`).
    `author` is the role's model. `question` is the whole message that the role was sent, which
    starts with the task's `instruction` (`eef.roles.task_question`). `problem` is the reason why
    the text cannot be used, empty if it can; an unusable text was requested a second time, and this
    is the second one.
    """

    KIND: ClassVar[str] = "note"

    id: str
    role: str
    author: str
    round: int
    task: str
    about: str
    instruction: str
    question: str
    text: str
    problem: str = ""
    seed: int = 0
    usage: RoleUsage


class NoteSet:
    """Notes by id, in insertion order."""

    def __init__(self, notes: Iterable[Note] = ()) -> None:
        self._by_id: dict[str, Note] = {}
        self._by_subject: dict[tuple[str, str], list[Note]] = {}
        self._by_task: dict[str, list[Note]] = {}
        for note in notes:
            self.add(note)

    def add(self, note: Note) -> None:
        """Add one note. StoreError if its id is taken."""
        if note.id in self._by_id:
            raise StoreError(f"note id {note.id!r} occurs twice")
        self._by_id[note.id] = note
        self._by_subject.setdefault((note.role, note.about), []).append(note)
        self._by_task.setdefault(note.task, []).append(note)

    def about(self, role: str, subject: str, rounds: range | None = None) -> list[Note]:
        """The notes of a role about a subject in some rounds or in all, usable or not, by id."""
        found = self._by_subject.get((role, subject), [])
        chosen = [note for note in found if rounds is None or note.round in rounds]
        return sorted(chosen, key=lambda note: (note.round, note.id))

    def usable(self, role: str, subject: str, rounds: range | None = None) -> list[Note]:
        """The notes of `about` that have no problem."""
        return [note for note in self.about(role, subject, rounds) if not note.problem]

    def of_trajectory(
        self, name: str, task: str, prompt_suffix: str
    ) -> tuple[list[Note], list[Note]]:
        """The notes that roles wrote for a trajectory and about it, usable or not.

        The first are notes of its task whose text is in its prompt suffix (a plan, reflections on
        other attempts), the second those about it or a state of it.
        """
        in_prompt, about = [], []
        for note in self._by_task.get(task, ()):
            if name in (note.about, note.about.rpartition("@")[0]):
                about.append(note)
            elif note.text and note.text in prompt_suffix:
                in_prompt.append(note)
        return in_prompt, about

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Note]:
        return iter(self._by_id.values())

    def __contains__(self, note_id: object) -> bool:
        return note_id in self._by_id

    def __getitem__(self, note_id: str) -> Note:
        try:
            return self._by_id[note_id]
        except KeyError:
            raise StoreError(f"no note {note_id!r} in the store") from None
