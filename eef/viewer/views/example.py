"""The view of a training example or pair: what was trained, why, and the rollouts that prove it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eef.errors import EefError
from eef.selection import PreferencePair, TrainingExample
from eef.trajectory import TrajectorySet
from eef.viewer.address import Address
from eef.viewer.index import ExampleRow, Reader, Row
from eef.viewer.open_run import OpenRun
from eef.viewer.page import NotFound, Page
from eef.viewer.views.steps import ShownStep, shown_steps


@dataclass(frozen=True, slots=True)
class MaskedStep:
    """A step with its loss weight and the reason for it."""

    step: ShownStep
    weight: float
    reason: str


@dataclass(frozen=True, slots=True)
class Side:
    """An example (`name` is ""), or one response of a pair."""

    name: str
    example: TrainingExample
    row: Row | None
    steps: list[MaskedStep]
    evidence: list[tuple[str, Row | None]]


def example_page(run: OpenRun, reader: Reader, address: Address) -> Page:
    """An example with its mask on steps and on tokens."""
    row = _find(reader, address)
    siblings = reader.examples("method = ? AND round = ? ORDER BY id", row.method, row.round)
    place = [each.id for each in siblings].index(row.id)
    record = reader.example(row)
    rows = reader.rows_of_task(row.task)
    shown, damaged = reader.trajectories(
        each for each in rows if each.phase == "collect" or each.method == row.method
    )
    by_name = {item.name: item for item in rows}
    sides = [_side(run, name, each, shown, by_name) for name, each in _sides(record).items()]
    return Page(
        template="example.html",
        title=row.name,
        up=Address.of("task", run.slug, row.task, method=row.method, round=row.round),
        before=_at(run, siblings, place - 1),
        after=_at(run, siblings, place + 1),
        variables={
            "row": row,
            "pair": isinstance(record, PreferencePair),
            "sides": sides,
            "damaged": damaged,
            "place": place + 1,
            "siblings": len(siblings),
        },
    )


def tokens_page(run: OpenRun, reader: Reader, address: Address) -> Page:
    """The mask of an example on its tokens: a part of its page."""
    row = _find(reader, address)
    side = _sides(reader.example(row)).get(address.get("side"))
    if side is None:
        raise NotFound(f"{row.name!r} has no such side", hint="open the example")
    rows = reader.rows("task = ? AND phase != 'evaluate'", row.task)
    by_name = {each.name: each for each in rows}
    path: list[Row] = []
    name: str | None = side.trajectory
    while name is not None and name in by_name:
        path.insert(0, by_name[name])
        name = by_name[name].origin
    try:
        mask, problem = run.tokens.render(side, map(reader.trajectory, path)), None
    except EefError as error:
        mask, problem = None, error
    return Page(
        template="tokens.html", title=row.name, variables={"mask": mask, "problem": problem}
    )


def _find(reader: Reader, address: Address) -> ExampleRow:
    """The example of an address, which may leave out the method or the round."""
    found = reader.examples("name = ? ORDER BY id", address.name)
    method, round = address.get("method"), address.get("round")
    for row in found:
        if method in ("", row.method) and round in ("", str(row.round)):
            return row
    raise NotFound(f"no example {address.name!r} in this run", hint="open the list of tasks")


def _sides(record: TrainingExample | PreferencePair) -> dict[str, TrainingExample]:
    """The responses of a pair by name, or an example under the name ""."""
    if isinstance(record, TrainingExample):
        return {"": record}
    return {"chosen": record.chosen, "rejected": record.rejected}


def example_address(run: str, row: ExampleRow) -> Address:
    return Address.of("example", run, row.name, method=row.method, round=row.round)


def _at(run: OpenRun, siblings: Sequence[ExampleRow], position: int) -> Address | None:
    inside = 0 <= position < len(siblings)
    return example_address(run.slug, siblings[position]) if inside else None


def _side(
    run: OpenRun,
    name: str,
    example: TrainingExample,
    shown: TrajectorySet,
    rows: dict[str, Row],
) -> Side:
    steps: list[MaskedStep] = []
    if example.trajectory in shown:
        path = shown.path(example.trajectory)
        split = run.index.spec.split_observation
        steps = [
            MaskedStep(step, weight, reason)
            for step, weight, reason in zip(
                shown_steps(path, example.trajectory, split),
                example.weights,
                example.reasons,
                strict=False,
            )
        ]
    evidence = [(each, rows.get(each)) for each in example.evidence]
    return Side(name, example, rows.get(example.trajectory), steps, evidence)
