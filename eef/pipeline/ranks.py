"""Training of a round by several ranks: `eef` starts them, and torchrun runs this module in each.

    torchrun --standalone --nproc-per-node 8 -m eef.pipeline.ranks DIR METHOD ROUND

Every rank opens the run directory, renders the examples and takes part in the training. Rank 0
holds the lock of the method and writes the files of the stage. `eef run` starts the same command
(or `train.launcher`) as a group of processes that ends with it, and reads the progress and errors
of the ranks from files in `DIR/METHOD/roundN/ranks/`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from eef import errors
from eef.config import unknown_name
from eef.errors import ConfigError, EefError, WorkerError
from eef.pipeline.stages import Stage
from eef.pipeline.status import LOCK_FILE, wait_until_done
from eef.utils.compute import available_cores
from eef.utils.guard import Guarded
from eef.utils.jsonl import disk_errors, read_json, write_json
from eef.utils.locks import acquire_lock
from eef.utils.progress import OnProgress, Progress, ignore_progress

if TYPE_CHECKING:
    from eef.pipeline.context import RunContext
    from eef.pipeline.recipe import Recipe

_PROGRESS, _LOG = "progress.jsonl", "ranks.log"
_SECONDS = 0.2  # between two looks at the progress
_SECONDS_TO_APPEAR = 30.0
_SIGNALS = {-number: number.name for number in signal.Signals}


def train_in_ranks(context: RunContext, stage: Stage, on_progress: OnProgress) -> None:
    """Train in processes of their own, `train.ranks` of them; returns when the stage is done.

    The error of a rank is raised here. WorkerError if a rank was killed. No rank outlives this
    process.
    """
    run, recipe = context.run, context.recipe_of(stage)
    ranks = recipe.train.ranks
    directory = run.folder(stage) / "ranks"
    with disk_errors(directory):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
    command = [*_launcher(recipe), "-m", __name__, str(run.path), stage.method, str(stage.round)]
    threads = recipe.train.threads or max(1, available_cores() // ranks)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",
    }
    log = directory / _LOG
    guarded = Guarded([*command, "--locked"], log, environment)
    seen = 0
    try:
        while guarded.runs:
            time.sleep(_SECONDS)
            reports, seen = _read_progress(directory / _PROGRESS, seen)
            for report in reports:
                on_progress(replace(report, subject=stage))
        status = guarded.status or 0
    finally:
        guarded.end()
    # a shared disk may show late what a rank elsewhere has written
    if not wait_until_done(run, stage, _SECONDS_TO_APPEAR if status == 0 else 0.0):
        raise _failure(directory, ranks, status)
    shutil.rmtree(directory, ignore_errors=True)


def _launcher(recipe: Recipe) -> list[str]:
    """The command that starts ranks, up to the module."""
    if recipe.train.launcher:
        return list(recipe.train.launcher)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*torchrun, "--nproc-per-node", str(recipe.train.ranks)]


def _read_progress(path: Path, start: int) -> tuple[list[Progress], int]:
    """The complete lines of the progress from a byte on, and where they end."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            text = file.read()
    except OSError:  # nothing is written yet
        return [], start
    text = text[: text.rfind(b"\n") + 1]
    records = [json.loads(line) for line in text.splitlines()]
    reports = [
        Progress("", each["done"], each["total"], each["note"], losses=tuple(each["losses"]))
        for each in records
    ]
    return reports, start + len(text)


def _failure(directory: Path, ranks: int, launcher_status: int) -> EefError:
    """The error of a training that ended without a result."""
    for path in sorted(directory.glob("error-*.json")):
        record = read_json(path)
        kind = getattr(errors, record["kind"])
        error: EefError = kind(record["message"], hint=record["hint"])
        return error
    log = directory / _LOG
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    ends = re.findall(r"rank\s*: (\d+).*\n\s*exitcode\s*: (-?\d+)", text)
    killed = [(rank, int(status)) for rank, status in ends if int(status) in _SIGNALS]
    # torchrun itself terminates the others
    killed.sort(key=lambda each: each[1] == -signal.SIGTERM)
    if killed:
        rank, status = killed[0]
        return WorkerError(
            f"rank {rank} of {ranks} was killed by {_SIGNALS[status]}",
            hint="if it ran out of memory, give the job more, or use fewer `train.ranks`, each of "
            "which first loads the whole model; on the CPU, lower "
            "`train.max_tokens_per_microbatch`. The same command continues from the latest "
            "training checkpoint (`train.save_every`)",
        )
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    raised = [line for line in lines if re.search(r"\w(Error|Exception)\b.*: ", line)]
    reason = f": {(raised or lines)[-1].split('rank0]: ')[-1]}" if lines else ""
    if not lines and (ended_by := _SIGNALS.get(128 - launcher_status)):
        reason = f": their launcher was killed by {ended_by}"
    return WorkerError(
        f"the {ranks} ranks ended without a result{reason}",
        hint=f"see `{log}`; the same command continues the training",
    )


# in each rank


def train_rank(
    path: Path,
    method: str,
    round: int,
    *,
    locked: bool = False,
    on_progress: OnProgress = ignore_progress,
) -> None:
    """Take part in the training of a round, in a process that torchrun or Ray Train has started.

    `locked` means that the process that started the ranks holds the method's lock, and has trained
    the roles. Errors are those of `eef.pipeline.execution.train`; ConfigError if the run has no
    such training, or if a role is not trained yet.
    """
    from eef.pipeline.context import RunContext
    from eef.pipeline.execution.train import train_here
    from eef.pipeline.execution.train_roles import untrained_roles
    from eef.pipeline.pipeline import check_dependencies
    from eef.pipeline.run_directory import RunDirectory
    from eef.training.ranks import join_ranks

    run = RunDirectory.open(path)
    trainings = [stage for stage in run.stages if stage.kind == "train"]
    stage = Stage(method, round, "train")
    if stage not in trainings:
        raise unknown_name("training", str(stage), [str(each) for each in trainings])
    check_dependencies(run, stage)
    context = RunContext(run)
    untrained = [] if locked or run.is_done(stage) else untrained_roles(context, stage)
    if untrained:
        raise ConfigError(
            f"`{stage}` also trains the role `{untrained[0]}`; ranks that torchrun starts train "
            "only the student",
            hint=f"`eef stage train {shlex.quote(str(path))} --method {method} --round {round} "
            "--ranks N` trains both",
        )
    ranks = join_ranks(run.recipes[method].model.device)
    alone = ranks.first and not locked
    with acquire_lock(run.store(method) / LOCK_FILE) if alone else nullcontext():
        done = run.is_done(stage)
        ranks.agree(bytes(done), "stages that are done")
        if not done:
            train_here(context, stage, on_progress if ranks.first else ignore_progress, ranks)
    ranks.wait()


def main() -> None:
    """The entry point that torchrun runs."""
    parser = argparse.ArgumentParser(prog="eef.pipeline.ranks", description=train_rank.__doc__)
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("method", metavar="METHOD")
    parser.add_argument("round", type=int, metavar="ROUND")
    parser.add_argument("--locked", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    _end_with_launcher()
    directory = chosen.directory / chosen.method / f"round{chosen.round}" / "ranks"
    report = _reporter(directory / _PROGRESS) if chosen.locked else _print_progress
    with _errors(directory if chosen.locked else None):
        train_rank(
            chosen.directory,
            chosen.method,
            chosen.round,
            locked=chosen.locked,
            on_progress=report,
        )
    sys.stdout.flush()
    # without the interpreter's end, at which a thread of gloo now and then aborts the process
    os._exit(0)


@contextmanager
def _errors(directory: Path | None) -> Iterator[None]:
    """End this process with status 2 after an EefError, which `directory` receives as a file."""
    try:
        yield
    except EefError as error:
        rank = os.environ.get("RANK", "0")
        if directory is not None:
            record = {"kind": type(error).__name__, "message": error.message, "hint": error.hint}
            with suppress(EefError):
                write_json(directory / f"error-{rank}.json", record)
        hint = f"\nhint: {error.hint}" if error.hint else ""
        print(f"error: rank {rank}: {error.message}{hint}", file=sys.stderr, flush=True)
        os._exit(EefError.exit_status)  # without waiting for ranks that will not come
    finally:
        sys.stderr.flush()


def _reporter(path: Path) -> OnProgress:
    """A callback that appends to the file which the starting process reads."""

    def report(progress: Progress) -> None:
        record = {name: getattr(progress, name) for name in ("done", "total", "note", "losses")}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    return report


def _print_progress(progress: Progress) -> None:
    if progress.total:
        counts = f"{progress.done}/{progress.total}"
        print(f"{progress.subject}: {counts} {progress.note}", file=sys.stderr, flush=True)


def _end_with_launcher() -> None:
    """End this process when torchrun has ended, which leaves its ranks in groups of their own."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, name="watch torchrun", daemon=True).start()


if __name__ == "__main__":
    main()
