"""The stage `explore`: the student plays what the method plans, within the budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from eef.methods.base import Planned
from eef.pipeline.context import RunContext
from eef.pipeline.execution.checkpoints import finish_training
from eef.pipeline.execution.playing import Models, Planner, finish_rollouts, play_specs
from eef.pipeline.stages import EXPERT, Stage, trained_before
from eef.rollouts.budget import chunks, once, without
from eef.rollouts.specs import RolloutSpec, attempt_ids, rollout_specs
from eef.rollouts.store import Store
from eef.selection import PlannedState
from eef.trajectory import TrajectorySet
from eef.utils.progress import OnProgress


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
        models = Models(context, stage, partial(context.explorer, stage))
        states: list[PlannedState] = []
        played: list[RolloutSpec] = []
        planner = Planner(context, stage, store, tasks, models, on_progress)

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
                    play_specs(context, stage, new, store, policy, on_progress, before=played)
                    played += new
        if method.roles:
            planner.states(plan_round, played)
        rollouts = (item for item in store.trajectories if not item.by_expert)
        notes = [note for note in store.trajectories.notes if note.round == stage.round]
        finish_rollouts(
            context, stage, [item for item in rollouts if item.round == stage.round], notes=notes
        )


def _since(total: Callable[[int], int], before: int, count: int) -> int:
    """The cost of the `count` rollouts after the first `before`."""
    return total(before + count) - total(before)


def _branch_counts(trajectories: TrajectorySet, round: int) -> Counter[Any]:
    """How often earlier rounds branched from each state."""
    return Counter(item.start for item in trajectories if item.start and item.round < round)
