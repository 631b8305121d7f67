"""Status: what each stage of a run is doing, read from its files, on any machine.

A stage that is executed writes `<method>/status.json`, at most every `SECONDS_BETWEEN`; the lease
of the method's lock (`eef.utils.locks`) shows whether its process still runs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from eef.errors import DataError, EefError, StoreError
from eef.models.manifest import MANIFEST_FILE, is_complete, was_removed, weight_files
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import Stage, dependencies
from eef.rollouts.store import NOTES_FILE, STORE_FILE
from eef.utils.jsonl import read_object, write_json
from eef.utils.locks import STALE_SECONDS, Lock, current_holder
from eef.utils.progress import OnProgress, Progress

STATUS_FILE = "status.json"
LOCK_FILE = "stage.lock"
SECONDS_BETWEEN = 3.0
RECORD_VERSION = 1

StageState = Literal["done", "running", "interrupted", "failed", "next", "waiting"]
"""`interrupted`: stopped, or its process has ended or gives no sign of life. `failed`: ended with
an error. `next`: not started, and what it depends on is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusRecord:
    """The state of a stage, as its process writes it.

    `ended` is None while the stage is executed. `done` and `total` count rollouts or updates;
    `total` is 0 if it is unknown. `rate` is their number per minute in this process.
    `started` and `written` are seconds since 1970 on the clock of `host`. `error` and `hint`
    are those of a stage that has failed.
    """

    version: int = RECORD_VERSION
    round: int
    kind: str
    ended: Literal["done", "interrupted", "failed"] | None = None
    done: int = 0
    total: int = 0
    note: str = ""
    rate: float | None = None
    process: int
    host: str
    started: float
    written: float
    error: str | None = None
    hint: str | None = None


_RECORD = TypeAdapter(StatusRecord)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStatus:
    """The state of one stage. All but `stage` and `state` are empty unless it was started.

    `seconds_left` is None if the rate or the total is unknown, `silent` the seconds since the last
    sign of life of its process.
    """

    stage: Stage
    state: StageState
    record: StatusRecord | None = None
    silent: float | None = None

    @property
    def seconds_left(self) -> float | None:
        record = self.record
        if self.state != "running" or record is None or not record.rate or not record.total:
            return None
        return 60 * max(0, record.total - record.done) / record.rate

    @property
    def progress(self) -> str:
        """`12 of 720, 3 won`; "" if nothing is counted."""
        if self.record is None or not (self.record.done or self.record.total):
            return ""
        done, total = self.record.done, self.record.total
        text = f"{done:,} of {total:,}" if total else f"{done:,}"
        return ", ".join(filter(None, (text, self.record.note)))


class StatusWriter:
    """Writes the status of a stage while it is executed. A context manager inside its lock.

    A disk that cannot take the status does not end the stage.
    """

    def __init__(self, run: RunDirectory, stage: Stage, lock: Lock) -> None:
        self._path = run.store(stage.method) / STATUS_FILE
        self._lock = lock
        now = time.time()
        self._record = StatusRecord(
            round=stage.round,
            kind=stage.kind,
            process=lock.holder.process,
            host=lock.holder.host,
            started=now,
            written=now,
        )
        self._first: tuple[float, int] | None = None
        self._written = -SECONDS_BETWEEN
        self._pending = True
        self._busy = threading.Lock()

    def watch(self, on_progress: OnProgress) -> OnProgress:
        """A callback that notes progress, and passes it on."""

        def note(progress: Progress) -> None:
            self._lock.confirm()
            self._note(progress)
            on_progress(progress)

        return note

    def __enter__(self) -> StatusWriter:
        self._write()
        self._lock.on_beat = self._write_pending
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._busy:
            if error is None:
                self._record = replace(self._record, ended="done")
            elif isinstance(error, Exception):
                message = error.message if isinstance(error, EefError) else repr(error)
                hint = (error.hint if isinstance(error, EefError) else "") or None
                self._record = replace(self._record, ended="failed", error=message, hint=hint)
            else:
                self._record = replace(self._record, ended="interrupted")
        self._write()

    def _note(self, progress: Progress) -> None:
        with self._busy:
            now = time.time()
            # a stage may count one thing after another, such as notes and then rollouts
            restarts = self._first is None or progress.done < self._record.done
            begins = restarts and bool(progress.total)
            if begins:
                self._first = now, progress.done
            rate = None
            if self._first is not None and progress.done > self._first[1]:
                seconds = max(now - self._first[0], 1e-3)
                rate = round(60 * (progress.done - self._first[1]) / seconds, 3)
            if progress.total:
                self._record = replace(
                    self._record,
                    done=progress.done,
                    total=progress.total,
                    note=progress.note,
                    rate=rate,
                )
            self._pending = True
        if begins or time.monotonic() - self._written >= SECONDS_BETWEEN:
            self._write()

    def _write_pending(self) -> None:
        if self._pending:
            self._write()

    def _write(self) -> None:
        with self._busy, suppress(StoreError):
            self._pending, self._written = False, time.monotonic()
            self._record = replace(self._record, written=time.time())
            write_json(self._path, asdict(self._record), durable=False)


def read_statuses(run: RunDirectory) -> list[StageStatus]:
    """The state of every stage of a run. Reads no trajectory, and damaged files are ignored."""
    done = {stage for stage in run.stages if run.is_done(stage)}
    methods = dict.fromkeys(stage.method for stage in run.stages)
    records = {method: _read_record(run.store(method) / STATUS_FILE) for method in methods}
    statuses = []
    for stage in run.stages:
        record = records[stage.method]
        mine = (
            record if record and (record.round, record.kind) == (stage.round, stage.kind) else None
        )
        if stage in done:
            statuses.append(StageStatus(stage=stage, state="done"))
        elif mine is not None and mine.ended != "done":
            state, silent = _state_of(mine, run.store(stage.method) / LOCK_FILE)
            statuses.append(StageStatus(stage=stage, state=state, record=mine, silent=silent))
        else:
            ready = all(each in done for each in dependencies(stage))
            statuses.append(StageStatus(stage=stage, state="next" if ready else "waiting"))
    return statuses


def _state_of(record: StatusRecord, lock: Path) -> tuple[StageState, float | None]:
    """The state of a stage that was started, and the seconds since its last sign of life."""
    if record.ended is not None:
        return ("failed" if record.ended == "failed" else "interrupted"), None
    held = current_holder(lock)
    if held is None or held[0].process != record.process:
        return "interrupted", None
    holder, silent = held
    return ("running" if holder.is_here or silent < STALE_SECONDS else "interrupted"), silent


def _read_record(path: Path) -> StatusRecord | None:
    try:
        return _RECORD.validate_python(read_object(path))
    except (DataError, ValidationError):
        return None


def wait_for_records(run: RunDirectory, stage: Stage, seconds: float = 30.0) -> None:
    """Wait until everything that a finished stage wrote is visible here.

    A shared disk may show the file that a stage writes last before the others in full. StoreError
    if something is still missing after `seconds`.
    """
    if missing := _await(lambda: _missing_records(run, stage), seconds):
        raise StoreError(
            f"`{stage}` is done, but {missing}",
            hint="if another machine wrote it, its disk is slow: run the same command again; "
            f"otherwise remove `{run.last_file(stage)}` to repeat the stage",
        )


def wait_until_done(run: RunDirectory, stage: Stage, seconds: float = 30.0) -> bool:
    """Wait until a stage that another process has finished is seen as done; returns if it is."""
    return not _await(lambda: "" if run.is_done(stage) else "its last file is missing", seconds)


def _await(missing: Callable[[], str], seconds: float) -> str:
    """Wait until nothing is missing; returns what is still missing after `seconds`."""
    deadline, pause = time.monotonic() + seconds, 0.05
    while (found := missing()) and time.monotonic() < deadline:
        time.sleep(pause)
        pause = min(2 * pause, 1.0)
    return found


def _missing_records(run: RunDirectory, stage: Stage) -> str:
    """The records of a finished stage that are missing, in words; "" if it is complete."""
    if stage.kind == "evaluate":
        return ""
    if stage.kind == "train":
        return _missing_weights(run, stage)
    summary = run.summary(stage)
    assert summary is not None, "it is done"
    if stage.kind == "select":
        # runs of earlier versions count no texts
        files = run.selection_files(stage)
        counts = [(path, summary.get(name, 0)) for name, path in files.items()]
    else:
        earlier = (run.summary(replace(stage, round=each)) for each in range(1, stage.round))
        summaries = [summary, *(each for each in earlier if each)]
        counts = [
            (run.store(stage.method) / file, sum(each.get(name, 0) for each in summaries))
            for file, name in ((STORE_FILE, "rollouts"), (NOTES_FILE, "notes"))
        ]
    for path, expected in counts:
        found = _count_lines(path)
        if found < expected:
            return f"`{path}` has {found} of {expected} records"
    return ""


def _missing_weights(run: RunDirectory, stage: Stage) -> str:
    summary = run.training_file(stage)
    if not summary.is_file():
        return f"`{summary}` is missing"
    # runs of earlier versions name no roles
    roles = read_object(summary).get("roles", ())
    for checkpoint in (
        run.checkpoint(stage),
        *(run.role_checkpoint(stage, each) for each in roles),
    ):
        if was_removed(checkpoint):
            continue
        weights = weight_files(checkpoint) if is_complete(checkpoint) else ()
        for file in (checkpoint / MANIFEST_FILE, *weights):
            if not file.is_file():
                return f"`{file}` is missing"
    return ""


def _count_lines(path: Path) -> int:
    try:
        with path.open("rb") as file:
            return sum(line.endswith(b"\n") for line in file)
    except FileNotFoundError:
        return 0
