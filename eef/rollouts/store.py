"""Store: every trajectory and every note of a run, one JSON line each, append-only.

A rollout is appended as soon as it ends; methods, labels and reports read the `TrajectorySet` in
memory. Once `append` has returned, the trajectory is on disk; if it raised, the file is unchanged.
Nothing is ever deleted: if every rollout of a stage failed, they are moved to another file (see
`Store.quarantine`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from io import FileIO
from pathlib import Path
from typing import TypeVar

from eef.errors import StoreError
from eef.note import Note, NoteSet
from eef.trajectory import Trajectory, TrajectorySet
from eef.utils.jsonl import (
    GrowingJsonl,
    append_jsonl,
    append_line,
    disk_errors,
    error_at_line,
    read_jsonl,
    repair_tail,
    write_jsonl,
)
from eef.utils.locks import Lock, acquire_lock

STORE_FILE, NOTES_FILE = "trajectories.jsonl", "notes.jsonl"
_TAIL = 1_000_000

Item = TypeVar("Item")


class Store:
    """The trajectories of a directory, open for appending by one writer at a time."""

    def __init__(self, path: Path, lock: Lock, trajectories: TrajectorySet) -> None:
        self.path = path
        self.trajectories = trajectories
        self._lock = lock
        self._file = FileIO(path, "a")
        self.notes_path = path.with_name(NOTES_FILE)

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        base: Iterable[Trajectory] = (),
        reader: StoreReader | None = None,
    ) -> Store:
        """Open or create the store of `directory`.

        Its trajectories may branch from those of `base`, which belong to another store and are not
        written here. A `reader` of the directory saves parsing what it has read before. A torn last
        line (after a crash during a write) is moved to `trajectories.jsonl.torn`.

        StoreError if another process writes to the store. DataError, with file and line, for a
        malformed line.
        """
        path = directory / STORE_FILE
        with disk_errors(path):
            directory.mkdir(parents=True, exist_ok=True)
            lock = acquire_lock(path.with_suffix(".lock"))
            try:
                path.touch()
                for file in (path, directory / NOTES_FILE):
                    if file.exists():
                        repair_tail(file)
                return cls(path, lock, (reader or StoreReader(directory)).read(base=base))
            except BaseException:
                lock.close()
                raise

    def append(self, trajectory: Trajectory) -> None:
        """Write a trajectory to disk, then add it to the set.

        StoreError if it cannot be written, its id is taken, its origin is unknown, or another
        process has taken over the store.
        """
        self._lock.confirm()
        self.trajectories.check(trajectory)
        append_line(self._file, self.path, trajectory.to_record())
        self.trajectories.add(trajectory)

    def append_note(self, note: Note) -> None:
        """Write a note to disk, then add it to the set.

        StoreError if it cannot be written, its id is taken, or another process has taken over the
        store.
        """
        self._lock.confirm()
        if note.id in self.trajectories.notes:
            raise StoreError(f"note id {note.id!r} occurs twice")
        append_jsonl(self.notes_path, note.to_record())
        self.trajectories.notes.add(note)

    def quarantine(self, ids: Collection[str]) -> Path:
        """Move failed trajectories to `trajectories.jsonl.failed`, so that their specs are played
        again. No other trajectory may branch from them. Returns that file.

        StoreError if a file cannot be written.
        """
        failed = self.path.with_name(f"{self.path.name}.failed")
        records = read_jsonl(self.path)
        for record in records:
            if record["id"] in ids:
                append_jsonl(failed, record)
        self._file.close()
        write_jsonl(self.path, (record for record in records if record["id"] not in ids))
        self._file = FileIO(self.path, "a")
        kept = (item for item in self.trajectories if item.id not in ids)
        self.trajectories = TrajectorySet(kept, self.trajectories.notes)
        return failed

    def close(self) -> None:
        self._file.close()
        self._lock.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_trajectories(directory: Path, *, base: Iterable[Trajectory] = ()) -> TrajectorySet:
    """The trajectories of `base`, then those stored in a directory (none if it has no store).

    Takes no lock, so it can be called while another process writes.
    """
    return StoreReader(directory).read(base=base)


def tail_of_store(directory: Path) -> list[Trajectory]:
    """The latest trajectories of a store, about `_TAIL` bytes of them, without their origins."""
    path = directory / STORE_FILE
    if not path.exists():
        return []
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        lines = file.read().split(b"\n")
    complete = lines[:-1] if path.stat().st_size <= _TAIL else lines[1:-1]
    return [Trajectory.from_record(json.loads(line)) for line in complete if line.strip()]


def read_notes(directory: Path) -> NoteSet:
    """The notes stored in a directory (none if it has no file of them)."""
    return StoreReader(directory).read_notes()


class StoreReader:
    """Reads the store of a directory any number of times; what was read before is not parsed again.

    Takes no lock, so it can be used while another process writes.
    """

    def __init__(self, directory: Path) -> None:
        self._trajectories = GrowingJsonl(directory / STORE_FILE, Trajectory.from_record)
        self._notes = GrowingJsonl(directory / NOTES_FILE, Note.from_record)

    def read(self, *, base: Iterable[Trajectory] = ()) -> TrajectorySet:
        """The trajectories of `base`, then those of the store, and its notes."""
        trajectories = TrajectorySet(base, self.read_notes())
        _add(self._trajectories, trajectories.add)
        return trajectories

    def read_notes(self) -> NoteSet:
        notes = NoteSet()
        _add(self._notes, notes.add)
        return notes


def _add(file: GrowingJsonl[Item], add: Callable[[Item], None]) -> None:
    """Add every item of a file. DataError, with file and line, for one that is refused."""
    for number, item in file.read():
        try:
            add(item)
        except StoreError as error:
            raise error_at_line(file.path, number, error) from error
