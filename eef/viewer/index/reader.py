"""Reads of an index, and of the records it points to."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Literal

from eef.errors import DataError, EefError
from eef.pipeline.stages import Stage
from eef.selection import Acts, PreferencePair, TrainingExample
from eef.trajectory import Trajectory, TrajectorySet
from eef.utils.records import Json
from eef.viewer.index.records import RECORDS, parse_object
from eef.viewer.index.rows import ExampleRow, Problem, Row, TaskRow
from eef.viewer.index.trajectories import add_if_possible

_EXAMPLE = "id, kind, name, task, trajectory, method, round, state, group_id"


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
        names = ", ".join(Row.__slots__)
        found = self.query(f"SELECT {names} FROM trajectories WHERE {condition}", parameters)
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
                return parse_object(stream.read(size))
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
        return RECORDS[row.kind].from_record(self.record("examples", row.id))

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """A context in which all reads see the same state of the index."""
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            self._connection.execute("ROLLBACK")


def _row(values: Sequence[Any]) -> Row:
    named = dict(zip(Row.__slots__, values, strict=True))
    flags = {name: bool(named[name]) for name in ("success", "replayable")}
    return Row(**{**named, **flags})


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


def stage_counts(reader: Reader) -> dict[Stage, tuple[int, int]]:
    """(rollouts, wins) so far of the stages that play."""
    return {
        Stage(method, round, phase): (count, wins)
        for method, round, phase, count, wins in reader.query(
            "SELECT method, round, phase, count(*), sum(success) FROM trajectories "
            "GROUP BY method, round, phase"
        )
    }
