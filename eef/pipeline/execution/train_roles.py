"""Training of the roles that a method trains, beside its student."""

from __future__ import annotations

import logging
from dataclasses import asdict

from eef.errors import MethodError
from eef.pipeline.context import RunContext
from eef.pipeline.ledger import Cost, parse_cost, training_cost
from eef.pipeline.roles import base_model, role_model, trained_roles
from eef.pipeline.stages import Stage
from eef.rendering import render_text_pairs, render_texts
from eef.selection import Selection
from eef.utils.jsonl import read_object, write_json
from eef.utils.progress import OnProgress, Progress

_log = logging.getLogger(__name__)


def train_roles(context: RunContext, stage: Stage, on_progress: OnProgress) -> None:
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


def role_costs(context: RunContext, stage: Stage) -> Cost:
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
    cost = training_cost(result)
    record = {
        "updates": result.updates,
        "texts": len(rendered),
        "pairs": len(rendered_pairs),
        "too_long": too_long,
        "losses": result.losses,
        "cost": asdict(cost),
    }
    write_json(run.role_training_file(stage, role), record)
