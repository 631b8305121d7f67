"""RunIndex: the index of one run, its file and its connections."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Collection
from pathlib import Path

from eef.errors import StoreError
from eef.pipeline.run_directory import RunDirectory
from eef.selection import Acts, TrainingExample
from eef.trajectory import Trajectory
from eef.utils.cache import cache_directory
from eef.utils.jsonl import disk_errors
from eef.utils.progress import OnProgress, ignore_progress
from eef.viewer.index.reader import Reader
from eef.viewer.index.schema import SCHEMA_VERSION, create_tables, read_meta
from eef.viewer.index.writer import Writer


def index_path(run: Path) -> Path:
    """The file of a run's index: one per run directory, in the cache directory."""
    resolved = run.resolve()
    digest = hashlib.sha256(str(resolved).encode(errors="replace")).hexdigest()[:16]
    return cache_directory() / "viewer" / f"{resolved.name or 'run'}-{digest}.sqlite"


class RunIndex:
    """The index of one run. Each thread uses a connection of its own (`connect`).

    StoreError if the cache directory cannot be written.
    """

    def __init__(self, run: RunDirectory, path: Path | None = None) -> None:
        self.run = run
        self.path = path or index_path(run.path)
        self._revision: str | None = None
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._create()
        except sqlite3.DatabaseError:  # damaged, or another program's file
            self._remove()
            self._create()

    def connect(self, only: Collection[str] | None = None) -> Reader:
        """A reader with a connection of its own; it sees `only` some tasks, None for all."""
        connection = self._open()
        if only is not None:
            connection.execute("CREATE TEMP TABLE chosen (task TEXT PRIMARY KEY)")
            connection.executemany("INSERT INTO chosen VALUES (?)", ((task,) for task in only))
            for name in ("tasks", "trajectories", "examples"):  # these names hide the tables
                connection.execute(
                    f"CREATE TEMP VIEW {name} AS SELECT * FROM main.{name} "
                    "WHERE task IN (SELECT task FROM chosen)"
                )
        return Reader(self.run.path, connection)

    def refresh(self, on_progress: OnProgress = ignore_progress) -> bool:
        """Read what was appended to the run's files.

        Returns whether the index has changed since this object looked last. Another viewer of the
        same run may have changed it.
        """
        with Writer(self.run, self._open()) as writer:
            writer.refresh(on_progress)
            before, self._revision = self._revision, read_meta(writer.connection, "revision")
        return self._revision != before

    def _create(self) -> None:
        connection = self._open()
        try:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                if read_meta(connection, "key") != self._key:
                    create_tables(connection)
                    connection.execute("INSERT INTO meta VALUES ('key', ?)", (self._key,))
                self._revision = read_meta(connection, "revision")
        finally:
            connection.close()

    @property
    def _key(self) -> str:
        return f"{SCHEMA_VERSION} {Trajectory.VERSION} {TrainingExample.VERSION} {Acts.VERSION}"

    def _open(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(
                self.path, timeout=60, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = OFF")
        except sqlite3.OperationalError as error:
            raise StoreError(
                f"cannot write `{self.path}`: {error}",
                hint="set `EEF_CACHE` to a directory that can be written",
            ) from error
        return connection

    def _remove(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
