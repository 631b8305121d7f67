"""Checks that refuse a run before it fails hours later."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from eef import __version__
from eef.config import parse_settings
from eef.errors import ConfigError, StoreError
from eef.models.location import locate
from eef.models.manifest import training_tasks
from eef.pipeline.experts import check_expert
from eef.pipeline.recipe import Recipe
from eef.pipeline.roles import check_roles
from eef.pipeline.stages import BC, EXPERT
from eef.pipeline.tracking import check_trackers
from eef.rollouts.settings import Engine
from eef.utils.extras import require_package
from eef.utils.jsonl import read_json

if TYPE_CHECKING:
    from eef.models.settings import LoraSettings
    from eef.pipeline.context import RunContext

LIBRARIES = ("torch", "transformers")
VERSIONS = ("eef", "python", *LIBRARIES, "processor")
INFERENCE = ("inference", "inference_version", "dtype")
"""Keys of a fingerprint that describe the engine of completions."""
FREE_SETTINGS = (
    "jobs",
    "track",
    "env.user.api",
    "expert.api",
    "roles.*.api",
    "rollouts.cache_gib",
    "rollouts.server.arguments",
    "rollouts.server.backoff",
    "rollouts.server.during_training",
    "rollouts.server.key",
    "rollouts.server.port",
    "rollouts.server.probe",
    "rollouts.server.python",
    "rollouts.server.retries",
    "rollouts.server.start_timeout",
    "rollouts.server.timeout",
    "rollouts.server.tolerance",
    "rollouts.server.urls",
    "train.gradient_checkpointing",
    "train.launcher",
    "train.max_tokens_per_microbatch",
    "train.ranks",
    "train.save_every",
    "train.threads",
)
"""Settings and tables that may change during a run: they affect speed, memory, cost or what is
shown, and at most the last bits of results. `*` is any name."""

FREE_IN_WORDS = (
    "`jobs`, `track`, settings of servers (`expert.api`, `roles.<name>.api`, `rollouts.server` but "
    "not its `context`, `count`, `model` and `placement`) and of speed and memory (`train.ranks`, "
    "`train.max_tokens_per_microbatch`, …)"
)
"""The settings that may change, for hints."""


def versions() -> dict[str, str]:
    """This package, Python, libraries and processor: they determine the last bits of numbers."""
    found = {"eef": __version__, "python": platform.python_version(), "processor": processor_name()}
    for library in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[library] = version(library)
    return found


def processor_name() -> str:
    """The model of the processor, such as `AMD EPYC 9554`; its architecture if it is not known."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Keys on which two fingerprints differ.

    Versions, the processor, the engine of inference and the date are ignored: they do not affect
    the environment's behavior.
    """
    keys = {*one, *other} - {*VERSIONS, *INFERENCE, *_misnamed(one, other), "date"}
    return sorted(key for key in keys if one.get(key) != other.get(key))


def _misnamed(*fingerprints: Mapping[str, Any]) -> set[str]:
    """Keys under which a fingerprint of an older development version names its inference engine,
    where the version of the environment's own `engine` belongs."""
    engines = {each.get("engine") for each in fingerprints}
    return {"engine", "engine_version"} if engines & set(get_args(Engine)) else set()


def check_names(context: RunContext) -> None:
    """Raise an EefError if a method, an option, an expert or the student's directory is wrong.

    Needs neither torch nor a run directory, so that a run with such a mistake is never created. The
    run directory and the student's directory must not be the same, nor one inside the other: their
    files would mix.
    """
    assert context.run.methods, "each is created from its options"
    _check_experts(context)
    check_acts(context)
    name, path = context.recipe.model.name, context.run.path.resolve()
    student = Path(locate(name))
    if student.is_dir() and (student.is_relative_to(path) or path.is_relative_to(student)):
        raise ConfigError(
            f"the run directory `{context.run.path}` and the student `{name}` share a directory",
            hint="choose another run directory with `--out`, or keep the model outside of it",
        )


def check_additions(context: RunContext) -> None:
    """Raise an EefError if something is wrong with the additions to a run that was played.

    They remain in the run's recipe, so a mistake in them could not be corrected.
    """
    check_names(context)
    check_replayable(context)
    check_roles(context)


def check_tasks(context: RunContext) -> None:
    """StoreError if the environment has changed, ConfigError if test tasks are trained on.

    Needs no torch and loads no model.
    """
    run = context.run
    _check_fingerprint(run.path, run.fingerprint, context.fingerprint())
    _check_disjoint_splits(context)


def check_run(context: RunContext) -> None:
    """Raise an EefError if the run cannot succeed: its environment has changed, an expert is not
    available, test tasks are trained on, or the student cannot be used."""
    run = context.run
    check_tasks(context)
    _check_experts(context)
    if not _has_expert_data(context):
        for name in run.recipe.expert.names:
            if name.startswith("hf/"):
                require_package("torch", f"the expert `{name}`")
                _check_model(context, name)
                _check_template(context, name)
    check_replayable(context)
    check_acts(context)
    check_roles(context)
    check_trackers(run.recipe.track)
    if run.recipe.rollouts.engine != "local" and not all(map(run.is_done, run.stages)):
        context.engines.check()
    if not all(run.is_done(stage) for stage in run.stages if stage.kind == "train"):
        require_package("torch", "training a student")
        _check_ranks(context)
        _check_model(context, run.recipe.model.name, run.recipe.model.lora)
        _check_template(context, run.recipe.model.name)
        _check_student_tasks(context)


def is_free(key: str) -> bool:
    """Whether a dotted setting may change during a run; also as an override of one method.

    >>> is_free("train.ranks"), is_free("overrides.cgi.roles.critic.api.key"), is_free("seed")
    (True, True, False)
    """
    if key.startswith("overrides."):
        key = key.split(".", 2)[-1]
    return any(fnmatchcase(key, name) or fnmatchcase(key, f"{name}.*") for name in FREE_SETTINGS)


def merge_recipes(path: Path, recipe: Recipe) -> Recipe:
    """The recipe of an existing run, extended by the methods of another recipe.

    `FREE_SETTINGS` are those of the other recipe. The `api` of experts and roles is one of them,
    since every response is kept under its model, messages and sampling. Roles may be added. All
    other settings must be equal; StoreError otherwise.
    """
    started = parse_settings(Recipe, read_json(path), source=str(path))
    shared = {*started.methods, BC}  # every run includes behavior cloning, named or not
    roles = started.roles.keys() & recipe.roles.keys()
    old, new = (
        _fixed(
            {
                **each.model_dump(exclude={"methods"}),
                **_of_methods(each, shared & {*recipe.methods, BC}),
                "roles": {name: each.roles[name].model_dump() for name in roles},
            }
        )
        for each in (started, recipe)
    )
    if old != new:
        keys = sorted(key for key in {*old, *new} if new.get(key) != old.get(key))
        raise StoreError(
            f"`{path.parent}` was started with another recipe (they differ in: {', '.join(keys)})",
            hint="choose another directory with `--out`; in this one, only `methods`, "
            f"{FREE_IN_WORDS} may change",
        )
    settings = recipe.model_dump()
    settings["methods"] = tuple(dict.fromkeys((*started.methods, *recipe.methods)))
    settings["roles"] = {
        name: each.model_dump() for name, each in {**started.roles, **recipe.roles}.items()
    }
    settings["options"] = {**started.options, **recipe.options}
    settings["overrides"] = {**started.overrides, **recipe.overrides}
    return parse_settings(Recipe, settings, source=str(path))


def _of_methods(recipe: Recipe, names: AbstractSet[str]) -> dict[str, dict[str, Any]]:
    """The options and overrides of some methods."""
    options, overrides = (
        {name: table for name, table in tables.items() if name in names}
        for tables in (recipe.options, recipe.overrides)
    )
    return {"options": options, "overrides": overrides}


def _fixed(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The settings that may not change, without empty tables."""
    fixed = {
        key: _fixed(value, f"{prefix}{key}.") if isinstance(value, dict) else value
        for key, value in settings.items()
        if not is_free(prefix + key)
    }
    return {key: value for key, value in fixed.items() if value != {}}


def _check_fingerprint(path: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """StoreError if the environment has changed: rollouts of two environments must not mix."""
    differing = differences(then, json.loads(json.dumps(now)))
    if differing:
        raise StoreError(
            f"`{path}` was started in another environment (it differs in: {', '.join(differing)})",
            hint="restore the environment's data and settings, or start a run in another directory",
        )


def _check_experts(context: RunContext) -> None:
    """Raise an EefError if an expert that has yet to play or be imported is not available."""
    if not _has_expert_data(context):
        for name in context.recipe.expert.names:
            check_expert(context, name)


def _has_expert_data(context: RunContext) -> bool:
    """Whether all expert data that the run needs is stored."""
    run = context.run
    return all(run.is_done(stage) for stage in run.stages if stage.method == EXPERT)


def check_replayable(context: RunContext) -> None:
    """ConfigError if a method branches from states that the environment cannot restore."""
    if context.env.replayable:
        return
    branching = [name for name, each in context.run.methods.items() if each.branches]
    if branching:
        raise ConfigError(
            f"environment {context.env.name!r} cannot be replayed, and method {branching[0]!r} "
            "starts rollouts inside recorded episodes",
            hint="use methods that start only from tasks, such as `bc` and `rft6`",
        )


def check_acts(context: RunContext) -> None:
    """ConfigError if a method trains on acts, and thought blocks that were sampled are dropped."""
    if context.recipe.chat.thoughts == "kept":
        return
    if names := [name for name, each in context.run.methods.items() if each.acts]:
        raise ConfigError(
            f'`chat.thoughts` is "dropped", and method {names[0]!r} trains on completions exactly '
            "as they were sampled, thoughts included",
            hint='set it to "kept", or use methods that imitate, such as `eef`',
        )


def _check_disjoint_splits(context: RunContext) -> None:
    """ConfigError if a task is both trained and tested on."""
    trained = {task.id for task in context.train_tasks}
    shared = [task.id for task in context.test_tasks if task.id in trained]
    if shared:
        raise ConfigError(
            f"{len(shared)} of the test tasks are training tasks, for example {shared[0]}",
            hint=f"test on another split: `evaluate.split` is {context.recipe.evaluate.split!r}",
        )


def _check_model(context: RunContext, name: str, lora: LoraSettings | None = None) -> None:
    """ModelError if a model cannot be loaded, or cannot have the recipe's adapters."""
    from eef.models.loading import check_model

    check_model(name, device=context.recipe.model.device, lora=lora)


def _check_ranks(context: RunContext) -> None:
    """ConfigError if there are more ranks than GPUs, or than cores if there is no GPU."""
    from eef.training.ranks import check_rank_devices

    for recipe in context.run.recipes.values():
        if recipe.train.ranks > 1 and not recipe.train.launcher:
            check_rank_devices(recipe.train.ranks, recipe.model.device)


def _check_template(context: RunContext, model_name: str) -> None:
    """ModelError if a model's chat template cannot render the conversations of this run."""
    renderer = context.base_renderer(model_name)
    for suffix in {method.prompt_suffix for method in context.run.methods.values()}:
        renderer.check("\n\n".join(part for part in (context.prompt, suffix) if part))


def _check_student_tasks(context: RunContext) -> None:
    """ConfigError if, by its manifest, the student was itself trained on a task of this run."""
    name = context.recipe.model.name
    seen = set(training_tasks(name))
    tasks = (*context.train_tasks, *context.test_tasks)
    played = [task.id for task in tasks if task.id in seen]
    if played:
        raise ConfigError(
            f"the student `{name}` was trained on {len(played)} tasks of this recipe when it was "
            f"made, for example {played[0]}",
            hint="use other splits (`evaluate.split`), or build a student from other tasks",
        )
