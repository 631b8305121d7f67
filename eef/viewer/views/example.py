"""The view of a training example or pair: what was trained, why, and the rollouts that prove it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from eef.errors import EefError
from eef.renderer import Renderer, render_example
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
class Mask:
    """The rendered text in spans of equal weight; `trained` of `tokens` tokens carry loss."""

    spans: list[tuple[str, float]]
    trained: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Side:
    """An example, or one response of a pair. `mask` is None if tokens cannot be rendered."""

    title: str
    example: TrainingExample
    row: Row | None
    steps: list[MaskedStep]
    mask: Mask | None
    evidence: list[tuple[str, Row | None]]


def example_page(run: OpenRun, reader: Reader, address: Address) -> Page:
    """An example with its mask on steps and on tokens."""
    method, round = address.get("method"), address.get("round")
    found = reader.examples(
        "name = ? AND (? = '' OR method = ?) AND (? = '' OR round = ?) ORDER BY id",
        address.name,
        method,
        method,
        round,
        round,
    )
    if not found:
        raise NotFound(f"no example {address.name!r} in this run", hint="open the list of tasks")
    row = found[0]
    siblings = reader.examples("method = ? AND round = ? ORDER BY id", row.method, row.round)
    place = [each.id for each in siblings].index(row.id)
    record = reader.example(row)
    rows = reader.rows_of_task(row.task)
    shown, damaged = reader.trajectories(
        each for each in rows if each.phase == "collect" or each.method == row.method
    )
    renderer, prompt, missing = _tokens(run)
    examples = (
        [("Example", record)]
        if isinstance(record, TrainingExample)
        else [("Chosen", record.chosen), ("Rejected", record.rejected)]
    )
    sides = [
        _side(run, title, each, shown, {item.name: item for item in rows}, renderer, prompt)
        for title, each in examples
    ]
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
            "missing": missing,
            "damaged": damaged,
            "place": place + 1,
            "siblings": len(siblings),
        },
    )


def example_address(run: str, row: ExampleRow) -> Address:
    return Address.of("example", run, row.name, method=row.method, round=row.round)


def _at(run: OpenRun, siblings: Sequence[ExampleRow], position: int) -> Address | None:
    inside = 0 <= position < len(siblings)
    return example_address(run.slug, siblings[position]) if inside else None


def _tokens(run: OpenRun) -> tuple[Renderer | None, str, EefError | None]:
    """The renderer and the prompt, or why there are none."""
    try:
        renderer, prompt = run.tokens()
    except EefError as error:
        return None, "", error
    return renderer, prompt, None


def _side(
    run: OpenRun,
    title: str,
    example: TrainingExample,
    shown: TrajectorySet,
    rows: dict[str, Row],
    renderer: Renderer | None,
    prompt: str,
) -> Side:
    steps: list[MaskedStep] = []
    mask = None
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
        if renderer is not None:
            mask = _mask(example, shown, renderer, prompt)
    evidence = [(name, rows.get(name)) for name in example.evidence]
    return Side(title, example, rows.get(example.trajectory), steps, mask, evidence)


def _mask(
    example: TrainingExample, shown: TrajectorySet, renderer: Renderer, prompt: str
) -> Mask | None:
    try:
        rendered = render_example(example, shown, prompt, renderer)
    except EefError:
        return None
    pairs = zip(rendered.ids, rendered.weights, strict=True)
    spans = [
        (str(renderer.tokenizer.decode([token for token, _ in tokens])), weight)
        for weight, tokens in groupby(pairs, key=lambda pair: pair[1])
    ]
    return Mask(spans, rendered.trained, len(rendered.ids))
