"""RunIndex: where every rollout of a run is stored, and what can be filtered and searched.

The index is a SQLite file in the cache directory. It holds the place of each record in the run's
files, the columns that tables are sorted and filtered by, and a full-text index (FTS5) of all
observations, thoughts and actions. Texts are read from the run when they are shown. `refresh`
reads what was appended to a run since the last time; a file that was replaced rebuilds the index.
Nothing is ever written into the run directory.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from typing import IO, Any, Literal, TypeVar, get_args

from eef.envs.registry import env_spec
from eef.errors import DataError, EefError, StoreError
from eef.methods.base import Method
from eef.methods.eef import Eef
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import BC, EXPERT, Stage
from eef.rollouts.explore import is_first_attempt
from eef.rollouts.store import STORE_FILE
from eef.selection import Acts, PreferencePair, TrainingExample
from eef.trajectory import Author, AuthorRole, StateRef, Status, Step, Trajectory, TrajectorySet
from eef.utils.cache import cache_directory
from eef.utils.jsonl import disk_errors
from eef.utils.progress import OnProgress, Progress, ignore_progress
from eef.utils.records import Json
from eef.utils.text import replace_surrogates

SCHEMA_VERSION = 6
Phase = Literal["collect", "explore", "evaluate"]
Trained = Literal["examples", "pairs", "acts"]
Kind = Literal["rollouts", Trained]

_BATCH = 1000  # records between two reports of progress
_HEAD = 1024  # bytes at the start of a file by which it is recognized
_PLACEHOLDER = Step(observation="", completion="", action="")

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE files (
    path TEXT PRIMARY KEY, number INTEGER, head TEXT, size INTEGER, lines INTEGER);
CREATE TABLE trajectories (
    id INTEGER PRIMARY KEY, name TEXT UNIQUE, task TEXT, method TEXT, round INTEGER, phase TEXT,
    role TEXT, author TEXT, status TEXT, success INTEGER, reward REAL, steps INTEGER,
    origin TEXT, t INTEGER, error_kind TEXT, replayable INTEGER, own_round INTEGER,
    file TEXT, offset INTEGER, size INTEGER);
CREATE INDEX by_task ON trajectories (task);
CREATE INDEX by_stage ON trajectories (method, round, phase, success);
CREATE TABLE examples (
    id INTEGER PRIMARY KEY, kind TEXT, name TEXT, task TEXT, trajectory TEXT, method TEXT,
    round INTEGER, state INTEGER, group_id TEXT, file TEXT, offset INTEGER, size INTEGER);
CREATE INDEX example_by_task ON examples (task);
CREATE INDEX example_by_name ON examples (name);
CREATE INDEX example_by_trajectory ON examples (trajectory);
CREATE TABLE tasks (
    task TEXT PRIMARY KEY, position INTEGER, split TEXT, instruction TEXT, rollouts INTEGER,
    students INTEGER, wins INTEGER, rate REAL, expert INTEGER, expert_reward REAL,
    recovery INTEGER, errors INTEGER, overflows INTEGER, unverified INTEGER, never INTEGER,
    newly INTEGER, only_by TEXT);
CREATE INDEX by_position ON tasks (position);
CREATE TABLE problems (file TEXT, line INTEGER, message TEXT);
CREATE VIRTUAL TABLE texts USING fts5(
    instruction, observation, thought, action, content='', detail=column);
INSERT INTO texts(texts, rank) VALUES('hashsize', 2097152);
"""


@dataclass(frozen=True, slots=True)
class Source:
    """A growing file of a run, and what its lines are."""

    path: Path
    kind: Kind
    method: str
    round: int | None
    phase: Phase


@dataclass(frozen=True, slots=True)
class Row:
    """A rollout without its texts. `id` is its number in the index, `name` its id in the run.

    `steps` counts its own steps; `origin` and `t` are the state it starts from (None and 0 for the
    task's start). `round` is the round of its method: of the stage for an evaluation.
    """

    id: int
    name: str
    task: str
    method: str
    round: int
    phase: Phase
    role: str
    author: str
    status: str
    success: bool
    reward: float | None
    steps: int
    origin: str | None
    t: int
    error_kind: str | None
    replayable: bool

    @property
    def length(self) -> int:
        """Steps of the whole path."""
        return self.t + self.steps

    @property
    def outcome(self) -> Literal["won", "lost", "failed"]:
        if self.status == "error":
            return "failed"
        return "won" if self.success else "lost"


_ROW = (
    "id, name, task, method, round, phase, role, author, status, success, reward, steps, origin, "
    "t, error_kind, replayable"
)


@dataclass(frozen=True, slots=True)
class ExampleRow:
    """A training example, a preference pair or the acts of a rollout, without its weights.

    `state` is the step that a solution starts from, or the first act with an advantage. `group`
    names the rollouts that acts are compared with, "" for examples and pairs.
    """

    id: int
    kind: Trained
    name: str
    task: str
    trajectory: str
    method: str
    round: int
    state: int
    group: str


_EXAMPLE = "id, kind, name, task, trajectory, method, round, state, group_id"


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task with the numbers that the table of tasks is filtered and sorted by.

    `students` counts the students' rollouts that did not fail, of which `wins` won.
    `expert` is whether an expert won it (None: no expert played it). `rate` is the win rate of the
    students' rollouts, None without any. `recovery` counts the states that need recovery in the
    last explored round. `only_by` is the only method that won it, "" if there is none or several.
    """

    task: str
    position: int
    split: Literal["train", "test"]
    instruction: str
    rollouts: int
    students: int
    wins: int
    rate: float | None
    expert: bool | None
    expert_reward: float | None
    recovery: int
    errors: int
    overflows: int
    unverified: int
    never: bool
    newly: bool
    only_by: str


@dataclass(frozen=True, slots=True)
class Problem:
    """A line that could not be read."""

    file: str
    line: int
    message: str


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
        self.spec = env_spec(run.recipe.env.name)
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

    def sources(self) -> list[Source]:
        """The files of the run that hold rollouts, examples and pairs; not all of them exist."""
        run = self.run
        found = [Source(run.store(EXPERT) / STORE_FILE, "rollouts", EXPERT, None, "collect")]
        found += [
            Source(run.store(name) / STORE_FILE, "rollouts", name, None, "explore")
            for name in run.methods
            if name != BC
        ]
        for stage in run.stages:
            if stage.kind == "evaluate":
                path = run.evaluation_store(stage) / STORE_FILE
                found.append(Source(path, "rollouts", stage.method, stage.round, "evaluate"))
        for stage in run.stages:
            if stage.kind == "select":
                files: tuple[tuple[Kind, Path], ...] = (
                    ("examples", run.examples_file(stage)),
                    ("pairs", run.pairs_file(stage)),
                    ("acts", run.acts_file(stage)),
                )
                found += [
                    Source(path, kind, stage.method, stage.round, "explore") for kind, path in files
                ]
        return found

    def refresh(self, on_progress: OnProgress = ignore_progress) -> bool:
        """Read what was appended to the run's files.

        Returns whether the index has changed since this object looked last. Another viewer of the
        same run may have changed it.
        """
        with _Writer(self) as writer:
            writer.refresh(on_progress)
            before, self._revision = self._revision, _meta(writer.connection, "revision")
        return self._revision != before

    def _create(self) -> None:
        connection = self._open()
        try:
            with connection:
                connection.execute("BEGIN IMMEDIATE")
                if _meta(connection, "key") != self._key:
                    _clear(connection)
                    connection.execute("INSERT INTO meta VALUES ('key', ?)", (self._key,))
                self._revision = _meta(connection, "revision")
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


def _meta(connection: sqlite3.Connection, key: str) -> str | None:
    """A value of the table `meta`; None if there is none."""
    try:
        found = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    except sqlite3.OperationalError:  # no table
        return None
    return found[0] if found else None


def _clear(connection: sqlite3.Connection) -> None:
    names = ("meta", "files", "trajectories", "examples", "tasks", "problems", "texts")
    for name in names:
        connection.execute(f"DROP TABLE IF EXISTS {name}")
    for statement in _SCHEMA.split(";\n"):
        connection.execute(statement)


class _Writer:
    """One refresh of an index, in one transaction."""

    def __init__(self, index: RunIndex) -> None:
        self.index, self.run = index, index.run
        self.connection = index._open()
        self.connection.execute("PRAGMA cache_size = -65536")  # 64 MB
        self.dirty: set[str] = set()

    def __enter__(self) -> _Writer:
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
                key = _meta(self.connection, "key")
                _clear(self.connection)
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
        for source in self.index.sources():
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
        batches = _parse_lines(source, name, start, end, lines, self.index.spec.find_instruction)
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

    def _enter_rollouts(self, name: str, rollouts: Sequence[_Rollout]) -> None:
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
        self, name: str, numbered: Iterable[tuple[int, _Rollout]]
    ) -> Iterator[tuple[int, _Rollout]]:
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
            if number % _BATCH == 0:
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


@dataclass(frozen=True, slots=True)
class _Rollout:
    """A parsed line: its columns without its number, and its texts, the instruction first."""

    line: int
    task: str
    columns: tuple[Any, ...]
    texts: tuple[str, ...]


@dataclass(slots=True)
class _Batch:
    """Parsed lines, and the position and number of lines after them."""

    position: int
    lines: int
    rollouts: list[_Rollout] = field(default_factory=list)
    examples: list[tuple[Any, ...]] = field(default_factory=list)
    problems: list[tuple[int, str]] = field(default_factory=list)


def _parse_lines(
    source: Source,
    name: str,
    start: int,
    end: int,
    lines: int,
    find_instruction: Callable[[str], str],
) -> Iterator[_Batch]:
    """The complete lines of a file between two positions, in batches."""
    batch = _Batch(start, lines)
    with source.path.open("rb") as file:
        file.seek(start)
        while batch.position < end:
            data = file.readline()
            if not data.endswith(b"\n"):
                break  # being written, or torn: read when it is complete
            batch.lines += 1
            if data.strip():
                try:
                    if source.kind == "rollouts":
                        batch.rollouts.append(
                            _parse_rollout(source, name, data, batch, find_instruction)
                        )
                    else:
                        batch.examples.append(_parse_example(source, name, data, batch.position))
                except (EefError, ValueError, TypeError, KeyError, AttributeError) as error:
                    message = error.message if isinstance(error, EefError) else _describe(error)
                    batch.problems.append((batch.lines, message))
            batch.position += len(data)
            if batch.lines % _BATCH == 0:
                yield batch
                batch = _Batch(batch.position, batch.lines)
    yield batch


def _parse_rollout(
    source: Source, name: str, data: bytes, batch: _Batch, find_instruction: Callable[[str], str]
) -> _Rollout:
    record = Trajectory.migrate(_object(data))
    steps, start, author = record["steps"], record["start"] or {}, record["author"]
    task = replace_surrogates(record["task"])
    reward = record["reward"]
    if record["status"] not in get_args(Status) or author["role"] not in get_args(AuthorRole):
        raise ValueError("unknown status or role")
    columns = (
        replace_surrogates(record["id"]),
        task,
        source.method,
        int(record["round"]) if source.round is None else source.round,
        source.phase,
        author["role"],
        replace_surrogates(author["name"]),
        record["status"],
        bool(record["success"]),
        None if reward is None else float(reward),
        len(steps),
        start.get("trajectory"),
        int(start.get("t", 0)),
        record["error_kind"],
        bool(record["replayable"]),
        int(record["round"]),
        name,
        batch.position,
        len(data),
    )
    instruction = ""
    if steps and not start:
        instruction = find_instruction(steps[0]["observation"])[:2000]
    observations = dict.fromkeys(step["observation"] for step in steps)
    observations[record["final_observation"]] = None
    thoughts = dict.fromkeys(
        step["completion"].replace(step["action"] or "\n", " ") for step in steps
    )
    actions = [step["action"] for step in steps]
    texts = (instruction, *map("\n".join, (observations, thoughts, actions)))
    return _Rollout(batch.lines, task, columns, tuple(map(replace_surrogates, texts)))


def _parse_example(source: Source, name: str, data: bytes, position: int) -> tuple[Any, ...]:
    record = side = _RECORDS[source.kind].migrate(_object(data))
    if source.kind == "pairs":
        side = record["chosen"]
    if source.kind == "acts":
        advantages = record["advantages"]
        state = next((t for t, value in enumerate(advantages) if value), len(advantages))
    else:
        state = int(side["state"])
    texts = (record["id"], record["task"], side["trajectory"])
    group = replace_surrogates(record.get("group", ""))
    place = (source.method, source.round, state, group, name, position, len(data))
    return (source.kind, *map(replace_surrogates, texts), *place)


_RECORDS: Mapping[str, type[TrainingExample | PreferencePair | Acts]] = {
    "examples": TrainingExample,
    "pairs": PreferencePair,
    "acts": Acts,
}


Item = TypeVar("Item")


def ahead(items: Iterable[Item], size: int = 4) -> Iterator[Item]:
    """The items, produced by a thread up to `size` ahead. An error of theirs is raised here."""
    ready: Queue[tuple[Item | None, BaseException | None, bool]] = Queue(size)
    stopped = threading.Event()

    def produce() -> None:
        try:
            for item in items:
                ready.put((item, None, False))
                if stopped.is_set():
                    return
            ready.put((None, None, True))
        except BaseException as error:
            ready.put((None, error, True))

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    try:
        while True:
            item, error, last = ready.get()
            if error is not None:
                raise error
            if last:
                return
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        with suppress(Empty):
            while True:
                ready.get_nowait()
        thread.join(timeout=5)


def summarize_task(
    rows: Sequence[Row], last: Mapping[str, int], methods: Mapping[str, Method]
) -> dict[str, Any]:
    """The columns of a task from its rollouts; `last` is the last evaluated round by method.

    A test task is won by a method if it is won by the first attempt in the method's last evaluated
    round, a training task if any of its rollouts wins it. It is newly solved if a student wins it
    and neither the expert nor behavior cloning does.
    """
    test = any(row.phase == "evaluate" for row in rows)
    every = rows
    rows = [row for row in rows if row.phase != "evaluate" or is_first_attempt(row.name, row.task)]
    experts = [row for row in rows if row.role == "expert" and row.status != "error"]
    students = [row for row in rows if row.role == "student" and row.status != "error"]
    winners = {
        row.method
        for row in students
        if row.success and (row.phase != "evaluate" or row.round == last.get(row.method))
    }
    expert = any(row.success for row in experts) if experts else None
    rewards = [row.reward for row in experts if row.reward is not None]
    explorers = winners - {BC}
    wins = sum(row.success for row in students)
    return {
        "split": "test" if test else "train",
        "rollouts": len(every),
        "students": len(students),
        "wins": wins,
        "rate": wins / len(students) if students else None,
        "expert": expert,
        "expert_reward": max(rewards, default=None),
        "recovery": sum(count_recovery_states(rows, methods).values()),
        "errors": sum(row.status == "error" for row in every),
        "overflows": sum(row.error_kind == "context_overflow" for row in every),
        "unverified": sum(not row.replayable for row in every),
        "never": not any(row.success for row in rows),
        "newly": bool(explorers) and not expert and BC not in winners,
        "only_by": next(iter(explorers)) if len(explorers) == 1 else "",
    }


def count_recovery_states(
    rows: Sequence[Row], methods: Mapping[str, Method]
) -> dict[tuple[str, int], int]:
    """Number of recovery states by (method, round), for the last round that explored the task."""
    counts = {}
    for name, method in methods.items():
        rounds = [row.round for row in rows if (row.method, row.phase) == (name, "explore")]
        if isinstance(method, Eef) and rounds:
            kept = [row for row in rows if row.phase == "collect" or row.method == name]
            trajectories = light_set(row for row in kept if row.phase != "evaluate")
            grids = method.grids(trajectories, rows[0].task, max(rounds))
            counts[name, max(rounds)] = sum(len(grid.recovery_states()) for grid in grids.values())
    return counts


def light_set(rows: Iterable[Row]) -> TrajectorySet:
    """Trajectories with empty steps, enough to measure grids. Those without their origin are
    skipped."""
    trajectories = TrajectorySet()
    for row in rows:
        add_if_possible(
            trajectories,
            Trajectory(
                id=row.name,
                task=row.task,
                author=Author("expert" if row.role == "expert" else "student", row.author),
                steps=(_PLACEHOLDER,) * row.steps,
                final_observation="",
                status=row.status,  # type: ignore[arg-type]
                reward=row.reward,
                success=row.success,
                start=StateRef(row.origin, row.t) if row.origin is not None else None,
                round=row.round,
                replayable=row.replayable,
            ),
        )
    return trajectories


def add_if_possible(trajectories: TrajectorySet, item: Trajectory) -> str:
    """Add a trajectory unless its origin is missing or its id is taken; returns the problem."""
    try:
        trajectories.add(item)
    except StoreError as error:
        return error.message
    return ""


class Reader:
    """Reads of an index, and of the records it points to. For one thread at a time."""

    def __init__(self, run: Path, connection: sqlite3.Connection) -> None:
        self._run, self._connection = run, connection

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        return self._connection.execute(sql, parameters).fetchall()

    def cursor(self, sql: str, parameters: Sequence[Any] = ()) -> Iterator[Any]:
        """The rows of a query one by one, for those that are too many for a list."""
        return self._connection.execute(sql, parameters)

    def fill(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Execute a statement for each row; only temporary tables are ever written."""
        self._connection.executemany(sql, rows)

    def rows_of_task(self, task: str) -> list[Row]:
        """All rollouts of a task: the experts' first, then in the order of the files."""
        return self.rows("task = ? ORDER BY phase != 'collect', id", task)

    def rows(self, condition: str, *parameters: Any) -> list[Row]:
        """The rollouts that an SQL condition selects."""
        found = self.query(f"SELECT {_ROW} FROM trajectories WHERE {condition}", parameters)
        return [_row(values) for values in found]

    def row(self, name: str) -> Row | None:
        """The rollout with an id."""
        return next(iter(self.rows("name = ?", name)), None)

    def examples(self, condition: str, *parameters: Any) -> list[ExampleRow]:
        """The examples, pairs and acts that an SQL condition selects."""
        found = self.query(f"SELECT {_EXAMPLE} FROM examples WHERE {condition}", parameters)
        return [ExampleRow(*values) for values in found]

    def tasks(self, condition: str, *parameters: Any) -> list[TaskRow]:
        """The tasks that an SQL condition selects."""
        names = ", ".join(TaskRow.__slots__)
        found = self.query(f"SELECT {names} FROM tasks WHERE {condition}", parameters)
        return [_task_row(values) for values in found]

    def problems(self, limit: int = 20) -> tuple[int, list[Problem]]:
        """The number of lines that could not be read, and the first of them."""
        count = self.query("SELECT count(*) FROM problems")[0][0]
        first = self.query("SELECT * FROM problems LIMIT ?", (limit,))
        return count, [Problem(*values) for values in first]

    def record(self, table: Literal["trajectories", "examples"], number: int) -> Json:
        """The JSON object of a record. DataError if the file has changed meanwhile."""
        [(file, offset, size)] = self.query(
            f"SELECT file, offset, size FROM {table} WHERE id = ?", (number,)
        )
        path = self._run / file
        try:
            with path.open("rb") as stream:
                stream.seek(offset)
                return _object(stream.read(size))
        except (OSError, ValueError) as error:
            raise DataError(
                f"cannot read a record of `{path}`: {error}", hint="reload the page"
            ) from error

    def hold(self, numbers: Sequence[int], phrases: Sequence[str]) -> list[bool]:
        """Whether the record of each rollout holds all phrases, in any case of letters."""
        forms = [
            {
                json.dumps(each, ensure_ascii=ascii_only)[1:-1].lower()
                for ascii_only in (True, False)
            }
            for each in phrases
        ]
        wanted = [[form.encode(errors="replace") for form in each] for each in forms]
        places = {
            number: (file, offset, size)
            for number, file, offset, size in self.query(
                "SELECT id, file, offset, size FROM trajectories WHERE id IN "
                "(SELECT value FROM json_each(?))",
                (json.dumps(list(numbers)),),
            )
        }
        found = []
        with ExitStack() as stack:
            opened: dict[str, IO[bytes]] = {}
            for number in numbers:
                file, offset, size = places[number]
                if file not in opened:
                    opened[file] = stack.enter_context((self._run / file).open("rb"))
                opened[file].seek(offset)
                text = opened[file].read(size).lower()
                found.append(all(any(form in text for form in each) for each in wanted))
        return found

    def trajectory(self, row: Row) -> Trajectory:
        """A rollout with its texts. DataError or StoreError if its record is damaged."""
        return Trajectory.from_record(self.record("trajectories", row.id))

    def trajectories(self, rows: Iterable[Row]) -> tuple[TrajectorySet, dict[str, str]]:
        """Rollouts with their texts, and by id what is wrong with those that are damaged."""
        trajectories, damaged = TrajectorySet(), {}
        for row in rows:
            try:
                problem = add_if_possible(trajectories, self.trajectory(row))
            except EefError as error:
                problem = error.message
            if problem:
                damaged[row.name] = problem
        return trajectories, damaged

    def example(self, row: ExampleRow) -> TrainingExample | PreferencePair | Acts:
        """An example, pair or acts with its weights. StoreError if its record is damaged."""
        return _RECORDS[row.kind].from_record(self.record("examples", row.id))

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """A context in which all reads see the same state of the index."""
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.execute("ROLLBACK")


def _row(values: Sequence[Any]) -> Row:
    fields = list(values)
    fields[9], fields[15] = bool(fields[9]), bool(fields[15])
    return Row(*fields)


def _task_row(values: Sequence[Any]) -> TaskRow:
    named = dict(zip(TaskRow.__slots__, values, strict=True))
    expert = named["expert"]
    return TaskRow(
        **{
            **named,
            "expert": None if expert is None else bool(expert),
            "never": bool(named["never"]),
            "newly": bool(named["newly"]),
        }
    )


def _object(data: bytes) -> Json:
    try:
        value = json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"a JSON {type(value).__name__}; expected an object")
    return value


def _describe(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"`{error.args[0]}` is missing"
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return f"not JSON ({error})"
    return f"malformed record ({error})"


def _head_of(path: Path, read: int) -> str:
    """A digest of the start and the end of what was read, by which a replaced file is recognized.

    The end matters: a store from which failed rollouts were removed starts as before.
    """
    with path.open("rb") as file:
        start = file.read(min(read, _HEAD))
        file.seek(max(0, read - _HEAD))
        return hashlib.sha256(start + file.read(min(read, _HEAD))).hexdigest()[:16]


def stage_counts(reader: Reader) -> dict[Stage, tuple[int, int]]:
    """(rollouts, wins) so far of the stages that play."""
    return {
        Stage(method, round, phase): (count, wins)
        for method, round, phase, count, wins in reader.query(
            "SELECT method, round, phase, count(*), sum(success) FROM trajectories "
            "GROUP BY method, round, phase"
        )
    }
