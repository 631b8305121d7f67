"""What follows a training: the model card, and the removal of files that are not kept."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from eef.models.manifest import MANIFEST_FILE, REMOVED_FILE, is_complete
from eef.pipeline.context import RunContext
from eef.pipeline.evaluation import EvalResult
from eef.pipeline.model_card import model_card
from eef.pipeline.roles import role_model, trained_roles
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import Stage
from eef.utils.jsonl import write_json, write_text


def finish_training(context: RunContext, trained: Stage) -> None:
    """Write the model card of a finished training, and remove checkpoints that are not kept.

    Later stages call this again, in case the process of the training was killed before it.
    """
    run = context.run
    if run.last_file(trained).is_file() and not _card_file(run, trained).is_file():
        write_card(context, trained, run.evaluation(trained.method, trained.round))
    _remove_what_rounds_passed_on(context, trained)


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
    if not is_complete(checkpoint):
        return
    write_json(checkpoint / REMOVED_FILE, {"setting": "train.keep_checkpoints"})
    # the manifest last: without it, an interrupted removal would not be continued
    for path in sorted(checkpoint.iterdir(), key=lambda path: path.name == MANIFEST_FILE):
        if path.is_dir():  # such as several chat templates
            shutil.rmtree(path)
        elif path.name != REMOVED_FILE:
            path.unlink()


def write_card(context: RunContext, trained: Stage, result: EvalResult | None) -> None:
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
