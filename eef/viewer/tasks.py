"""The tasks of a run as a table: filters, sorting, search and pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from eef.viewer.index.reader import Reader
from eef.viewer.index.rows import Row, TaskRow
from eef.viewer.search import Search, parse_search

PAGE = 50
"""Tasks per page."""
MOST_CHECKED = 10_000
"""Rollouts that are read to look for a phrase."""


@dataclass(frozen=True, slots=True)
class Filter:
    """A choice of tasks: its name, its title, an SQL condition and what it selects."""

    name: str
    title: str
    condition: str
    about: str


FILTERS = (
    Filter("", "All", "1", "all tasks"),
    Filter("never", "Never solved", "never", "no rollout wins it"),
    Filter("newly", "Newly solved", "newly", "won by a student, not by the expert or BC"),
    Filter("one", "One method only", "only_by != ''", "only one of the explored methods wins it"),
    Filter("expert-failed", "Expert failed", "expert = 0", "no expert wins it"),
    Filter("recovery", "Needs recovery", "recovery > 0", "a state of it needs recovery"),
    Filter("errors", "Errors", "errors > 0", "a rollout of it failed"),
    Filter("overflows", "Overflows", "overflows > 0", "a rollout reached the end of the context"),
    Filter("unverified", "Unverified", "unverified > 0", "an imported trajectory is unverified"),
    Filter("train", "Training", "split = 'train'", "training tasks"),
    Filter("test", "Test", "split = 'test'", "test tasks"),
)
SORTS = {
    "": ("Order of the run", "position"),
    "rate": ("Win rate, lowest first", "rate IS NULL, rate, position"),
    "-rate": ("Win rate, highest first", "rate DESC, position"),
    "reward": ("Expert’s reward", "expert_reward IS NULL, expert_reward, position"),
    "recovery": ("States that need recovery", "recovery DESC, position"),
    "rollouts": ("Number of rollouts", "rollouts DESC, position"),
    "errors": ("Number of errors", "errors DESC, position"),
    "task": ("Id", "task"),
}


@dataclass(frozen=True, slots=True)
class Match:
    """The rollouts of a task that a search found: how many, and the first one's id."""

    count: int
    first: str


@dataclass(frozen=True, slots=True)
class TaskPage:
    """One page of the table. `matches` is empty without a search; `only` a method's name."""

    tasks: Sequence[TaskRow]
    total: int
    page: int
    pages: int
    matches: dict[str, Match]
    terms: Sequence[str]
    unreadable: bool


def find_filter(name: str) -> Filter:
    """The filter of a name; all tasks for an unknown one."""
    return next((each for each in FILTERS if each.name == name), FILTERS[0])


def count_filters(reader: Reader) -> dict[str, int]:
    """The number of tasks that each filter selects."""
    sums = ", ".join(f"sum({each.condition})" for each in FILTERS)
    [values] = reader.query(f"SELECT {sums} FROM tasks")
    return {each.name: value or 0 for each, value in zip(FILTERS, values, strict=True)}


def list_tasks(
    reader: Reader,
    *,
    filter: str = "",
    sort: str = "",
    search: str = "",
    page: int = 1,
    size: int = PAGE,
) -> TaskPage:
    """A page of the tasks that match a filter and a search."""
    parsed = parse_search(search)
    matches = _matches(reader, parsed) if parsed.query else {}
    condition: list[str] = [f"({find_filter(filter).condition})"]
    unreadable = bool(search.strip()) and not parsed.query
    if parsed.query or unreadable:
        reader.query("DROP TABLE IF EXISTS temp.found")
        reader.query("CREATE TEMP TABLE found (task TEXT PRIMARY KEY)")
        reader.fill("INSERT INTO temp.found VALUES (?)", ((task,) for task in matches))
        condition.append("task IN (SELECT task FROM temp.found)")
    where = " AND ".join(condition)
    [[total]] = reader.query(f"SELECT count(*) FROM tasks WHERE {where}")
    pages = max(1, -(-total // size))
    page = min(max(1, page), pages)
    order = SORTS.get(sort, SORTS[""])[1]
    tasks = reader.tasks(f"{where} ORDER BY {order} LIMIT ? OFFSET ?", size, size * (page - 1))
    shown = {
        task.task: Match(count, reader.rows("id = ?", first)[0].name)
        for task in tasks
        if (found := matches.get(task.task))
        for count, first in [found]
    }
    return TaskPage(tasks, total, page, pages, shown, parsed.terms, unreadable)


def _matches(reader: Reader, search: Search) -> dict[str, tuple[int, int]]:
    """(number of rollouts, number of the first one) of each task that a search finds."""
    if search.phrases:
        return _with_phrases(reader, search)
    found = reader.query(
        "SELECT task, count(*), min(id) FROM trajectories "
        "WHERE id IN (SELECT rowid FROM texts WHERE texts MATCH ?) GROUP BY task",
        (search.query,),
    )
    return {task: (count, first) for task, count, first in found}


def _with_phrases(reader: Reader, search: Search) -> dict[str, tuple[int, int]]:
    """The same for a search with phrases: the records of up to `MOST_CHECKED` rollouts with all
    words are read."""
    found = reader.query(
        "SELECT id, task FROM trajectories "
        "WHERE id IN (SELECT rowid FROM texts WHERE texts MATCH ?) ORDER BY id LIMIT ?",
        (search.query, MOST_CHECKED),
    )
    matches: dict[str, tuple[int, int]] = {}
    for (number, task), holds in zip(
        found, reader.hold([number for number, _ in found], search.phrases), strict=True
    ):
        if holds:
            count, first = matches.get(task, (0, number))
            matches[task] = (count + 1, first)
    return matches


@dataclass(frozen=True, slots=True)
class Cell:
    """The outcomes of a method in a round: wins of `rollouts`, and the only rollout if there is
    one."""

    wins: int
    rollouts: int
    only: Row | None

    @property
    def outcome(self) -> str:
        return "won" if self.wins else "lost"


def outcome_table(rows: Iterable[Row]) -> dict[str, dict[int, Cell]]:
    """The outcomes of a task by method and round; rollouts that failed are not counted."""
    groups: dict[str, dict[int, list[Row]]] = {}
    for row in rows:
        if row.status != "error":
            groups.setdefault(row.method, {}).setdefault(row.round, []).append(row)
    return {
        method: {round: _cell(each) for round, each in sorted(rounds.items())}
        for method, rounds in groups.items()
    }


def _cell(rows: Sequence[Row]) -> Cell:
    return Cell(sum(row.success for row in rows), len(rows), rows[0] if len(rows) == 1 else None)


def neighbors(reader: Reader, task: str) -> tuple[str, str]:
    """The tasks before and after a task in the order of the run; "" at the ends."""
    found: Any = reader.query("SELECT position FROM tasks WHERE task = ?", (task,))
    if not found:
        return "", ""
    position = found[0][0]
    sides = (("<", "DESC"), (">", "ASC"))
    names = [
        reader.query(
            f"SELECT task FROM tasks WHERE position {sign} ? ORDER BY position {order} LIMIT 1",
            (position,),
        )
        for sign, order in sides
    ]
    return names[0][0][0] if names[0] else "", names[1][0][0] if names[1] else ""
