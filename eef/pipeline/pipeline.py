"""Pipeline: executes a recipe stage by stage, interruptible and resumable at any time."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from eef.errors import LockedError, StoreError
from eef.pipeline.checks import check_additions, check_names, check_run, check_tasks, merge_recipes
from eef.pipeline.context import RunContext
from eef.pipeline.execution.executors import EXECUTORS
from eef.pipeline.recipe import Recipe
from eef.pipeline.run_directory import FINGERPRINT_FILE, RECIPE_FILE, RunDirectory
from eef.pipeline.stages import EXPERT, Stage, dependencies
from eef.pipeline.status import LOCK_FILE, StatusWriter, wait_for_records
from eef.pipeline.tracking import tracked
from eef.utils.compute import process_settings
from eef.utils.jsonl import disk_errors, read_json, write_json
from eef.utils.locks import acquire_lock, await_lock
from eef.utils.progress import OnProgress, Progress, ignore_progress

_log = logging.getLogger(__name__)

_SECONDS_BETWEEN_TRIES = 1.0


class Pipeline:
    """Executes the stages of a run. Creating one loads no model and plays nothing."""

    def __init__(self, run: RunDirectory) -> None:
        self.run = run
        self.context = RunContext(run)
        self._checked = False

    @classmethod
    def create(cls, path: Path | str, recipe: Recipe, *, shared: bool = False) -> Pipeline:
        """Start a run, or continue one with an equal recipe (StoreError if it is another).

        Methods may be added to a run, since each is independent; those it was started with remain.
        Settings that affect no result may change, such as the budget of an API. Until something has
        been played, the whole recipe may change. A recipe with a wrong name
        raises an EefError before the directory is created or its recipe is extended; see
        `eef.pipeline.checks.check_names`.

        If the run is `shared`, several processes may create it at the same time, each with methods
        of its own.
        """
        path = Path(path)
        pipeline = cls(RunDirectory(path, recipe))
        if not shared:
            return cls._create(pipeline, joined=False)
        check_names(pipeline.context)
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        with await_lock(path / "recipe.lock"):
            return cls._create(pipeline, joined=True)

    @classmethod
    def _create(cls, pipeline: Pipeline, *, joined: bool) -> Pipeline:
        """Write the recipe, extended by the methods of one that has been played.

        If `joined`, also of an equal one that has not been played yet.
        """
        path, recipe = pipeline.run.path, pipeline.run.recipe
        recipe_file = path / RECIPE_FILE
        played = (path / EXPERT).exists()
        if recipe_file.exists() and (played or (joined and _is_equal(recipe_file, recipe))):
            merged = merge_recipes(recipe_file, recipe)
            extended = cls(RunDirectory(path, merged))
            settings = json.loads(merged.to_json())
            if settings != read_json(recipe_file):
                check_additions(extended.context)
                write_json(recipe_file, settings)
            return extended
        check_names(pipeline.context)
        fingerprint = pipeline.context.fingerprint()
        with disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        write_json(path / FINGERPRINT_FILE, fingerprint)
        write_json(recipe_file, json.loads(recipe.to_json()))
        return pipeline

    @classmethod
    def open(cls, path: Path | str) -> Pipeline:
        """The pipeline of an existing run. StoreError if there is none."""
        return cls(RunDirectory.open(path))

    def check(self) -> None:
        """Raise an EefError if the run cannot succeed; see `eef.pipeline.checks`."""
        check_run(self.context)

    def execute(self, stage: Stage, on_progress: OnProgress = ignore_progress) -> None:
        """Execute a stage unless it is done, with the recipe's number of threads.

        StoreError if a stage it depends on is not done, if another process works on this method, or
        if the environment has changed. ConfigError if a task is both trained and tested on.
        """
        if self.run.is_done(stage):
            return
        check_dependencies(self.run, stage)
        if not self._checked:
            check_tasks(self.context)
            self._checked = True
        folder = self.run.folder(stage)
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        with acquire_lock(self.run.store(stage.method) / LOCK_FILE) as lock, self._threads(stage):
            if self.run.is_done(stage):
                return
            with StatusWriter(self.run, stage, lock) as status:
                report = status.watch(on_progress)
                report(Progress(stage, 0, 0))
                for needed in dependencies(stage):
                    wait_for_records(self.run, needed)
                EXECUTORS[stage.kind](self.context, stage, report)
                report(Progress(stage, 0, 0, finished=True))

    def execute_or_wait(self, stage: Stage, on_progress: OnProgress = ignore_progress) -> None:
        """Execute a stage; if another process executes it, wait until it is done.

        If that process ends before the stage is done, the stage is executed here.
        """
        noted = False
        while not self.run.is_done(stage):
            try:
                self.execute(stage, on_progress)
            except LockedError as held:
                if not noted:
                    _log.warning("note: %s; waiting for `%s`", held.message, stage)
                noted = True
                time.sleep(_SECONDS_BETWEEN_TRIES)

    def execute_all(
        self,
        on_progress: OnProgress = ignore_progress,
        *,
        jobs: int | None = None,
        only: Sequence[str] | None = None,
        shared: bool = False,
    ) -> None:
        """Check the run, then execute all stages that are not done, `jobs` methods at a time.

        `jobs` is the recipe's by default. If the run is `shared` with other processes and one of
        them executes the stages that all methods need (expert data and behavior cloning), this one
        waits for them.
        """
        from eef.pipeline.parallel import execute_methods

        try:
            self.check()
            jobs = jobs or self.run.recipe.jobs
            with tracked(self.run, on_progress) as report:
                execute_methods(self, jobs, report, only=only, shared=shared)
        finally:
            self.context.close()

    def _threads(self, stage: Stage) -> AbstractContextManager[None]:
        """`train.threads` for everything that a stage computes; by default what torch has."""
        threads = self.context.recipe_of(stage).train.threads
        return process_settings(threads) if threads else nullcontext()


def _is_equal(recipe_file: Path, recipe: Recipe) -> bool:
    """Whether a run has the same recipe except for its methods."""
    try:
        merge_recipes(recipe_file, recipe)
    except StoreError:
        return False
    return True


def check_dependencies(run: RunDirectory, stage: Stage) -> None:
    """StoreError if a stage that a stage depends on is not done."""
    for needed in dependencies(stage):
        if not run.is_done(needed):
            raise StoreError(
                f"`{stage}` needs `{needed}` first", hint=f"`eef run {run.path}` executes both"
            )
