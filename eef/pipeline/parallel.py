"""Workers: the methods of a run side by side, each in a process of its own. Between `eef.pipeline` and `eef.cli`.

The experts and behaviour cloning come first, in the caller's process, since every method builds on them. From there on
methods share nothing that is written, so each can go through its rounds by itself. What a run leaves does not depend on
the number of jobs, as long as each process computes with the same number of threads (floating point sums in another
order else): set `train.threads` where the last bit must be the same for any `jobs`.
"""

from __future__ import annotations

import signal
import traceback
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from eef.errors import EefError, WorkerError
from eef.pipeline.pipeline import Pipeline
from eef.pipeline.recipe import Recipe
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import BC, EXPERT, round_methods
from eef.utils.compute import available_cores, process_settings
from eef.utils.processes import SPAWN, Failure, end_process, start_process
from eef.utils.progress import OnProgress, Progress

_SECONDS_TO_END = 10.0  # an optimizer update or a turn is awaited that long


@dataclass(frozen=True, slots=True)
class Bug:
    """Any other exception in a worker: its traceback as text."""

    text: str


@dataclass(frozen=True, slots=True)
class Worker:
    """A process that carries out the stages of one method."""

    method: str
    process: SpawnProcess
    pipe: Connection


def execute_methods(
    pipeline: Pipeline, jobs: int, on_progress: OnProgress, *, only: Sequence[str] | None = None
) -> None:
    """Carry out all stages of a run that are not done: shared ones in this process, then `jobs` methods at a time.

    With `only`, of the methods that go through rounds these alone.

    With one job, or one method, everything happens in this process. An EefError of any method ends the others and is
    raised; so does an interruption (KeyboardInterrupt). Raises WorkerError where a worker was ended from outside, and
    RuntimeError with the worker's traceback for a bug in it. No worker outlives this process, however it ends.
    """
    run = pipeline.run
    methods = [name for name in round_methods(run.recipe) if only is None or name in only]
    apart = methods if min(jobs, len(methods)) > 1 else []
    for stage in run.stages:
        if stage.method in (EXPERT, BC) or (stage.method in methods and stage.method not in apart):
            pipeline.execute(stage, on_progress)
    unfinished = {stage.method for stage in run.stages if not run.is_done(stage)}
    _side_by_side(
        run,
        [method for method in apart if method in unfinished],
        min(jobs, len(methods)),
        on_progress,
    )


def threads_of(recipe: Recipe, jobs: int) -> int:
    """CPU threads for each of `jobs` processes: `train.threads`, else an equal share of the cores.

    Threads that outnumber the cores wait for one another in every operation and make torch several times slower.
    """
    return recipe.train.threads or max(1, available_cores() // max(1, jobs))


# --- the parent's side ---------------------------------------------------------------------------------------------
def _side_by_side(
    run: RunDirectory, methods: list[str], jobs: int, on_progress: OnProgress
) -> None:
    waiting = deque(methods)
    working: dict[Connection, Worker] = {}
    try:
        while waiting or working:
            while waiting and len(working) < jobs:
                worker = _start(run, waiting.popleft(), threads_of(run.recipe, jobs))
                working[worker.pipe] = worker
            for pipe in wait(list(working)):
                assert isinstance(pipe, Connection)
                if not _hear(working[pipe], on_progress):
                    del working[pipe]
    finally:
        _end(list(working.values()))


def _start(run: RunDirectory, method: str, threads: int) -> Worker:
    ours, theirs = SPAWN.Pipe(duplex=False)
    with process_settings(threads):
        process = start_process(_work, (run.path, method, theirs), name=f"eef {method}", leaf=False)
    theirs.close()
    return Worker(method, process, ours)


def _hear(worker: Worker, on_progress: OnProgress) -> bool:
    """Take one message; False once the worker has ended. Raises what it failed with."""
    try:
        message = worker.pipe.recv()
    except (EOFError, OSError):  # OSError: ended in the middle of a message
        worker.process.join()
        if worker.process.exitcode != 0:
            raise WorkerError(
                f"the process that worked on `{worker.method}` was ended {_how(worker.process.exitcode)}",
                hint="out of memory? take fewer `--jobs` or a smaller `rollouts.batch_size`; nothing stored is lost",
            ) from None
        return False
    if isinstance(message, Failure):
        raise message.error()
    if isinstance(message, Bug):
        raise RuntimeError(f"in the process that worked on `{worker.method}`:\n{message.text}")
    assert isinstance(message, Progress)
    on_progress(message)
    return True


def _how(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        return f"by {signal.Signals(-exitcode).name}"
    return f"with status {exitcode}"


def _end(workers: list[Worker]) -> None:
    """Ask all to end, then make them."""
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        end_process(worker.process, _SECONDS_TO_END)
        worker.pipe.close()


# --- the worker's side ---------------------------------------------------------------------------------------------
def _work(directory: Path, method: str, pipe: Connection) -> None:
    """What a worker does: the stages of one method, each progress sent to the parent."""
    try:
        pipeline = Pipeline.open(directory)
        for stage in pipeline.run.stages:
            if stage.method == method:
                pipeline.execute(stage, pipe.send)
    except EefError as error:
        pipe.send(Failure.of(error))
    except Exception:
        pipe.send(Bug(traceback.format_exc()))
