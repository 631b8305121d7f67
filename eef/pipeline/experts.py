"""Experts: scripted players, local models, API models, and files of recorded trajectories."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eef.envs.registry import make_expert
from eef.errors import ConfigError, DataError, EefError
from eef.importers.importer import Importer
from eef.importers.verify import TaskIndex
from eef.pipeline.cost_estimate import Estimate, estimate_cost
from eef.pipeline.stages import COLLECT, EXPERT
from eef.policies.response_cache import CACHE_FILE, ResponseCache
from eef.policies.settings import ApiSettings
from eef.policy import Policy
from eef.rollouts.store import Store
from eef.trajectory import Author, Trajectory
from eef.utils.extras import missing_package
from eef.utils.progress import OnProgress, Progress

if TYPE_CHECKING:
    from eef.pipeline.context import RunContext

FILE_PREFIX = "file/"


def make_expert_policy(context: RunContext, name: str) -> Policy:
    """The expert of a recipe's name. ConfigError for an unknown kind of expert."""
    provider, _, model = name.partition("/")
    if provider == "scripted":
        return make_expert(context.env, model)
    if provider == "hf":
        return context.local_policy(name, Author("expert", Path(model).name))
    if provider == "openai":
        return _api_expert(context, model)
    raise ConfigError(
        f"unknown expert {name!r}",
        hint="`scripted/<preset>`, `hf/<path or hub id>`, `openai/<model>` or `file/<path>`",
    )


def check_expert(context: RunContext, name: str) -> None:
    """Raise an EefError if an expert is not available; loads no model and asks no server."""
    if name.startswith(FILE_PREFIX):
        _expert_file(name)
    elif not name.startswith("hf/"):
        make_expert_policy(context, name)


def import_expert(
    context: RunContext, name: str, store: Store, subject: object, on_progress: OnProgress
) -> dict[str, Any]:
    """Import a file's trajectories into the expert store, verified where possible.

    Trajectories of tasks that are evaluated on, and of training tasks that the recipe does not use,
    are held out. Returns the import report. DataError if nothing could be imported.
    """
    split = context.recipe.evaluate.split
    used = {task.id for task in context.expert_tasks}
    splits = {"train": context.env.tasks("train"), split: context.env.tasks(split)}
    held_out: dict[str, str] = {}
    if split != "train":
        held_out = {task.id: f"{task.id} is evaluated on" for task in splits[split]}
    unused = (task.id for task in splits["train"] if task.id not in used)
    held_out |= {task: f"{task} is not a training task of this run" for task in unused}
    importer = Importer(TaskIndex(context.env, splits), held_out=held_out)
    report = importer.report
    for item in importer.trajectories([_expert_file(name)]):
        if isinstance(item, Trajectory) and item.id not in store.trajectories:
            store.append(item)
        on_progress(Progress(subject, report.imported, 0, f"{report.won} won"))
    if not report.imported:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in report.reasons.items())
        raise DataError(
            f"expert `{name}` holds no trajectory to train on ({reasons})",
            hint=f"`eef import {name.removeprefix(FILE_PREFIX)}` lists every row and its problem",
        )
    return report.to_record()


def estimate_api_cost(context: RunContext) -> tuple[Estimate, Estimate]:
    """The likely and the highest cost of an `openai/<model>` expert on the training tasks."""
    guide: Policy | None
    try:
        guide = make_expert(context.env, "strong")
    except EefError:
        guide = None
    return estimate_cost(
        context.env,
        context.expert_tasks,
        guide,
        settings=context.recipe.expert.api or ApiSettings(),
        sampling=context.sampling(COLLECT),
        step_limit=context.step_limit,
    )


def api_usage(context: RunContext) -> dict[str, Any] | None:
    """Requests, tokens, cost and failures of API experts so far; None if there are none."""
    path = _response_cache(context)
    if not path.is_file():
        return None
    return ResponseCache(path, context.recipe.expert.api or ApiSettings()).usage.to_record()


def _api_expert(context: RunContext, model: str) -> Policy:
    try:
        from eef.policies.openai import ApiPolicy
    except ImportError as error:
        raise missing_package("openai", f"the expert `openai/{model}`") from error
    return ApiPolicy(
        model,
        context.recipe.expert.api or ApiSettings(),
        author=Author("expert", model),
        cache=_response_cache(context),
        command=f"eef collect {shlex.quote(str(context.run.path))}",
    )


def _response_cache(context: RunContext) -> Path:
    return context.run.store(EXPERT) / CACHE_FILE


def _expert_file(name: str) -> Path:
    path = Path(name.removeprefix(FILE_PREFIX)).expanduser()
    if not path.is_file():
        raise DataError(
            f"expert `{name}`: no such file `{path}`",
            hint="paths are relative to the directory where `eef` is run",
        )
    return path
