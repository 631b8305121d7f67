"""The view of an example, a pair or acts: what was trained, why, and the rollouts behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from eef.errors import EefError
from eef.selection import Acts, PreferencePair, TrainingExample
from eef.trajectory import TrajectorySet
from eef.viewer.address import Address
from eef.viewer.index.reader import Reader
from eef.viewer.index.rows import ExampleRow, Row
from eef.viewer.open_run import OpenRun
from eef.viewer.page import NotFound, Page
from eef.viewer.views.steps import ShownStep, shown_steps

ACT_REASONS = {
    "better": "better than expected",
    "worse": "worse than expected",
    "expected": "as good as expected",
}


@dataclass(frozen=True, slots=True)
class MaskedStep:
    """A step with its loss weight and the reason for it; of acts, with its advantage."""

    step: ShownStep
    weight: float
    reason: str


@dataclass(frozen=True, slots=True)
class Member:
    """A rollout of a group. `advantage` is the mean over its own acts, None if it was not trained
    on: every act was as good as expected."""

    row: Row
    example: ExampleRow | None
    advantage: float | None


@dataclass(frozen=True, slots=True)
class Side:
    """An example or acts (`name` is ""), or one response of a pair. `trained` of `length` actions
    have a weight or an advantage other than 0."""

    name: str
    row: Row | None
    steps: list[MaskedStep]
    trained: int
    length: int
    prompt_suffix: str
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
            "sides": sides,
            "group": group_members(reader, rows, row) if row.kind == "acts" else [],
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
        template="tokens.html",
        title=row.name,
        variables={"mask": mask, "problem": problem, "kind": row.kind},
    )


def _find(reader: Reader, address: Address) -> ExampleRow:
    """The example of an address, which may leave out the method or the round."""
    found = reader.examples("name = ? ORDER BY id", address.name)
    method, round = address.get("method"), address.get("round")
    for row in found:
        if method in ("", row.method) and round in ("", str(row.round)):
            return row
    raise NotFound(f"no example {address.name!r} in this run", hint="open the list of tasks")


def _sides(
    record: TrainingExample | PreferencePair | Acts,
) -> Mapping[str, TrainingExample | Acts]:
    """The responses of a pair by name, or an example or acts under the name ""."""
    if isinstance(record, PreferencePair):
        return {"chosen": record.chosen, "rejected": record.rejected}
    return {"": record}


def group_members(reader: Reader, rows: Sequence[Row], acts: ExampleRow) -> list[Member]:
    """The rollouts that acts were compared with, themselves included: those of the same state."""
    condition = "kind = 'acts' AND task = ? AND method = ? AND round = ? AND group_id = ?"
    trained = {
        each.trajectory: each
        for each in reader.examples(condition, acts.task, acts.method, acts.round, acts.group)
    }
    starts = {(row.origin, row.t) for row in rows if row.name in trained}
    return [
        Member(row, example, _mean_advantage(reader, example, row) if example else None)
        for row in rows
        if (row.method, row.round, row.phase) == (acts.method, acts.round, "explore")
        and (row.origin, row.t) in starts
        and row.status != "error"
        for example in [trained.get(row.name)]
    ]


def _mean_advantage(reader: Reader, example: ExampleRow, row: Row) -> float | None:
    try:
        record = reader.example(example)
    except EefError:
        return None
    assert isinstance(record, Acts), "its kind is acts"
    own = record.advantages[row.t :]
    return sum(own) / len(own) if own else None


def advantages_by_step(reader: Reader, name: str) -> dict[int, float]:
    """The advantage of each act of a trajectory, by step; empty if none was trained on. A record
    that is damaged is named on its own page."""
    found: dict[int, float] = {}
    for row in reader.examples("kind = 'acts' AND trajectory = ?", name)[:1]:
        with suppress(EefError):
            record = reader.example(row)
            assert isinstance(record, Acts), "its kind is acts"
            found = dict(enumerate(record.advantages))
    return found


def advantage_text(value: float) -> str:
    """An advantage with its sign.

    >>> advantage_text(0.5), advantage_text(-0.5), advantage_text(0.0)
    ('+0.50', '−0.50', '0')
    """
    return f"{value:+.2f}".replace("-", "−") if value else "0"


def _reasons(record: TrainingExample | Acts, path: Sequence[ShownStep]) -> Sequence[str]:
    """The reason of each step; of acts, whether it went better or worse than expected."""
    if isinstance(record, TrainingExample):
        return record.reasons
    return [
        "better" if value > 0 else "worse" if value else "expected" if step.own else "context"
        for value, step in zip(record.advantages, path, strict=False)
    ]


def example_address(run: str, row: ExampleRow) -> Address:
    return Address.of("example", run, row.name, method=row.method, round=row.round)


def _at(run: OpenRun, siblings: Sequence[ExampleRow], position: int) -> Address | None:
    inside = 0 <= position < len(siblings)
    return example_address(run.slug, siblings[position]) if inside else None


def _side(
    run: OpenRun,
    name: str,
    example: TrainingExample | Acts,
    shown: TrajectorySet,
    rows: dict[str, Row],
) -> Side:
    weights = example.advantages if isinstance(example, Acts) else example.weights
    steps: list[MaskedStep] = []
    if example.trajectory in shown:
        path = shown.path(example.trajectory)
        drawn = shown_steps(path, example.trajectory, run.spec)
        reasons = _reasons(example, drawn)
        steps = [MaskedStep(*each) for each in zip(drawn, weights, reasons, strict=False)]
    evidence = () if isinstance(example, Acts) else example.evidence
    return Side(
        name=name,
        row=rows.get(example.trajectory),
        steps=steps,
        trained=sum(weight != 0 for weight in weights),
        length=len(weights),
        prompt_suffix=example.prompt_suffix,
        evidence=[(each, rows.get(each)) for each in evidence],
    )
