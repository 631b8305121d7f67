"""Store: every trajectory of a run, one JSON line each, append-only.

Rollouts are appended here the moment they are finished; methods, labels and reports read the `TrajectorySet`
kept in memory. What `append` has returned from is on the disk, what it failed on left no trace. Nothing is ever
deleted: where every rollout of a stage broke, they are moved to a file beside the store's (`Store.set_aside`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import TextIO

from eef.errors import DataError, StoreError
from eef.trajectory import Trajectory, TrajectorySet
from eef.utils.jsonl import (
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
            trajectories.add(Trajectory.from_record(record))
        except StoreError as error:
            raise DataError(f"`{path}`, line {number}: {error.message}", hint=error.hint) from error
    return trajectories
