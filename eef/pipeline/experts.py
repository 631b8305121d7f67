"""Experts: scripted players, local models, API models, and files of recorded trajectories."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eef.envs.registry import make_expert
from eef.errors import ConfigError, DataError, EefError
from eef.importers.importer import Importer, ImportReport
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
        # servers that the user runs have the student alone
        local = context.recipe.rollouts.engine == "remote"
        return context.model_policy(name, Author("expert", Path(model).name), local=local)
    if provider == "openai":
        return _api_expert(context, model)
    raise ConfigError(
        f"unknown expert {name!r}",
        hint="`scripted/<preset>`, `hf/<path or hub id>`, `openai/<model>` or `file/<path>`",
    )


def check_expert(context: RunContext, name: str) -> None:
    """Raise an EefError if an expert is not available; loads no model and asks no server.

    ConfigError if another expert of the recipe has the same author: their ids would be equal.
    """
    if is_file(name):
        _expert_file(name)
    elif not name.startswith("hf/"):
        make_expert_policy(context, name)
    author = expert_author(name)
    for other in context.recipe.expert.names:
        if other == name:
            break
        if author is not None and expert_author(other) == author:
            raise ConfigError(
                f"experts `{other}` and `{name}` have the same name, `{author.name}`",
                hint="rename the directory of one of them",
            )
    if context.recipe.expert.names.count(name) > 1:
        raise ConfigError(f"expert `{name}` is listed twice", hint="list each expert once")


def is_file(name: str) -> bool:
    """Whether an expert is a file of recorded trajectories."""
    return name.startswith(FILE_PREFIX)


def expert_author(name: str) -> Author | None:
    """The author of an expert's trajectories; None for a file, whose rows have their own."""
    provider, _, model = name.partition("/")
    if is_file(name):
        return None
    return Author("expert", Path(model).name if provider == "hf" else model)


def expert_rollout_id(author: Author, task: str) -> str:
    """The id of the trajectory of an expert that plays a task."""
    return f"{author}/{task}"


def make_importer(context: RunContext) -> Importer:
    """The importer of a run's expert files, one for all of them: their ids differ.

    Trajectories of tasks that are evaluated on, and of training tasks that the recipe does not use,
    are held out. The ids of the experts that play are taken.
    """
    split = context.recipe.evaluate.split
    used = {task.id for task in context.expert_tasks}
    splits = {"train": context.env.tasks("train"), split: context.env.tasks(split)}
    held_out: dict[str, str] = {}
    if split != "train":
        held_out = {task.id: f"{task.id} is evaluated on" for task in splits[split]}
    unused = (task.id for task in splits["train"] if task.id not in used)
    held_out |= {task: f"{task} is not a training task of this run" for task in unused}
    authors = [expert_author(name) for name in context.recipe.expert.names]
    taken = [
        expert_rollout_id(author, task.id)
        for author in authors
        if author
        for task in splits["train"]
    ]
    return Importer(TaskIndex(context.env, splits), held_out=held_out, taken=taken)


def import_expert(
    importer: Importer, name: str, store: Store, subject: object, on_progress: OnProgress
) -> dict[str, Any]:
    """Import a file's trajectories into the expert store, verified where possible.

    Those that an interrupted import stored are kept. Returns the import report of the file.
    DataError if nothing could be imported, or if the file is not the one that was imported before.
    """
    report = importer.report = ImportReport()
    for item in importer.trajectories([_expert_file(name)]):
        if isinstance(item, Trajectory):
            _store_once(item, store, name)
        on_progress(Progress(subject, report.imported, 0, f"{report.won} won"))
    if not report.imported:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in report.reasons.items())
        raise DataError(
            f"expert `{name}` holds no trajectory to train on ({reasons})",
            hint=f"`eef import {name.removeprefix(FILE_PREFIX)}` lists every row and its problem",
        )
    return report.to_record()


def _store_once(item: Trajectory, store: Store, name: str) -> None:
    if item.id not in store.trajectories:
        store.append(item)
        return
    stored = store.trajectories[item.id]
    if stored.task != item.task or stored.steps != item.steps:
        raise DataError(
            f"expert `{name}` has changed since its import started: {item.id!r} differs at "
            f"{item.source}",
            hint="restore the file, or start another run with `--out DIR`",
        )


def estimate_api_cost(context: RunContext, name: str) -> tuple[Estimate, Estimate]:
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
        sampling=context.sampling(COLLECT, name),
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
        context.recipe.expert.api_of(f"openai/{model}"),
        author=Author("expert", model),
        cache=_response_cache(context),
        tools=context.tools,
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
