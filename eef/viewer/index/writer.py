"""Writing the index: what was appended to a run is read, and its tasks are counted again."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from eef.envs.registry import env_spec
from eef.pipeline.run_directory import RunDirectory
from eef.utils.ahead import ahead
from eef.utils.progress import OnProgress, Progress
from eef.viewer.index.reader import Reader
from eef.viewer.index.records import BATCH, ParsedRollout, Source, parse_lines, run_sources
from eef.viewer.index.rows import Row
from eef.viewer.index.schema import create_tables, read_meta
from eef.viewer.index.summary import summarize_task

_HEAD = 1024  # bytes at the start of a file by which it is recognized


class Writer:
    """One refresh of an index, in one transaction."""

    def __init__(self, run: RunDirectory, connection: sqlite3.Connection) -> None:
        self.run, self.connection = run, connection
        self._find_instruction = env_spec(run.recipe.env.name).find_instruction
        self.connection.execute("PRAGMA cache_size = -65536")  # 64 MB
        self.dirty: set[str] = set()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def refresh(self, on_progress: OnProgress) -> None:
        grown = self._grown()
        if not grown:
            return
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            changed = any(replaced for _, _, replaced in grown)
            if changed:
                key = read_meta(self.connection, "key")
                create_tables(self.connection)
                self.connection.execute("INSERT INTO meta VALUES ('key', ?)", (key,))
            grown = self._grown()
            self._merge_words(self._holds_something())
            total = sum(end - start for _, (start, end), _ in grown)
            done = 0
            for source, (start, end), _ in grown:
                for read in self._read(source, start, end):
                    on_progress(Progress("indexing", done + read, total))
                    changed = changed or read > 0  # not by a line that is being written
                done += end - start
            self._summarize(on_progress)
            self._merge_words(True)
            if changed:
                self.connection.execute(
                    "INSERT OR REPLACE INTO meta VALUES ('revision', lower(hex(randomblob(8))))"
                )
            self.connection.execute("COMMIT")
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise

    def _holds_something(self) -> bool:
        [(found,)] = self.connection.execute("SELECT EXISTS (SELECT 1 FROM trajectories)")
        return bool(found)

    def _merge_words(self, merge: bool) -> None:
        """Whether the full-text index merges its parts as it grows. Without, indexing is a quarter
        faster, and what is indexed first is most of a run."""
        for name, value in (("automerge", 4 if merge else 0), ("crisismerge", 1000)):
            self.connection.execute("INSERT INTO texts(texts, rank) VALUES(?, ?)", (name, value))

    def _grown(self) -> list[tuple[Source, tuple[int, int], bool]]:
        """The sources with new bytes: (start, end), and whether a file is another than before."""
        known = {
            path: (head, size)
            for path, head, size in self.connection.execute("SELECT path, head, size FROM files")
        }
        found = []
        for source in run_sources(self.run):
            name = self._name(source)
            head, read = known.pop(name, ("", 0))
            try:
                size, now = source.path.stat().st_size, _head_of(source.path, read)
            except FileNotFoundError:
                if read:
                    found.append((source, (0, 0), True))
                continue
            if read and (size < read or now != head):
                found.append((source, (0, size), True))
            elif size > read:
                found.append((source, (read, size), False))
        return found

    def _name(self, source: Source) -> str:
        return source.path.relative_to(self.run.path).as_posix()

    def _read(self, source: Source, start: int, end: int) -> Iterator[int]:
        """Enter the complete lines of a file between two positions; yields bytes read so far."""
        name = self._name(source)
        found = self.connection.execute("SELECT lines FROM files WHERE path = ?", (name,))
        lines = (found.fetchone() or (0,))[0]
        position = start
        batches = parse_lines(source, name, start, end, lines, self._find_instruction)
        for batch in ahead(batches):
            self._enter_rollouts(name, batch.rollouts)
            if batch.examples:
                self.connection.executemany(_INSERT_EXAMPLE, batch.examples)
            for line, message in batch.problems:
                self._problem(name, line, message)
            position, lines = batch.position, batch.lines
            yield position - start
        self.connection.execute(
            "INSERT OR REPLACE INTO files (path, head, size, lines) VALUES (?, ?, ?, ?)",
            (name, _head_of(source.path, position), position, lines),
        )
        yield position - start

    def _problem(self, name: str, line: int, message: str) -> None:
        self.connection.execute("INSERT INTO problems VALUES (?, ?, ?)", (name, line, message))

    def _enter_rollouts(self, name: str, rollouts: Sequence[ParsedRollout]) -> None:
        [(last,)] = self.connection.execute("SELECT max(id) FROM trajectories").fetchall()
        numbered = list(enumerate(rollouts, start=(last or 0) + 1))
        cursor = self.connection.executemany(
            _INSERT_ROLLOUT, ((number, *rollout.columns) for number, rollout in numbered)
        )
        if cursor.rowcount < len(rollouts):
            numbered = list(self._distinct(name, numbered))
        self.connection.executemany(
            _INSERT_TEXT, ((number, *rollout.texts) for number, rollout in numbered)
        )
        self.dirty |= {rollout.task for rollout in rollouts}
        self.connection.executemany(
            "INSERT OR IGNORE INTO tasks (task, position, instruction) "
            "VALUES (?, (SELECT count(*) FROM tasks), ?)",
            ((rollout.task, rollout.texts[0]) for rollout in rollouts if rollout.texts[0]),
        )

    def _distinct(
        self, name: str, numbered: Iterable[tuple[int, ParsedRollout]]
    ) -> Iterator[tuple[int, ParsedRollout]]:
        """The rollouts that were entered; a problem for each whose id was taken."""
        for number, rollout in numbered:
            [(entered,)] = self.connection.execute(
                "SELECT id FROM trajectories WHERE name = ?", rollout.columns[:1]
            ).fetchall()
            if entered == number:
                yield number, rollout
            else:
                message = f"trajectory id {rollout.columns[0]!r} occurs twice"
                self._problem(name, rollout.line, message)

    def _summarize(self, on_progress: OnProgress) -> None:
        """Recompute the rows of the tasks with new rollouts."""
        last: dict[str, int] = dict(
            self.connection.execute(
                "SELECT method, max(round) FROM trajectories WHERE phase = 'evaluate' "
                "GROUP BY method"
            ).fetchall()
        )
        reader = Reader(self.run.path, self.connection)
        before = self.connection.execute("SELECT value FROM meta WHERE key = 'last'").fetchone()
        key = json.dumps(last, sort_keys=True)
        if before is None or before[0] != key:  # a new round decides who has won what
            self.dirty |= {task for (task,) in self.connection.execute("SELECT task FROM tasks")}
            self.connection.execute("INSERT OR REPLACE INTO meta VALUES ('last', ?)", (key,))
        for number, task in enumerate(sorted(self.dirty), start=1):
            self._summarize_task(task, reader.rows_of_task(task), last)
            if number % BATCH == 0:
                on_progress(Progress("tasks", number, len(self.dirty)))

    def _summarize_task(self, task: str, rows: Sequence[Row], last: Mapping[str, int]) -> None:
        summary = summarize_task(rows, last, self.run.methods)
        self.connection.execute(
            "INSERT OR IGNORE INTO tasks (task, position, instruction) "
            "VALUES (?, (SELECT count(*) FROM tasks), '')",
            (task,),
        )
        names = ", ".join(f"{name} = ?" for name in summary)
        self.connection.execute(
            f"UPDATE tasks SET {names} WHERE task = ?", (*summary.values(), task)
        )


_INSERT_ROLLOUT = f"INSERT OR IGNORE INTO trajectories VALUES ({', '.join('?' * 20)})"
_INSERT_EXAMPLE = f"INSERT INTO examples VALUES (NULL, {', '.join('?' * 11)})"
_INSERT_TEXT = (
    "INSERT INTO texts (rowid, instruction, observation, thought, action) VALUES (?, ?, ?, ?, ?)"
)


def _head_of(path: Path, read: int) -> str:
    """A digest of the start and the end of what was read, by which a replaced file is recognized.

    The end matters: a store from which failed rollouts were removed starts as before.
    """
    with path.open("rb") as file:
        start = file.read(min(read, _HEAD))
        file.seek(max(0, read - _HEAD))
        return hashlib.sha256(start + file.read(min(read, _HEAD))).hexdigest()[:16]
