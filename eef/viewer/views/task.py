"""The view of a task: the experts' paths with the rollouts from their states, and the solutions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eef.errors import EefError
from eef.methods.base import Method
from eef.methods.eef import Eef, grids_of
from eef.methods.labels import OutcomeGrid
from eef.methods.queries import expert_step_count
from eef.pipeline.stages import EXPERT
from eef.selection import Acts, PreferencePair, TrainingExample
from eef.trajectory import StateRef, Trajectory, TrajectorySet
from eef.viewer.address import Address
from eef.viewer.index.reader import Reader
from eef.viewer.index.rows import ExampleRow, Row
from eef.viewer.index.trajectories import light_set
from eef.viewer.open_run import OpenRun
from eef.viewer.page import NotFound, Page
from eef.viewer.tasks import neighbors, outcome_table
from eef.viewer.views.example import Member, group_members
from eef.viewer.views.steps import ShownStep, shown_steps

MOST_ROLLOUTS = 60
"""Rollouts of a state that are listed; the others are counted."""


@dataclass(frozen=True, slots=True)
class Branch:
    """A rollout from a state: its row, and its own actions."""

    row: Row
    actions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class State:
    """A state of a path, with the rollouts of the chosen round that start from it.

    `solvable` is that of the outcome grid, None if it was not measured.
    """

    t: int
    solvable: bool | None
    measured: bool
    recovery: bool
    wins: int
    branches: tuple[Branch, ...]
    more: int


@dataclass(frozen=True, slots=True)
class Spine:
    """A trajectory that others branch from: its steps, its states by step, its segments.

    `anchor` begins the ids of its states on the page.
    """

    anchor: str
    trajectory: Trajectory
    row: Row
    steps: list[ShownStep]
    states: dict[int, State]
    segments: list[dict[str, Any]]

    @property
    def recovery(self) -> list[int]:
        return [t for t, state in self.states.items() if state.recovery]


@dataclass(frozen=True, slots=True)
class Group:
    """The rollouts of a state whose acts were compared; `row` is that of the first acts."""

    row: ExampleRow
    members: list[Member]


@dataclass(frozen=True, slots=True)
class Solution:
    """A selected example, with the reason for its choice and the wins it was preferred to."""

    row: ExampleRow
    example: TrainingExample | PreferencePair | None
    win: Row | None
    steps: list[tuple[str, float, str, str]]
    why: str
    others: list[Row]


def task_page(run: OpenRun, reader: Reader, address: Address) -> Page:
    """A task with everything that was played of it, and one round of one method in detail."""
    task = address.name
    rows = reader.rows_of_task(task)
    found = reader.tasks("task = ?", task)
    if not rows or not found:
        raise NotFound(f"no task {task!r} in this run", hint="open the list of tasks")
    summary = found[0]
    tabs = _tabs(rows)
    method, round = _choose(run, tabs, address)
    chosen = [
        row for row in rows if (row.method, row.round, row.phase) == (method, round, "explore")
    ]
    shown, damaged = reader.trajectories(_needed(rows, chosen))
    by_name = {row.name: row for row in rows}
    algorithm = run.run.methods.get(method)
    known = _grid_set(rows, method)
    grids = grids_of(algorithm, known, task, round)
    roots = _roots(shown, by_name, chosen, grids)
    spines = [
        _spine(run, shown, by_name, item, grids.get(item.id), chosen, number)
        for number, item in enumerate(roots)
    ]
    drawn = {item.id for item in roots}
    before, after = neighbors(reader, task)
    tests = [row for row in rows if row.phase == "evaluate"]
    return Page(
        template="task.html",
        title=task,
        up=Address.of("tasks", run.slug),
        before=Address.of("task", run.slug, before) if before else None,
        after=Address.of("task", run.slug, after) if after else None,
        variables={
            "task": summary,
            "outcomes": outcome_table(rows),
            "rounds": sorted({row.round for row in rows}),
            "tabs": tabs,
            "method": method,
            "round": round,
            "algorithm": algorithm,
            "spines": spines,
            "loose": [row for row in chosen if not roots or row.origin not in {None, *drawn}][
                :MOST_ROLLOUTS
            ],
            "solutions": _solutions(run, reader, algorithm, task, method, round, by_name)
            if method
            else [],
            "acts_groups": _acts_groups(reader, rows, task, method, round),
            "damaged": damaged,
            "failed": [row for row in rows if row.outcome == "failed"],
            "pairs": _pairs(tests),
            "tests": tests,
        },
    )


def _tabs(rows: Sequence[Row]) -> dict[str, list[int]]:
    """The explored rounds of each method."""
    tabs: dict[str, set[int]] = {}
    for row in rows:
        if row.phase == "explore":
            tabs.setdefault(row.method, set()).add(row.round)
    return {method: sorted(rounds) for method, rounds in tabs.items()}


def _choose(run: OpenRun, tabs: dict[str, list[int]], address: Address) -> tuple[str, int]:
    """The method and round to show: those of the address; otherwise the last round of a method that
    explores failures, or the last round of any method."""
    method, round = address.get("method"), address.get("round")
    if method not in tabs:
        explorers = [name for name in tabs if isinstance(run.run.methods.get(name), Eef)]
        method = next(iter(explorers or tabs), "")
    rounds = tabs.get(method, [])
    if not rounds:
        return method, 0
    return method, int(round) if round.isdecimal() and int(round) in rounds else rounds[-1]


def _needed(rows: Sequence[Row], chosen: Sequence[Row]) -> list[Row]:
    """The rollouts whose texts the page shows: the experts', the chosen ones and their origins."""
    names = {row.name: row for row in rows}
    wanted = {row.name for row in rows if row.role == "expert"} | {row.name for row in chosen}
    queue = list(wanted)
    while queue:
        origin = names[queue.pop()].origin
        if origin is not None and origin in names and origin not in wanted:
            wanted.add(origin)
            queue.append(origin)
    return [row for row in rows if row.name in wanted]


def _grid_set(rows: Sequence[Row], method: str) -> TrajectorySet:
    """The trajectories that decide the labels of a method, without their texts."""
    explored = (method, "explore")
    return light_set(
        row for row in rows if row.phase == "collect" or (row.method, row.phase) == explored
    )


def _roots(
    shown: TrajectorySet,
    by_name: dict[str, Row],
    chosen: Sequence[Row],
    grids: dict[str, OutcomeGrid],
) -> list[Trajectory]:
    """The trajectories to draw as spines: the experts', and those that the rollouts branch from."""
    origins = {row.origin for row in chosen if row.origin is not None}
    roots = [item for item in shown if item.by_expert and by_name[item.id].phase == "collect"]
    others = [item for item in shown if item.id in origins | set(grids) and item not in roots]
    return roots + others


def _spine(
    run: OpenRun,
    shown: TrajectorySet,
    by_name: dict[str, Row],
    item: Trajectory,
    grid: OutcomeGrid | None,
    chosen: Sequence[Row],
    number: int,
) -> Spine:
    """A spine; rollouts from the task's start belong to the first one."""
    by_state: dict[int, list[Row]] = {}
    for row in chosen:
        if row.origin == item.id:
            by_state.setdefault(row.t, []).append(row)
        elif row.origin is None and number == 0:
            by_state.setdefault(0, []).append(row)
    states = {}
    for t in sorted({*by_state, *(grid.states if grid else ())}):
        place = grid.states.index(t) if grid and t in grid.states else None
        rows = by_state.get(t, [])
        states[t] = State(
            t=t,
            solvable=grid.solvable[place] if grid and place is not None else _solvable(rows),
            measured=place is not None,
            recovery=bool(grid and t in grid.recovery_states()),
            wins=sum(row.success for row in rows),
            branches=tuple(_branch(shown, row) for row in rows[:MOST_ROLLOUTS]),
            more=max(0, len(rows) - MOST_ROLLOUTS),
        )
    segments = [
        {"start": each.start, "end": each.end, "label": each.label, "advantage": each.advantage}
        for each in (grid.segments() if grid else ())
    ]
    path = shown.path(item.id)
    steps = shown_steps(path, item.id, run.spec, grid.labels() if grid else {})
    return Spine(f"state-{number}", item, by_name[item.id], steps, states, segments)


def _solvable(rows: Sequence[Row]) -> bool | None:
    played = [row for row in rows if row.status != "error"]
    return any(row.success for row in played) if played else None


def _branch(shown: TrajectorySet, row: Row) -> Branch:
    steps = shown[row.name].steps if row.name in shown else ()
    return Branch(row, tuple(step.action or "(no action)" for step in steps))


def _solutions(
    run: OpenRun,
    reader: Reader,
    algorithm: Method[Any] | None,
    task: str,
    method: str,
    round: int,
    by_name: dict[str, Row],
) -> list[Solution]:
    found = []
    rows = [row for row in by_name.values() if row.phase == "collect" or row.method == method]
    full: TrajectorySet | None = None
    condition = "task = ? AND method = ? AND round = ? AND kind != 'acts'"
    for row in reader.examples(condition, task, method, round):
        try:
            example = reader.example(row)
            assert not isinstance(example, Acts), "its kind is another"
        except EefError:
            found.append(Solution(row, None, by_name.get(row.trajectory), [], "", []))
            continue
        why = ""
        others: list[Row] = []
        steps: list[tuple[str, float, str, str]] = []
        side = example.chosen if isinstance(example, PreferencePair) else example
        if full is None:
            full, _ = reader.trajectories(row for row in rows if row.phase != "evaluate")
        if side.trajectory in full:
            path = full.path(side.trajectory)
            steps = [
                (item.step.action, weight, reason, item.author.role)
                for item, weight, reason in zip(path, side.weights, side.reasons, strict=False)
            ]
        if isinstance(algorithm, Eef) and isinstance(example, TrainingExample):
            why, others = _reason(algorithm, full, by_name, example, round)
        found.append(Solution(row, example, by_name.get(row.trajectory), steps, why, others))
    return sorted(found, key=lambda item: (item.row.kind, item.row.state))


def _acts_groups(
    reader: Reader, rows: Sequence[Row], task: str, method: str, round: int
) -> list[Group]:
    """The groups of a task that a round trained on by policy gradient, in the order of states."""
    condition = "task = ? AND method = ? AND round = ? AND kind = 'acts' ORDER BY id"
    found: dict[str, ExampleRow] = {}
    for row in reader.examples(condition, task, method, round):
        found.setdefault(row.group, row)
    groups = [Group(row, group_members(reader, rows, row)) for row in found.values()]
    return sorted(groups, key=lambda group: [member.row.t for member in group.members[:1]])


def _reason(
    method: Eef,
    trajectories: TrajectorySet,
    by_name: dict[str, Row],
    example: TrainingExample,
    round: int,
) -> tuple[str, list[Row]]:
    """Why a solution was selected, and the wins it was preferred to."""
    if example.trajectory not in trajectories:
        return "", []
    win = trajectories[example.trajectory]
    origin = win.start.trajectory if win.start else win.id
    state = StateRef(origin, example.state) if example.state else None
    ranked = method.solutions(trajectories, example.task, state, round)
    others = [by_name[item.id] for item in ranked if item.id != win.id and item.id in by_name]
    steps = expert_step_count(win)
    count = "the only win" if not others else f"one of {len(others) + 1} different wins"
    place = f"through state {example.state}" if example.state else "from the task’s start"
    order = {
        "nearest": f"It has the fewest expert steps ({steps}), then the fewest steps "
        f"({win.length}).",
        "newest": f"It is from the latest round ({win.round}).",
        "all": "The student is trained on all of them, with equal weights.",
    }[method.options.solution]
    return f"It is {count} {place}. {order if others else ''}".strip(), others


def _pairs(tests: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Evaluation rollouts that are worth comparing: the last of each two methods, the last two
    rounds of one method."""
    last: dict[str, Row] = {}
    pairs = []
    for row in sorted(tests, key=lambda row: row.round):
        if row.method in last and row.method != EXPERT:
            pairs.append((last[row.method], row))
        last[row.method] = row
    latest = list(last.values())
    between = [(a, b) for i, a in enumerate(latest) for b in latest[i + 1 :]]
    return between + pairs[-3:]
