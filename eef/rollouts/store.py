"""Store: every trajectory of a run, one JSON line each, append-only.

Rollouts are appended here the moment they are finished; methods, labels and reports read the `TrajectorySet`
kept in memory. What `append` has returned from is on the disk, what it failed on left no trace. Nothing is ever
deleted: where every rollout of a stage broke, they are moved to a file beside the store's (`Store.set_aside`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import TextIO

from eef.errors import DataError, StoreError
from eef.trajectory import RECORD_VERSION, Trajectory, TrajectorySet
from eef.utils.jsonl import (
    Record,
    append_jsonl,
    append_line,
    disk_errors,
    numbered_records,
    read_jsonl,
    repair_tail,
    write_jsonl,
)
from eef.utils.locks import acquire_lock

STORE_FILE = "trajectories.jsonl"


def _name_every_field(record: Record) -> Record:
    """0 → 1: `start`, `round`, `seed`, `error` and `usage` could be left out, and are always there now."""
    return {"start": None, "round": 0, "seed": 0, "error": None, "usage": {}, **record}


def _say_where_it_is_from(record: Record) -> Record:
    """1 → 2: all was played here (`replayable`, no `source`), and no turn came with a loss weight."""
    steps = [{"weight": 1.0, **step} for step in record.get("steps", ())]
    return {
        "replayable": True,
        "source": None,
        **record,
        **({"steps": steps} if "steps" in record else {}),
    }


MIGRATIONS: tuple[Callable[[Record], Record], ...] = (_name_every_field, _say_where_it_is_from)
"""`MIGRATIONS[v]` makes version v + 1 out of version v. A record which names no version has version 0."""


def migrate(record: Record) -> Record:
    """The record in the current version (its line on the disk stays). StoreError: unknown version."""
    version = record.get("version", 0)
    if type(version) is not int or not 0 <= version <= RECORD_VERSION:
        raise StoreError(
            f"trajectory record has version {version!r}, this `eef` reads 0 to {RECORD_VERSION}",
            hint="a newer `eef` wrote it: upgrade this one",
        )
    for step in MIGRATIONS[version:]:
        record = step(record)
    return {**record, "version": RECORD_VERSION}


class Store:
    """The trajectories of a directory, open for appending; one writer at a time.

    `torn` is the number of torn last lines (a crash in the middle of a write) which opening moved aside, 0 or
    1.
    """

    def __init__(self, path: Path, lock: TextIO, torn: int, base: Iterable[Trajectory]) -> None:
        self.path = path
        self.torn = torn
        self.trajectories = _load(path, base)
        self._lock = lock
        self._file = FileIO(path, "a")

    @classmethod
    def open(cls, directory: Path, *, base: Iterable[Trajectory] = ()) -> Store:
        """Open or create the store of `directory`. Its branches may start in trajectories of `base`, which lie
        in another store and are not written here.

        Raises StoreError when another process writes to it, DataError (with file and line) for a malformed
        line. A torn last line is moved to `trajectories.jsonl.torn`.
        """
        path = directory / STORE_FILE
        with disk_errors(path):
            directory.mkdir(parents=True, exist_ok=True)
            lock = acquire_lock(path.with_suffix(".lock"))
            try:
                path.touch()
                return cls(path, lock, repair_tail(path), base)
            except BaseException:
                lock.close()
                raise

    def append(self, trajectory: Trajectory) -> None:
        """Write a trajectory to the disk, then add it to the set. StoreError: disk full, id taken, …"""
        self.trajectories.check(trajectory)
        append_line(self._file, self.path, trajectory.to_record())
        self.trajectories.add(trajectory)

    def quarantine(self, ids: Collection[str]) -> Path:
        """Move trajectories, from which nothing goes on, to a file beside the store's; their launches can be played
        anew. Returns that file. StoreError: disk full, …"""
        aside = self.path.with_name(f"{self.path.name}.broken")
        records = read_jsonl(self.path)
        for record in records:
            if record["id"] in ids:
                append_jsonl(aside, record)
        self._file.close()
        write_jsonl(self.path, (record for record in records if record["id"] not in ids))
        self._file = FileIO(self.path, "a")
        self.trajectories = TrajectorySet(item for item in self.trajectories if item.id not in ids)
        return aside

    def close(self) -> None:
        self._file.close()
        self._lock.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def read_trajectories(directory: Path, *, base: Iterable[Trajectory] = ()) -> TrajectorySet:
    """Those of `base`, then those stored in a directory (none where it has no store), for reading alone: takes no
    lock, works beside a writer."""
    path = directory / STORE_FILE
    return _load(path, base) if path.exists() else TrajectorySet(base)


def _load(path: Path, base: Iterable[Trajectory]) -> TrajectorySet:
    trajectories = TrajectorySet(base)
    for number, record in numbered_records(path, torn_ok=True):
        try:
            trajectories.add(Trajectory.from_record(migrate(record)))
        except StoreError as error:
            raise DataError(f"`{path}`, line {number}: {error.message}", hint=error.hint) from error
    return trajectories
