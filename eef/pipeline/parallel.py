"""Methods executed in parallel, one worker process each.

Expert data and behavior cloning come first, in the calling process, since every method builds on
them. After that, methods share no file that is written. Results do not depend on `jobs` if the
thread count is fixed (`train.threads`); otherwise floating-point sums are reordered.
"""

from __future__ import annotations

import logging
import signal
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from eef.errors import ConfigError, EefError, WorkerError
from eef.pipeline.pipeline import Pipeline
from eef.pipeline.recipe import Recipe
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import BC, EXPERT, round_methods
from eef.utils.compute import available_cores, process_settings
from eef.utils.processes import SPAWN, Failure, end_process, start_process
from eef.utils.progress import OnProgress, Progress

_log = logging.getLogger(__name__)

_SECONDS_TO_END = 10.0  # time for an optimizer update or a turn to finish


@dataclass(frozen=True, slots=True)
class Crash:
    """An unexpected exception in a worker: its traceback as text."""

    traceback: str


@dataclass(frozen=True, slots=True)
class MethodWorker:
    """A process that executes the stages of one method, on a GPU of its own if there are any."""

    method: str
    process: SpawnProcess
    pipe: Connection
    gpu: str | None


def execute_methods(
    pipeline: Pipeline,
    jobs: int,
    on_progress: OnProgress,
    *,
    only: Sequence[str] | None = None,
    shared: bool = False,
) -> None:
    """Execute all stages that are not done: shared ones here, then `jobs` methods at a time.

    `only` restricts the methods that go through rounds. With one job or one method, everything is
    executed in this process. If the run is `shared`, see `Pipeline.execute_all`.

    If there are GPUs, each job has one of its own, and there are no more jobs than GPUs; see
    `gpus_of`.

    An EefError of any method, or a KeyboardInterrupt, ends the other methods and is raised. Raises
    WorkerError if a worker was killed, and RuntimeError with the worker's traceback for a bug. No
    worker outlives this process.
    """
    run = pipeline.run
    methods = [name for name in round_methods(run.recipe) if only is None or name in only]
    jobs = min(jobs, len(methods))
    gpus = gpus_of(run.recipe, jobs) if jobs > 1 else []
    jobs = min(jobs, len(gpus) or jobs)
    if gpus:
        _check_gpus_suffice(run, methods, min(len(each.split(",")) for each in gpus), jobs)
    apart = methods if jobs > 1 else []
    for stage in run.stages:
        if shared and stage.method in (EXPERT, BC):
            pipeline.execute_or_wait(stage, on_progress)
        elif stage.method in (EXPERT, BC) or (
            stage.method in methods and stage.method not in apart
        ):
            pipeline.execute(stage, on_progress)
    unfinished = {stage.method for stage in run.stages if not run.is_done(stage)}
    if waiting := [method for method in apart if method in unfinished]:
        pipeline.context.release()  # the workers need the GPUs and the memory
        _side_by_side(run, waiting, jobs, gpus, on_progress)


def gpus_of(recipe: Recipe, jobs: int) -> list[str]:
    """The GPUs of up to `jobs` processes, at least one each, as `CUDA_VISIBLE_DEVICES` names them.

    Each process loads a model of its own, and two models may not fit on one GPU. Empty if there is
    no GPU, or if the recipe names one device, which all processes then share; servers of vLLM are
    always on GPUs of their own.
    """
    shared = recipe.model.device not in ("auto", "cuda")
    if shared and recipe.rollouts.engine != "vllm":
        return []
    from eef.models.loading import visible_gpus

    gpus = visible_gpus()
    count = len(gpus)
    if 0 < count < jobs:
        way_out = '; if their models fit on one GPU, name it: `--set model.device="cuda:0"`'
        _log.warning(
            "note: executing %d of %d jobs at a time, one per GPU%s",
            count,
            jobs,
            "" if recipe.rollouts.engine == "vllm" else way_out,
        )
    jobs = min(jobs, count)
    return [",".join(gpus[first::jobs]) for first in range(jobs)]


def _check_gpus_suffice(run: RunDirectory, methods: Sequence[str], gpus: int, jobs: int) -> None:
    """ConfigError if a job lacks the recipe's GPU, or has fewer than a method's ranks."""
    device = run.recipe.model.device
    if device.startswith("cuda:") and int(device[5:] or 0) >= gpus:
        raise ConfigError(
            f"`model.device` is {device!r}; with {jobs} jobs at a time, each has {gpus} GPUs of "
            "its own",
            hint='set it to "auto"',
        )
    for method in methods if device in ("auto", "cuda") else ():
        settings = run.recipes[method].train
        if settings.ranks > gpus and not settings.launcher:
            raise ConfigError(
                f"`train.ranks` is {settings.ranks}; with {jobs} jobs at a time, each has {gpus} "
                "GPUs",
                hint=f"use `--ranks {gpus}`, or fewer `--jobs`",
            )


def threads_of(recipe: Recipe, jobs: int) -> int:
    """CPU threads for each of `jobs` processes: `train.threads` if set, otherwise an equal share.

    With more threads than cores, threads wait for one another in every operation, and torch is
    several times slower.
    """
    return recipe.train.threads or max(1, available_cores() // max(1, jobs))


# parent process
def _side_by_side(
    run: RunDirectory, methods: list[str], jobs: int, gpus: list[str], on_progress: OnProgress
) -> None:
    waiting, free = deque(methods), deque(gpus)
    working: dict[Connection, MethodWorker] = {}
    try:
        while waiting or working:
            while waiting and len(working) < jobs:
                gpu = free.popleft() if gpus else None
                method = waiting.popleft()
                worker = _start(run, method, threads_of(run.recipes[method], jobs), gpu)
                working[worker.pipe] = worker
            for pipe in wait(list(working)):
                assert isinstance(pipe, Connection)
                if not _receive(working[pipe], on_progress):
                    ended = working.pop(pipe)
                    free += [ended.gpu] if ended.gpu is not None else []
    finally:
        _end(list(working.values()))


def _start(run: RunDirectory, method: str, threads: int, gpu: str | None) -> MethodWorker:
    ours, theirs = SPAWN.Pipe(duplex=False)
    devices = {"CUDA_VISIBLE_DEVICES": gpu} if gpu is not None else {}
    with process_settings(threads, devices):
        process = start_process(_work, (run.path, method, theirs), name=f"eef {method}", leaf=False)
    theirs.close()
    return MethodWorker(method, process, ours, gpu)


def _receive(worker: MethodWorker, on_progress: OnProgress) -> bool:
    """Handle one message; False once the worker has ended. Raises the worker's error."""
    try:
        message = worker.pipe.recv()
    except (EOFError, OSError):  # OSError: ended in the middle of a message
        worker.process.join()
        if worker.process.exitcode != 0:
            raise WorkerError(
                f"the process of `{worker.method}` {_cause(worker.process.exitcode)}",
                hint="if it ran out of memory, use fewer `--jobs` or a smaller "
                "`rollouts.batch_size`; stored rollouts are kept",
            ) from None
        return False
    if isinstance(message, Failure):
        raise message.error()
    if isinstance(message, Crash):
        raise RuntimeError(f"in the process of `{worker.method}`:\n{message.traceback}")
    assert isinstance(message, Progress)
    on_progress(message)
    return True


def _cause(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"was killed by {signal.Signals(-exitcode).name}"
    return f"ended with status {exitcode}"


def _end(workers: list[MethodWorker]) -> None:
    """Terminate all workers; kill those that do not end in time."""
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        end_process(worker.process, _SECONDS_TO_END)
        worker.pipe.close()


# worker process
def _work(directory: Path, method: str, pipe: Connection) -> None:
    """Execute the stages of one method; progress and errors go to the parent."""
    try:
        pipeline = Pipeline.open(directory)
        try:
            for stage in pipeline.run.stages:
                if stage.method == method:
                    pipeline.execute(stage, pipe.send)
        finally:
            pipeline.context.close()
    except EefError as error:
        pipe.send(Failure.of(error))
    except Exception:
        pipe.send(Crash(traceback.format_exc()))
