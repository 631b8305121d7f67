"""The stages of a run, one function each. `EXECUTORS` maps the kind of a stage to its function."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eef.errors import MethodError, StoreError
from eef.methods.base import Planned
from eef.models.settings import REMOVED_FILE
from eef.note import Note, NoteSet
from eef.pipeline.context import RunContext
from eef.pipeline.evaluation import EvalResult, summarize
from eef.pipeline.experts import (
    api_usage,
    expert_rollout_id,
    import_expert,
    is_file,
    make_expert_policy,
    make_importer,
)
from eef.pipeline.ledger import Cost, parse_cost, usage_of
from eef.pipeline.model_card import model_card
from eef.pipeline.ranks import train_in_ranks
from eef.pipeline.roles import base_model, player_of, role_model, roles_of, trained_roles
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import BC, EXPERT, Stage, StageKind, trained_before
from eef.policies.acting import Role
from eef.policy import Policy
from eef.renderer import render_all, render_pairs, render_text_pairs, render_texts
from eef.rollouts.ask import ask_into_store, note_specs
from eef.rollouts.budget import chunks, once, without
from eef.rollouts.explore import attempt_ids, last_attempt, play_into_store, rollout_specs
from eef.rollouts.runner import RolloutSpec
from eef.rollouts.store import Store
from eef.selection import PlannedNote, PlannedState, Selection
from eef.task import Task
from eef.trajectory import Trajectory, TrajectorySet
from eef.utils.jsonl import read_object, write_json, write_jsonl, write_text
from eef.utils.progress import OnProgress, Progress
from eef.utils.seeds import derive_seed

if TYPE_CHECKING:
    from eef.training.ranks import Ranks
    from eef.training.round import ActsTraining

_log = logging.getLogger(__name__)

Executor = Callable[[RunContext, Stage, OnProgress], None]


def collect(context: RunContext, stage: Stage, on_progress: OnProgress) -> None:
    """Let every expert play every training task once; import the experts that are files."""
    run, sources = context.run, dict[str, Any]()
    names = run.recipe.expert.names
    importer = make_importer(context) if any(map(is_file, names)) else None
    with Store.open(run.store(EXPERT)) as store:
        for name in names:
            if importer and is_file(name):
                sources[name] = import_expert(importer, name, store, stage, on_progress)
                continue
            expert = make_expert_policy(context, name)
            specs = [
                RolloutSpec(
                    expert_rollout_id(expert.author, task.id),
                    task,
                    None,
                    derive_seed(run.recipe.seed, expert.author, task.id),
                    0,
                    run.recipe.expert.prompt_of(name),
                )
                for task in context.expert_tasks
            ]
            _play(context, stage, specs, store, expert, on_progress, expert=name)
        usage = api_usage(context)
        sources |= {"api": usage} if usage else {}
        _finish_rollouts(context, stage, store.trajectories, sources)


def explore_round(context: RunContext, stage: Stage, on_progress: OnProgress) -> None:
    """Let the previous round's student play what the method plans, within the budget.

    Roles are asked for the notes of a plan first. A plan of an earlier turn is played once, that of
    the last turn as often as the budget allows.
    """
    run, recipe = context.run, context.recipe_of(stage)
    finish_training(context, trained_before(stage))
    method, tasks = run.methods[stage.method], {task.id: task for task in context.train_tasks}
    reader, experts = run.reader(stage.method), run.trajectories(EXPERT)
    with Store.open(run.store(stage.method), base=experts, reader=reader) as store:
        models = _Models(context, stage, partial(context.explorer, stage))
        states: list[PlannedState] = []
        played: list[RolloutSpec] = []
        planner = _Planner(context, stage, store, tasks, models, on_progress)

        def tokens_of(count: int) -> int:
            names = (name for spec in played[:count] for name in attempt_ids(spec.id))
            ended = (store.trajectories[name] for name in names if name in store.trajectories)
            return sum(item.usage.all_generated_tokens for item in ended)

        def tokens_of_notes() -> int:
            # not those that an interrupted round has requested after what this one has reached
            return sum(
                store.trajectories.notes[name].usage.generated_tokens for name in planner.asked
            )

        def plan_round(seen: TrajectorySet) -> Sequence[Planned]:
            return method.plan(seen, list(tasks), stage.round)

        budget = recipe.budget.of_round(len(context.train_tasks))
        earlier = _branch_counts(store.trajectories, stage.round)
        parts: Iterable[list[PlannedState]]
        for turn in range(method.turns):
            plan = planner.states(plan_round, played)
            before, fresh = len(played), without(plan, states)
            left = budget.after(before, tokens_of(before) + tokens_of_notes())
            limited = budget.rollouts is not None or budget.tokens is not None
            if left is None or not (fresh or (plan and limited)):
                break
            limits = left, recipe.rollouts.batch_size, partial(_since, tokens_of, before)
            if turn + 1 < method.turns:
                parts = once(fresh, *limits)
            else:
                parts = chunks(fresh or plan, *limits, earlier)
            for chunk in parts:
                states += chunk
                specs = rollout_specs(
                    states,
                    tasks,
                    owner=stage.method,
                    round=stage.round,
                    seed=recipe.seed,
                    prompt_suffix=context.prompt_suffix(stage),
                )
                for new, policy in models.players_of(specs[len(played) :]):
                    _play(context, stage, new, store, policy, on_progress, before=played)
                    played += new
        if method.roles:
            planner.states(plan_round, played)
        rollouts = (item for item in store.trajectories if not item.by_expert)
        notes = [note for note in store.trajectories.notes if note.round == stage.round]
        _finish_rollouts(
            context, stage, [item for item in rollouts if item.round == stage.round], notes=notes
        )


def _since(total: Callable[[int], int], before: int, count: int) -> int:
    """The cost of the `count` rollouts after the first `before`."""
    return total(before + count) - total(before)


class _Models:
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


class _Planner:
    """Plans of a stage, and the notes that they need. `asked` are the ids of these notes."""

    def __init__(
        self,
        context: RunContext,
        stage: Stage,
        store: Store,
        tasks: Mapping[str, Task],
        models: _Models,
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


def select(context: RunContext, stage: Stage, on_progress: OnProgress) -> None:
    """Let the method choose what to train on."""
    run = context.run
    trajectories = run.trajectories(stage.method)
    tasks = [task.id for task in context.train_tasks]
    # wins on tasks of no environment at hand (imported, unverified) are trained on as well
    tasks += (item.task for item in trajectories if item.success and item.by_expert)
    selection = run.methods[stage.method].select(
        trajectories, list(dict.fromkeys(tasks)), stage.round
    )
    counts = dict(selection.counts)
    for name, file in run.selection_files(stage).items():
        items = getattr(selection, name)
        if items or name == "examples":
            write_jsonl(file, (each.to_record() for each in items))
            counts[name] = len(items)
    write_json(run.last_file(stage), counts)


def train(context: RunContext, stage: Stage, on_progress: OnProgress) -> None:
    """Train the roles and the student on the selection; an empty one leaves them unchanged."""
    from eef.models.loading import release_memory
    from eef.training.ranks import ALONE

    context.engines.release()
    _train_roles(context, stage, on_progress)
    if context.recipe_of(stage).train.ranks == 1:
        train_here(context, stage, on_progress, ALONE)
        release_memory()  # of the gradients and the optimizer
        return
    context.release_model()
    train_in_ranks(context, stage, on_progress)


def train_here(context: RunContext, stage: Stage, on_progress: OnProgress, ranks: Ranks) -> None:
    """Train in this process, alone or as one of several ranks; rank 0 writes the results."""
    from eef.models.checkpoint import save_checkpoint
    from eef.models.loading import has_adapters
    from eef.models.memory import memory_errors
    from eef.training.ranks import gather_weights, place_on_ranks
    from eef.training.round import RoundItems, train_round

    run, recipe = context.run, context.recipe_of(stage)
    selection = run.selection(stage.method, stage.round)
    assert selection is not None, "selection precedes training"
    start = _start_of_training(context, stage, selection)
    device = "cpu" if ranks.count > 1 else recipe.model.device
    model, tokenizer = context.trainable_model(start, recipe.train.seed, device)
    renderer = context.renderer(model, tokenizer)
    source = run.trajectories(stage.method), context.prompt, renderer
    examples, overflows = render_all(selection.examples, *source)
    pairs, long_pairs = render_pairs(selection.pairs, *source)
    acts, long_acts = render_all(selection.acts, *source)
    overflows += long_pairs + long_acts
    if overflows and not examples and not pairs and not acts:
        raise MethodError(
            f"`{stage}`: all {len(overflows)} examples are longer than the model's context",
            hint="raise `chat.max_length`, or choose a model with a longer context",
        )
    checkpoints = run.training_checkpoints(stage)
    with memory_errors(
        f"training of `{stage}`",
        "lower `train.max_tokens_per_microbatch`, or set `train.gradient_checkpointing` to true",
    ):
        model = place_on_ranks(model, ranks, recipe.train.dtype)
        result = train_round(
            model,
            RoundItems(examples=examples, pairs=pairs, acts=acts),
            recipe.train,
            recipe.dpo,
            acts=_acts_training(context, stage, selection, ranks) if acts else None,
            directory=checkpoints,
            ranks=ranks,
            on_progress=lambda each: on_progress(replace(each, subject=stage)),
        )
        weights = gather_weights(model, ranks, recipe.model.dtype)
    if not ranks.first:
        return
    roles = trained_roles(context, stage.method)
    record = {
        "updates": result.updates,
        "examples": len(examples),
        "pairs": len(pairs),
        "acts": len(acts),
        "roles": [role for role in roles if run.role_training_file(stage, role).is_file()],
        "too_long": overflows,
        "losses": result.losses,
    }
    write_json(run.training_file(stage), record)
    cost = Cost(
        updates=result.updates,
        trained_tokens=result.trained_tokens,
        processed_tokens=result.processed_tokens,
        seconds=result.seconds,
    )
    run.ledger(stage.method).record(stage, cost + _role_costs(context, stage))
    save_checkpoint(
        model,
        tokenizer,
        run.checkpoint(stage),
        base=start,
        about={"recipe": recipe.name, "method": stage.method, "round": stage.round},
        stop_ids=renderer.stop_ids,
        weights=weights,
    )
    # adapters are merged to act, which the next training cannot undo; servers need the memory
    if recipe.rollouts.engine == "local" and not has_adapters(model) and ranks.count == 1:
        context.keep_loaded(str(run.checkpoint(stage)), model, tokenizer)
    finish_training(context, stage)


def finish_training(context: RunContext, trained: Stage) -> None:
    """Write the model card of a finished training, and remove checkpoints that are not kept.

    Later stages call this again, in case the process of the training was killed before it.
    """
    run = context.run
    if run.last_file(trained).is_file() and not _card_file(run, trained).is_file():
        _write_card(context, trained, run.evaluation(trained.method, trained.round))
    _remove_what_rounds_passed_on(context, trained)


def _train_roles(context: RunContext, stage: Stage, on_progress: OnProgress) -> None:
    """Train the roles that a method trains, each in this process, unless that is done."""
    selection = context.run.selection(stage.method, stage.round)
    assert selection is not None, "selection precedes training"
    for role in untrained_roles(context, stage):
        _train_role(context, stage, role, selection, on_progress)


def untrained_roles(context: RunContext, stage: Stage) -> list[str]:
    """The roles that a training has texts or pairs of texts for, and has not trained yet."""
    roles = trained_roles(context, stage.method)
    if not roles:
        return []
    selection = context.run.selection(stage.method, stage.round)
    assert selection is not None, "selection precedes training"
    selected = {each.role for each in selection.texts}
    selected |= {each.chosen.role for each in selection.text_pairs}
    done = context.run.role_training_file
    return [role for role in roles if role in selected and not done(stage, role).is_file()]


def _role_costs(context: RunContext, stage: Stage) -> Cost:
    """The cost of the roles that a round has trained."""
    files = (
        context.run.role_training_file(stage, role) for role in trained_roles(context, stage.method)
    )
    costs = (parse_cost(read_object(file)["cost"]) for file in files if file.is_file())
    return sum(costs, Cost())


def _train_role(
    context: RunContext, stage: Stage, role: str, selection: Selection, on_progress: OnProgress
) -> None:
    """Train a role on its texts, then on its pairs of texts.

    Like the student, a role starts from its base model or from its previous checkpoint.
    """
    from eef.models.checkpoint import save_checkpoint
    from eef.models.memory import memory_errors
    from eef.training.round import RoundItems, train_round

    run, recipe = context.run, context.recipe_of(stage)
    texts = [each for each in selection.texts if each.role == role]
    pairs = [each for each in selection.text_pairs if each.chosen.role == role]
    use = run.methods[stage.method].roles[role]
    continues = use.trained == "last" or recipe.train.init_from == "last" or not texts
    start = role_model(context, stage, role) if continues else base_model(context, stage, role)
    model, tokenizer = context.trainable_model(start, recipe.train.seed, recipe.model.device)
    renderer = context.role_renderer(model, tokenizer)
    source = context.prompt, renderer
    rendered, overflows = render_texts(texts, *source)
    rendered_pairs, long_pairs = render_text_pairs(pairs, *source)
    if too_long := overflows + long_pairs:
        what = f"{len(too_long)} of {len(texts) + len(pairs)} texts of the role `{role}` are"
        if not rendered and not rendered_pairs:
            raise MethodError(
                f"`{stage}`: {what} longer than its model's context",
                hint="choose a model with a longer context for it",
            )
        _log.warning("`%s`: %s longer than its model's context, and skipped", stage, what)
    with memory_errors(
        f"training of the role `{role}` in `{stage}`",
        "lower `train.max_tokens_per_microbatch`, or set `train.gradient_checkpointing` to true",
    ):
        result = train_round(
            model,
            RoundItems(texts=rendered, pairs=rendered_pairs),
            recipe.train,
            recipe.dpo,
            directory=run.training_checkpoints(stage) / role,
            on_progress=lambda each: on_progress(Progress(stage, each.done, each.total, role)),
        )
    save_checkpoint(
        model,
        tokenizer,
        run.role_checkpoint(stage, role),
        base=start,
        about={"recipe": recipe.name, "method": stage.method, "round": stage.round, "role": role},
        stop_ids=renderer.stop_ids,
    )
    cost = Cost(
        updates=result.updates,
        trained_tokens=result.trained_tokens,
        processed_tokens=result.processed_tokens,
        seconds=result.seconds,
    )
    record = {
        "updates": result.updates,
        "texts": len(rendered),
        "pairs": len(rendered_pairs),
        "too_long": too_long,
        "losses": result.losses,
        "cost": asdict(cost),
    }
    write_json(run.role_training_file(stage, role), record)


def _start_of_training(context: RunContext, stage: Stage, selection: Selection) -> str:
    """The model that a training starts from.

    Pairs and acts refine the previous round's student: pairs alone cannot teach a base model to
    act, and acts are compared with the student that played them.
    """
    recipe = context.recipe_of(stage)
    refines = bool(selection.acts) or not selection.examples
    if stage.method != BC and (recipe.train.init_from == "last" or refines):
        return str(context.run.checkpoint(trained_before(stage)))
    return recipe.model.name


def _acts_training(
    context: RunContext, stage: Stage, selection: Selection, ranks: Ranks
) -> ActsTraining:
    """How acts are trained on in a round: settings, reference, and what earlier rounds left."""
    from eef.models.loading import load_model
    from eef.training.policy_gradient import CarriedState, Place
    from eef.training.round import ActsTraining

    run, recipe = context.run, context.recipe_of(stage)
    reference = None
    if recipe.policy_gradient.kl:
        reference, _ = load_model(
            str(run.checkpoint(Stage(BC, 0, "train"))),
            dtype=recipe.model.dtype,
            device=ranks.device if ranks.count > 1 else recipe.model.device,
        )
    left = [run.optimizer(replace(stage, round=round)) for round in range(stage.round - 1, 0, -1)]
    return ActsTraining(
        settings=recipe.policy_gradient,
        temperature=recipe.sampling.temperature,
        ratio=selection.acts[0].ratio,
        reference=reference,
        place=Place(round=stage.round, rounds=recipe.rounds),
        carried=CarriedState(
            before=next((path for path in left if path.is_dir()), None),
            after=run.optimizer(stage),
        ),
    )


def _remove_what_rounds_passed_on(context: RunContext, stage: Stage) -> None:
    """Remove training checkpoints, earlier optimizer states, and checkpoints that are not kept."""
    run, earlier = context.run, range(1, stage.round)
    shutil.rmtree(run.training_checkpoints(stage), ignore_errors=True)
    if run.optimizer(stage).is_dir():
        for round in earlier:
            shutil.rmtree(run.optimizer(replace(stage, round=round)), ignore_errors=True)
    if context.recipe_of(stage).train.keep_checkpoints == "all":
        return
    passed_on = [replace(stage, round=round) for round in earlier]
    passed_on = [each for each in passed_on if each.sibling("evaluate") not in run.stages]
    for trained in passed_on:
        _remove_checkpoint(run.checkpoint(trained))
    for role in trained_roles(context, stage.method):
        latest = role_model(context, replace(stage, kind="evaluate"), role)
        for trained in passed_on:
            if (checkpoint := run.role_checkpoint(trained, role)) != Path(latest):
                _remove_checkpoint(checkpoint)


def _remove_checkpoint(checkpoint: Path) -> None:
    """Remove the files of a checkpoint, if there is one, and leave a note of it."""
    from eef.models.checkpoint import MANIFEST_FILE, is_complete

    if not is_complete(checkpoint):
        return
    write_json(checkpoint / REMOVED_FILE, {"setting": "train.keep_checkpoints"})
    # the manifest last: without it, an interrupted removal would not be continued
    for path in sorted(checkpoint.iterdir(), key=lambda path: path.name == MANIFEST_FILE):
        if path.is_dir():  # such as several chat templates
            shutil.rmtree(path)
        elif path.name != REMOVED_FILE:
            path.unlink()


def evaluate(context: RunContext, stage: Stage, on_progress: OnProgress) -> None:
    """Play the test tasks; these rollouts are kept apart from those that are trained on."""
    run = context.run
    if stage.method != EXPERT:
        finish_training(context, stage.sibling("train"))
    tasks = {task.id: task for task in context.test_tasks}
    planned: list[PlannedState] = []
    specs: list[RolloutSpec] = []

    def plan_tests(seen: TrajectorySet) -> Sequence[Planned]:
        """One rollout per task, unless the method plans others."""
        if stage.method == EXPERT:
            return [PlannedState(task, None, 1) for task in tasks]
        return run.methods[stage.method].plan_evaluation(seen, list(tasks))

    with Store.open(run.evaluation_store(stage)) as store:
        models = _Models(context, stage, partial(context.student, stage.sibling("train")))
        planner = _Planner(context, stage, store, tasks, models, on_progress)
        for _ in range(1 if stage.method == EXPERT else run.methods[stage.method].attempts):
            plan = planner.states(plan_tests, specs)
            planned += without(plan, planned)
            every = _evaluation_specs(context, stage, planned, tasks)
            fresh = every[len(specs) :]
            expert = run.recipe.expert.players[0] if stage.method == EXPERT else ""
            player = models.player
            _play(context, stage, fresh, store, player, on_progress, before=specs, expert=expert)
            specs = every
        ends = [last_attempt(store.trajectories, spec.id) for spec in specs]
        cost = usage_of(store.trajectories, store.trajectories.notes)
    first = {end.task: end for end in reversed(ends)}
    result = summarize(
        [first[task] for task in tasks if task in first],
        policy=str(models.player.author),
        method=stage.method,
        round=stage.round,
        split=run.recipe.evaluate.split,
        retries=[end for end in ends if end is not first[end.task]],
        cost=cost,
    )
    run.ledger(stage.method).record(stage, result.cost)
    if stage.method != EXPERT:
        _write_card(context, stage.sibling("train"), result)
    write_json(run.last_file(stage), result.to_record())


def _evaluation_specs(
    context: RunContext, stage: Stage, planned: Sequence[PlannedState], tasks: Mapping[str, Task]
) -> list[RolloutSpec]:
    """The rollouts of an evaluation; those after a task's first have a number."""
    numbers: Counter[str] = Counter()
    specs = []
    for item in planned:
        number = numbers[item.task]
        numbers[item.task] += 1
        name = f"{stage.method}/round{stage.round}/evaluation/{item.task}"
        seeds = [number] if number else []
        spec = RolloutSpec(
            f"{name}#{number}" if number else name,
            tasks[item.task],
            None,
            derive_seed(context.recipe.seed, "evaluation", item.task, *seeds),
            stage.round,
            item.prompt_suffix or context.prompt_suffix(stage),
        )
        specs.append(spec)
    return specs


EXECUTORS: dict[StageKind, Executor] = {
    "collect": collect,
    "explore": explore_round,
    "select": select,
    "train": train,
    "evaluate": evaluate,
}


def _play(
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


def _finish_rollouts(
    context: RunContext,
    stage: Stage,
    played: Iterable[Trajectory],
    sources: dict[str, Any] | None = None,
    notes: Sequence[Note] = (),
) -> None:
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


def _branch_counts(trajectories: TrajectorySet, round: int) -> Counter[Any]:
    """How often earlier rounds branched from each state."""
    return Counter(item.start for item in trajectories if item.start and item.round < round)


def _write_card(context: RunContext, trained: Stage, result: EvalResult | None) -> None:
    """Write the model card of a checkpoint, with its evaluation once there is one."""
    run = context.run
    selection = run.selection(trained.method, trained.round)
    card = model_card(
        recipe=run.recipe,
        method=trained.method,
        round=trained.round,
        counts=selection.counts if selection else {},
        result=result,
        fingerprint=run.fingerprint,
    )
    write_text(_card_file(run, trained), card)


def _card_file(run: RunDirectory, trained: Stage) -> Path:
    return run.checkpoint(trained) / "README.md"
