"""The stage `evaluate`: the student plays the test tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from eef.methods.base import Planned
from eef.pipeline.context import RunContext
from eef.pipeline.evaluation import summarize
from eef.pipeline.execution.checkpoints import finish_training, write_card
from eef.pipeline.execution.playing import Models, Planner, play_specs
from eef.pipeline.ledger import usage_of
from eef.pipeline.stages import EXPERT, Stage
from eef.rollouts.budget import without
from eef.rollouts.specs import RolloutSpec, last_attempt
from eef.rollouts.store import Store
from eef.selection import PlannedState
from eef.task import Task
from eef.trajectory import TrajectorySet
from eef.utils.jsonl import write_json
from eef.utils.progress import OnProgress
from eef.utils.seeds import derive_seed


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
        models = Models(context, stage, partial(context.student, stage.sibling("train")))
        planner = Planner(context, stage, store, tasks, models, on_progress)
        for _ in range(1 if stage.method == EXPERT else run.methods[stage.method].attempts):
            plan = planner.states(plan_tests, specs)
            planned += without(plan, planned)
            every = _evaluation_specs(context, stage, planned, tasks)
            fresh = every[len(specs) :]
            expert = run.recipe.expert.players[0] if stage.method == EXPERT else ""
            player = models.player
            play_specs(
                context, stage, fresh, store, player, on_progress, before=specs, expert=expert
            )
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
        write_card(context, stage.sibling("train"), result)
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
