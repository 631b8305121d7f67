"""Models beside the student: what each method asks, at what cost, and a sample of their texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from eef.analysis.results import Results
from eef.analysis.role_texts import Sample, advice_heading
from eef.note import Note
from eef.react import thought_of
from eef.report.components import Section, fold, in_viewer, method_cell, note, section, table
from eef.report.formatting import display_name
from eef.report.html import Html, join, tag
from eef.report.run_table import ROLE_COLUMNS, has_roles, role_cells
from eef.trajectory import Step

SHOWN = 150
"""Characters of an observation that a sample shows."""


def draw_roles(results: Results, samples: Sequence[Sample]) -> Section | None:
    """The models that methods ask and a folded sample of each; None if none asks any."""
    if not has_roles(results):
        return None
    rows = [(method_cell(method.name, results), *role_cells(method)) for method in results.methods]
    title = "Models beside the student"
    return section(
        title,
        note(
            "The win rate is that of first attempts. Completions per turn are those of all models "
            "in the last evaluation, tokens those that each role has generated in all stages."
        ),
        table(("method", *ROLE_COLUMNS), rows, name=title),
        *(_sample(sample) for sample in samples),
    )


def _sample(sample: Sample) -> Html:
    item = sample.trajectory
    outcome = "won" if item.success else "lost"
    steps = tag("ol", *map(_step, item.steps), class_="mask", start=item.first)
    content = [
        tag("p", tag("code", item.id), f", {outcome} ", in_viewer("trajectory", item.id)),
        *(_note(each, "in its prompt") for each in sample.texts.in_prompt),
        *(_note(each, "about it") for each in sample.texts.about),
        steps,
    ]
    return fold(f"{display_name(sample.method)}: {sample.title}", join(content))


def _note(written: Note, where: str) -> Html:
    head = f"{written.role} ({written.author}, round {written.round}, {where})"
    skipped = f"skipped, since it is {written.problem}: " if written.problem else ""
    return tag("p", tag("strong", head), f": {skipped}{written.text}", class_="written")


def _step(step: Step) -> Html:
    return tag("li", *_turn(step))


def _turn(step: Step) -> Iterator[Html]:
    seen = step.observation
    yield tag("p", seen if len(seen) <= SHOWN else f"{seen[:SHOWN]} …", class_="observation")
    for each in step.advice:
        yield tag("p", tag("strong", advice_heading(each)), f": {each.text}", class_="written")
    if thought := thought_of(step.completion):
        yield tag("p", thought, class_="thought")
    yield tag("p", tag("code", step.action or "(no action)"), class_="action")
