"""Trials as tasks of a Ray cluster, with resources and retries; finished stages are not repeated.

A trial is one method with one seed. All trials of a seed are in one run directory, which must be on
a disk that every node sees under one path. The first task of a seed collects the expert data and
trains behavior cloning; its trials start when it has ended.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eef.config import parse_settings
from eef.envs.registry import prepare_env
from eef.errors import ClusterError, EefError, WorkerError
from eef.pipeline.parallel import threads_of
from eef.pipeline.pipeline import Pipeline
from eef.pipeline.recipe import Recipe
from eef.pipeline.stages import BC
from eef.utils.cluster import describe_amount, enter_directory, require_resources
from eef.utils.compute import process_settings
from eef.utils.processes import Failure
from eef.utils.progress import ignore_progress
from eef.utils.records import Json

_SECONDS_TO_CANCEL = 30.0
_SECONDS_BETWEEN_LOOKS = 20.0


@dataclass(frozen=True, slots=True)
class TrialTask:
    """The stages of one method in a run; those of behavior cloning include the expert's."""

    directory: Path
    recipe: Recipe
    method: str

    def __str__(self) -> str:
        return f"{self.method}@{self.recipe.seed}"


@dataclass(frozen=True, slots=True)
class TrialResources:
    """The resources of a task, and how often it is restarted after its node or process has died.

    `gpus` is None for one GPU if the cluster has any and the model may use it.
    """

    cpus: float = 1.0
    gpus: float | None = None
    retries: int = 3

    def of_cluster(self, ray: Any, recipe: Recipe) -> dict[str, float]:
        """Resources by Ray's names. ClusterError if no node of the cluster has them."""
        gpus = self.gpus
        if gpus is None:
            wants = recipe.model.device == "auto" or recipe.model.device.startswith("cuda")
            gpus = 1.0 if wants and ray.cluster_resources().get("GPU", 0) else 0.0
        wanted = {"CPU": self.cpus, **({"GPU": gpus} if gpus else {})}
        require_resources(ray, wanted, "a trial")
        return wanted


def execute_trials(
    ray: Any,
    tasks: Iterable[TrialTask],
    resources: TrialResources,
    *,
    on_note: Callable[[str], None],
    on_end: Callable[[TrialTask, EefError | None], None],
) -> list[tuple[TrialTask, EefError]]:
    """Execute trials in a cluster; returns those that failed, with their errors.

    A trial that fails does not stop the others, and what it has stored is kept. An interruption
    ends all of them.
    """
    chosen = list(tasks)
    if not chosen:
        return []
    wanted = resources.of_cluster(ray, chosen[0].recipe)
    free = ray.available_resources()
    for name, amount in wanted.items():
        if free.get(name, 0) < amount:
            on_note(
                f"note: {describe_amount(name, amount)} for a trial is not free in the cluster "
                "now; trials start as soon as it is"
            )
    execute = ray.remote(
        max_calls=1,  # what torch and a JVM have allocated ends with the process
        max_retries=resources.retries,
        num_cpus=wanted["CPU"],
        num_gpus=wanted.get("GPU", 0),
    )(_execute)
    here, shared, pending = os.getcwd(), dict[Path, Any](), dict[Any, TrialTask]()
    for task in chosen:
        settings, directory = task.recipe.model_dump(mode="json"), str(task.directory.resolve())
        if task.directory not in shared:
            shared[task.directory] = execute.remote(settings, directory, here, BC, None)
        first = shared[task.directory]
        same = task.method == BC
        reference = first if same else execute.remote(settings, directory, here, task.method, first)
        pending[reference] = task
    return _await(ray, pending, wanted, on_note, on_end)


def _await(
    ray: Any,
    pending: dict[Any, TrialTask],
    wanted: dict[str, float],
    on_note: Callable[[str], None],
    on_end: Callable[[TrialTask, EefError | None], None],
) -> list[tuple[TrialTask, EefError]]:
    failed = []
    noted = ""
    try:
        while pending:
            ended, _ = ray.wait(list(pending), num_returns=1, timeout=_SECONDS_BETWEEN_LOOKS)
            if not ended:
                noted, before = _what_is_missing(ray, wanted), noted
                if noted and noted != before:
                    on_note(f"note: {noted}; waiting for one")
                continue
            [reference] = ended
            task = pending.pop(reference)
            error = _error_of(ray, reference, task)
            if error is not None:
                failed.append((task, error))
            on_end(task, error)
    except BaseException:
        for reference in pending:
            ray.cancel(reference)
        ray.wait(list(pending), num_returns=len(pending), timeout=_SECONDS_TO_CANCEL)
        raise
    return failed


def _what_is_missing(ray: Any, wanted: dict[str, float]) -> str:
    """The reason why trials wait for a node; "" if the cluster has one that can take them."""
    try:
        require_resources(ray, wanted, "a trial")
    except ClusterError as error:
        return error.message
    return ""


def _error_of(ray: Any, reference: Any, task: TrialTask) -> EefError | None:
    """How a task ended. RuntimeError, with its traceback, for a bug."""
    try:
        outcome = ray.get(reference)
    except ray.exceptions.OutOfMemoryError:
        return WorkerError(
            f"a node ran out of memory while it executed {task}",
            hint="reserve more for each trial (`--trial-cpus`), or use larger nodes; stored "
            "rollouts are kept",
        )
    except ray.exceptions.RayError as error:
        return WorkerError(
            f"the process that executed {task} ended repeatedly ({type(error).__name__})",
            hint="see `eef status`, and the logs of Ray on its node; stored rollouts are kept",
        )
    if isinstance(outcome, Failure):
        return outcome.error()
    if outcome is not None:
        raise RuntimeError(f"in the task of {task}:\n{outcome}")
    return None


def _execute(
    settings: Json, directory: str, here: str, method: str, before: Failure | str | None
) -> Failure | str | None:
    """A task: execute the stages of a method. Returns an error, a bug's traceback, or None.

    `before` is how the seed's first task ended.
    """
    if before is not None:
        return before
    try:
        enter_directory(here)
        recipe = parse_settings(Recipe, settings, source=directory)
        prepare_env(recipe.env.name, recipe.env.options, ignore_progress)
        pipeline = Pipeline.create(directory, recipe, shared=True)
        with process_settings(threads_of(recipe, 1)):
            pipeline.execute_all(jobs=1, only=[method], shared=True)
    except EefError as error:
        return Failure.of(error)
    except Exception:
        return traceback.format_exc()
    return None
