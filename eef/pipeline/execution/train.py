"""The stage `train`: the student is trained on the selection."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from eef.errors import MethodError
from eef.pipeline.context import RunContext
from eef.pipeline.execution.checkpoints import finish_training
from eef.pipeline.execution.train_roles import role_costs, train_roles
from eef.pipeline.ledger import training_cost
from eef.pipeline.ranks import train_in_ranks
from eef.pipeline.roles import trained_roles
from eef.pipeline.stages import BC, Stage, trained_before
from eef.rendering import render_all, render_pairs
from eef.selection import Selection
from eef.utils.jsonl import write_json
from eef.utils.progress import OnProgress

if TYPE_CHECKING:
    from eef.training.ranks import Ranks
    from eef.training.round import ActsTraining


def train(context: RunContext, stage: Stage, on_progress: OnProgress) -> None:
    """Train the roles and the student on the selection; an empty one leaves them unchanged."""
    from eef.models.loading import release_memory
    from eef.training.ranks import ALONE

    context.engines.release()
    train_roles(context, stage, on_progress)
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
    run.ledger(stage.method).record(stage, training_cost(result) + role_costs(context, stage))
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
