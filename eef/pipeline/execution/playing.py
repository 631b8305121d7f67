"""Rollouts of a stage: who plays them, what a plan needs first, and what is recorded of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from eef.errors import StoreError
from eef.methods.base import Planned
from eef.note import Note, NoteSet
from eef.pipeline.context import RunContext
from eef.pipeline.experts import make_expert_policy
from eef.pipeline.ledger import usage_of
from eef.pipeline.roles import player_of, roles_of
from eef.pipeline.stages import EXPERT, Stage
from eef.policies.acting import Role
from eef.policy import Policy
from eef.rollouts.ask import ask_into_store, note_specs
from eef.rollouts.into_store import play_into_store
from eef.rollouts.specs import RolloutSpec, attempt_ids, last_attempt
from eef.rollouts.store import Store
from eef.selection import PlannedNote, PlannedState
from eef.task import Task
from eef.trajectory import Trajectory, TrajectorySet
from eef.utils.jsonl import write_json
from eef.utils.progress import OnProgress


class Models:
    """The roles and the player of a stage, each loaded when it is first needed."""

    def __init__(self, context: RunContext, stage: Stage, student: Callable[[], Policy]) -> None:
        self._context, self._stage, self._make_student = context, stage, student

    @cached_property
    def student(self) -> Policy:
        return self._make_student()

    @cached_property
    def roles(self) -> dict[str, Role]:
        return roles_of(self._context, self._stage)

    @cached_property
    def player(self) -> Policy:
        if self._stage.method == EXPERT:
            return make_expert_policy(self._context, self._context.recipe.expert.players[0])
        return player_of(self._context, self._stage, lambda: self.student, self.roles)

    def players_of(
        self, specs: Sequence[RolloutSpec]
    ) -> Iterator[tuple[list[RolloutSpec], Policy]]:
        """Rollouts by who plays them: the player, or the student alone (`Acting.from_start`)."""
        if self._context.acting(self._stage).from_start:
            yield list(specs), self.player
            return
        if alone := [spec for spec in specs if spec.state is None]:
            yield alone, self.student
        if inside := [spec for spec in specs if spec.state is not None]:
            yield inside, self.player


class Planner:
    """Plans of a stage, and the notes that they need. `asked` are the ids of these notes."""

    def __init__(
        self,
        context: RunContext,
        stage: Stage,
        store: Store,
        tasks: Mapping[str, Task],
        models: Models,
        on_progress: OnProgress,
    ) -> None:
        self._context, self._stage, self._store = context, stage, store
        self._tasks, self._models, self._on_progress = tasks, models, on_progress
        self.asked: set[str] = set()

    def states(
        self, plan: Callable[[TrajectorySet], Sequence[Planned]], played: Sequence[RolloutSpec]
    ) -> list[PlannedState]:
        """The states of a plan, once all of its notes are in the store."""
        recipe, stage = self._context.recipe_of(self._stage), self._stage
        while True:
            planned = plan(self._seen(played))
            specs = note_specs(
                [item for item in planned if isinstance(item, PlannedNote)],
                self._tasks,
                owner=f"{stage.method}/evaluation" if stage.kind == "evaluate" else stage.method,
                round=stage.round,
                seed=recipe.seed,
            )
            if self.asked.issuperset(spec.id for spec in specs):
                return self._context.playable(planned, self._store.trajectories)
            self.asked |= {spec.id for spec in specs}
            ask_into_store(
                specs,
                self._store,
                self._models.roles,
                recipe.rollouts.batch_size,
                subject=stage,
                on_progress=self._on_progress,
            )

    def _seen(self, played: Sequence[RolloutSpec]) -> TrajectorySet:
        """The trajectories that a plan sees: those of earlier rounds, and of this one so far.

        An interrupted round has stored more rollouts and notes, which must not change the plan.
        """
        stored, round = self._store.trajectories, self._stage.round
        ids = {name for spec in played for name in attempt_ids(spec.id)}
        known = (item for item in stored if item.round < round or item.id in ids)
        notes = (note for note in stored.notes if note.round < round or note.id in self.asked)
        return TrajectorySet(known, NoteSet(notes))


def play_specs(
    context: RunContext,
    stage: Stage,
    specs: Sequence[RolloutSpec],
    store: Store,
    policy: Policy,
    on_progress: OnProgress,
    *,
    before: Sequence[RolloutSpec] = (),
    expert: str = "",
) -> None:
    """Play specs into the store; `before` are those of the same stage that were played already."""
    restarts = context.env.worker_restarts
    play_into_store(
        specs,
        store,
        context.env,
        policy,
        context.parameters(stage, expert),
        subject=stage,
        before=before,
        hosts=context.hosts(stage, policy),
        on_progress=on_progress,
    )
    context.worker_restarts[stage] += context.env.worker_restarts - restarts
    # the last chunks of a budget may hold one rollout each, so judge failures over a whole batch
    recent = [*before, *specs][-max(len(specs), context.recipe_of(stage).rollouts.batch_size) :]
    last = [last_attempt(store.trajectories, spec.id) for spec in recent]
    failed = bool(last) and all(item.status == "error" for item in last)
    if failed and any(item.error_kind != "replay" for item in last):
        quarantine = store.quarantine({name for spec in recent for name in attempt_ids(spec.id)})
        raise StoreError(
            f"`{stage}`: every rollout failed, the first with: {last[0].error}",
            hint=f"fix the cause and run `eef run {context.run.path}`; failed rollouts were moved "
            f"to `{quarantine}`",
        )


def finish_rollouts(
    context: RunContext,
    stage: Stage,
    played: Iterable[Trajectory],
    sources: dict[str, Any] | None = None,
    notes: Sequence[Note] = (),
) -> None:
    """Record what a stage has played: its cost in the ledger, then its counts in its last file."""
    rollouts = list(played)
    context.run.ledger(stage.method).record(stage, usage_of(rollouts, notes))
    kinds = Counter(item.error_kind for item in rollouts)
    record: dict[str, Any] = {
        "rollouts": len(rollouts),
        "wins": sum(item.success for item in rollouts),
        "errors": sum(item.status == "error" for item in rollouts),
        "mismatches": kinds["replay"],
        "tolerated_steps": sum(item.usage.tolerated_steps for item in rollouts),
        "overflows": kinds["context_overflow"],
        "worker_restarts": context.worker_restarts[stage],
    }
    if notes:
        record["notes"] = len(notes)
        record["notes_skipped"] = sum(bool(note.problem) for note in notes)
    if sources:
        record["unverified"] = sum(not item.replayable for item in rollouts)
        record["sources"] = sources
    write_json(context.run.last_file(stage), record)
