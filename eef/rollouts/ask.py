"""From planned notes to stored ones: those that are not in the store yet are requested."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eef.errors import EnvError, ModelError
from eef.note import Note
from eef.policies.acting import Role
from eef.policy import start_batch
from eef.roles import task_question
from eef.rollouts.runner import batches
from eef.rollouts.store import Store
from eef.selection import PlannedNote
from eef.task import Task
from eef.utils.progress import OnProgress, Progress, ignore_progress
from eef.utils.seeds import derive_seed

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NoteSpec:
    """One note to request: `planned`, with its id, its whole question and its seed."""

    id: str
    planned: PlannedNote
    instruction: str
    question: str
    seed: int
    round: int


def note_specs(
    planned: Sequence[PlannedNote],
    tasks: Mapping[str, Task],
    *,
    owner: str,
    round: int,
    seed: int,
) -> list[NoteSpec]:
    """The notes of a plan, with ids and seeds that are made like those of rollouts.

    Worked example. Two notes of the role "planner" about `toy/3` of owner "mpo" in round 1 have the
    ids `mpo/round1/planner/toy/3#0` and `mpo/round1/planner/toy/3#1`.

    EnvError for a task that is not in `tasks`.
    """
    numbers: Counter[str] = Counter()
    specs = []
    for item in planned:
        if item.task not in tasks:
            raise EnvError(f"the environment has no task {item.task!r}")
        instruction = tasks[item.task].instruction
        question = task_question(instruction, item.question)
        subject = f"round{round}/{item.role}/{item.about}"
        for _ in range(item.count):
            name = f"{subject}#{numbers[subject]}"
            numbers[subject] += 1
            specs.append(
                NoteSpec(
                    f"{owner}/{name}", item, instruction, question, derive_seed(seed, name), round
                )
            )
    return specs


def ask_into_store(
    specs: Sequence[NoteSpec],
    store: Store,
    roles: Mapping[str, Role],
    batch_size: int,
    *,
    subject: object = "notes",
    on_progress: OnProgress = ignore_progress,
) -> None:
    """Request every note that is not in the store; each is stored as soon as its batch is complete.

    If it is called again after an interruption, the store ends up as after an uninterrupted call:
    like rollouts, an incomplete batch is requested again as a whole if completions depend on their
    batch.

    ModelError, once all others are stored, if notes have no answer for a temporary reason.
    """
    done = 0
    missing_answers: list[str] = []
    for name in dict.fromkeys(spec.planned.role for spec in specs):
        role = roles[name]
        own = [spec for spec in specs if spec.planned.role == name]
        for batch in batches(own, batch_size):
            notes = store.trajectories.notes
            missing = [spec for spec in batch if spec.id not in notes]
            asked = missing if role.policy.replays == "alone" or not missing else batch
            start_batch(role.policy)
            answers = role.ask(
                [spec.question for spec in asked],
                [spec.seed for spec in asked],
                [spec.planned.check for spec in asked],
            )
            for spec, answer in zip(asked, answers, strict=True):
                if answer.missing:
                    missing_answers.append(f"`{spec.id}`: {answer.problem}")
                elif spec.id not in notes:
                    planned = spec.planned
                    note = Note(
                        id=spec.id,
                        role=name,
                        author=role.policy.author.name,
                        round=spec.round,
                        task=planned.task,
                        about=planned.about,
                        instruction=spec.instruction,
                        question=spec.question,
                        text=answer.text,
                        problem=answer.problem,
                        seed=spec.seed,
                        usage=answer.usage,
                    )
                    store.append_note(note)
                    if note.problem:
                        _log.warning("note `%s` is skipped: %s", note.id, note.problem)
            done += len(batch)
            on_progress(Progress(subject, done, len(specs), f"notes of the {name}"))
    if missing_answers:
        raise ModelError(
            f"{len(missing_answers)} of {len(specs)} notes have no answer; {missing_answers[0]}",
            hint="all others are stored; the same command requests these again",
        )
