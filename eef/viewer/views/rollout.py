"""The views of one trajectory, and of two trajectories side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eef.analysis.role_texts import RoleTexts, role_texts
from eef.methods.eef import grids_of
from eef.pipeline.stages import EXPERT, Stage
from eef.trajectory import PathStep, Trajectory, TrajectorySet
from eef.viewer.address import Address
from eef.viewer.index.reader import Reader
from eef.viewer.index.rows import Row
from eef.viewer.index.trajectories import light_set
from eef.viewer.open_run import OpenRun
from eef.viewer.page import NotFound, Page
from eef.viewer.search import parse_search
from eef.viewer.views.example import advantages_by_step
from eef.viewer.views.steps import ShownStep, shown_steps


def trajectory_page(run: OpenRun, reader: Reader, address: Address) -> Page:
    """A trajectory step by step."""
    row = _find(reader, address.name)
    rows = reader.rows_of_task(row.task)
    shown, damaged = reader.trajectories(_with_origins(rows, [row]))
    siblings = _siblings(rows, row)
    place = [each.name for each in siblings].index(row.name)
    q = address.get("q")

    def to(position: int) -> Address | None:
        inside = 0 <= position < len(siblings)
        name = siblings[position].name if inside else ""
        return Address.of("trajectory", run.slug, name, q=q) if inside else None

    present = row.name in shown
    advantages = advantages_by_step(reader, row.name)
    return Page(
        template="trajectory.html",
        title=row.name,
        up=Address.of("task", run.slug, row.task),
        before=to(place - 1),
        after=to(place + 1),
        variables={
            "row": row,
            "trajectory": shown[row.name] if present else None,
            "steps": _steps(run, shown, rows, row, advantages) if present else [],
            "advantages": advantages,
            "texts": _role_texts(run, row, shown[row.name]) if present else None,
            "place": place + 1,
            "siblings": len(siblings),
            "branches": [each for each in rows if each.origin == row.name],
            "examples": reader.examples("trajectory = ?", row.name),
            "instruction": _instruction(reader, row.task),
            "rivals": _rivals(rows, row),
            "terms": parse_search(q).terms,
            "damaged": damaged,
        },
    )


def _role_texts(run: OpenRun, row: Row, item: Trajectory) -> RoleTexts:
    """The texts of roles about a trajectory; about an expert's, those of all methods."""
    if row.phase == "evaluate":
        stores = [run.run.evaluation_store(Stage(row.method, row.round, "evaluate"))]
    elif row.phase == "collect":
        stores = [run.run.store(name) for name in run.run.methods]
    else:
        stores = [run.run.store(row.method)]
    return role_texts(item, map(run.notes, stores))


@dataclass(frozen=True, slots=True)
class Pair:
    """Two steps at the same index; None if that path has ended. `same` up to where they part."""

    t: int
    a: ShownStep | None
    b: ShownStep | None
    same: bool


def compare_page(run: OpenRun, reader: Reader, address: Address) -> Page:
    """Two trajectories of a task, aligned up to where they part."""
    if run.static:
        a, b = _first_pair(reader.rows_of_task(address.name))
    else:
        a, b = (_find(reader, address.get(side)) for side in ("a", "b"))
    if a.task != b.task:
        raise NotFound(
            f"{a.name!r} is of task {a.task}, {b.name!r} of {b.task}",
            hint="compare two trajectories of one task",
        )
    rows = reader.rows_of_task(a.task)
    shown, damaged = reader.trajectories(_with_origins(rows, [a, b]))
    sides = [
        shown_steps(shown.path(row.name), row.name, run.spec) if row.name in shown else []
        for row in (a, b)
    ]
    parting = part_at(*(shown.path(row.name) if row.name in shown else () for row in (a, b)))
    pairs = [
        Pair(t, _at(sides[0], t), _at(sides[1], t), same=t < parting)
        for t in range(max(map(len, sides), default=0))
    ]
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_group(row), []).append(row)
    return Page(
        template="compare.html",
        title=f"Compare {a.name} with {b.name}",
        up=Address.of("task", run.slug, a.task),
        variables={
            "a": a,
            "b": b,
            "ends": [_get(shown, row) for row in (a, b)],
            "pairs": pairs,
            "parting": parting,
            "apart": parting < len(pairs),
            "groups": groups,
            "damaged": damaged,
            "instruction": _instruction(reader, a.task),
            "rollouts": _rollouts(run, reader, rows) if run.static else None,
        },
    )


def _first_pair(rows: Sequence[Row]) -> tuple[Row, Row]:
    """The pair that a page for all pairs opens with: the first rollout and the last one."""
    return rows[0], rows[-1]


MOST_COMPARED = 4_000_000
"""Characters of texts in a page with all pairs of a task; further rollouts cannot be compared."""


@dataclass(frozen=True, slots=True)
class Rollouts:
    """The rollouts of a task with each text once, from which a script puts any two side by side.

    `steps` maps the id of each rollout to its number, and the observation, thought and action of
    each of its steps by number. A step is followed by the number of its whole observation, which
    decides where two paths part.
    """

    rows: list[Row]
    ends: list[Trajectory | None]
    observations: list[ShownStep]
    thoughts: list[str]
    actions: list[str]
    steps: dict[str, list[Any]]


def _rollouts(run: OpenRun, reader: Reader, rows: Sequence[Row]) -> Rollouts:
    shown, _ = reader.trajectories(rows)
    observations: dict[tuple[str, str], tuple[int, ShownStep]] = {}
    full: dict[str, int] = {}
    thoughts: dict[str, int] = {}
    actions: dict[str, int] = {}
    found = Rollouts([], [], [], [], [], {})
    size = 0
    for row in rows:
        if row.name not in shown or size > MOST_COMPARED:
            continue
        steps = []
        for step in shown_steps(shown.path(row.name), row.name, run.spec):
            number, _ = observations.setdefault(
                (step.observation, step.new), (len(observations), step)
            )
            if number == len(observations) - 1:
                size += 2 * len(step.observation) + len(step.thought)
            steps.append(
                [
                    number,
                    thoughts.setdefault(step.thought, len(thoughts)),
                    actions.setdefault(step.action, len(actions)),
                    full.setdefault(step.observation, len(full)),
                ]
            )
        found.steps[row.name] = [len(found.rows), steps]
        found.rows.append(row)
        found.ends.append(shown[row.name])
    found.observations.extend(step for _, step in observations.values())
    found.thoughts.extend(thoughts)
    found.actions.extend(actions)
    return found


def _at(steps: Sequence[ShownStep], t: int) -> ShownStep | None:
    return steps[t] if t < len(steps) else None


def _get(shown: TrajectorySet, row: Row) -> Trajectory | None:
    return shown[row.name] if row.name in shown else None  # noqa: SIM401 – it has no `get`


def part_at(a: Sequence[PathStep], b: Sequence[PathStep]) -> int:
    """The number of steps that two paths share: the same observations and the same actions."""
    shared = 0
    for one, other in zip(a, b, strict=False):
        first, second = one.step, other.step
        if (first.observation, first.action) != (second.observation, second.action):
            break
        shared += 1
    return shared


def _steps(
    run: OpenRun,
    shown: TrajectorySet,
    rows: Sequence[Row],
    row: Row,
    advantages: Mapping[int, float],
) -> list[ShownStep]:
    """The steps of a path; the expert's part has the labels that the row's method measured."""
    path = shown.path(row.name)
    expert = next((shown[item.trajectory] for item in path if item.author.role == "expert"), None)
    labels: dict[int, str] = {}
    if expert is not None and row.phase == "explore":
        kept = [
            each
            for each in rows
            if each.phase == "collect" or (each.method, each.phase) == (row.method, "explore")
        ]
        method = run.run.methods.get(row.method)
        grids = grids_of(method, light_set(kept), row.task, row.round)
        if grid := grids.get(expert.id):
            labels = {t: label for t, label in grid.labels().items() if t < row.t}
    return shown_steps(path, row.name, run.spec, labels, advantages)


def _find(reader: Reader, name: str) -> Row:
    row = reader.row(name)
    if row is None:
        raise NotFound(f"no trajectory {name!r} in this run", hint="open the list of tasks")
    return row


def _with_origins(rows: Sequence[Row], chosen: Sequence[Row]) -> list[Row]:
    """Rows with those they branch from, in the order of `rows`."""
    by_name = {row.name: row for row in rows}
    wanted: set[str] = set()
    for row in chosen:
        name: str | None = row.name
        while name is not None and name in by_name and name not in wanted:
            wanted.add(name)
            name = by_name[name].origin
    return [row for row in rows if row.name in wanted]


def _siblings(rows: Sequence[Row], row: Row) -> list[Row]:
    """The rollouts of the same stage, or all evaluation rollouts of the task."""
    if row.phase == "evaluate":
        return [each for each in rows if each.phase == "evaluate"]
    key = (row.method, row.round, row.phase)
    return [each for each in rows if (each.method, each.round, each.phase) == key]


def _rivals(rows: Sequence[Row], row: Row) -> list[tuple[str, Row]]:
    """Trajectories that are worth comparing with one: its origin or the expert's, the first one of
    the same state with another outcome, the same method's in other rounds, other methods'."""
    found: list[tuple[str, Row]] = []
    by_name = {each.name: each for each in rows}
    if row.origin in by_name:
        found.append(("the trajectory it branches from", by_name[row.origin]))
    experts = [
        each for each in rows if each.role == "expert" and each.name not in (row.name, row.origin)
    ]
    found += [(f"the expert {each.author}", each) for each in experts[:2]]
    same = [
        each
        for each in rows
        if (each.phase, each.origin, each.t) == (row.phase, row.origin, row.t)
        and each.outcome != row.outcome
        and row.phase == "explore"
        and (each.method, each.round) == (row.method, row.round)
    ]
    found += [(f"one that {same[0].outcome}, from the same state", same[0])] if same else []
    if row.phase == "evaluate":
        last: dict[str, Row] = {}
        for each in rows:
            if each.phase == "evaluate" and each.role == "student" and each.name != row.name:
                last[each.method] = each
        found += [(f"{each.method}, round {each.round}", each) for each in last.values()]
    return found


def _group(row: Row) -> str:
    if row.method == EXPERT:
        return "expert"
    stage = "test" if row.phase == "evaluate" else "training"
    return f"{row.method}, round {row.round}, {stage}"


def _instruction(reader: Reader, task: str) -> str:
    found = reader.tasks("task = ?", task)
    return found[0].instruction if found else ""
