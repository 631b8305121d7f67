"""Page: the report of a run as one HTML file that needs nothing else: no script, no font, no picture from elsewhere."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from eef.analysis.case_study import telling_story
from eef.analysis.results import Results
from eef.pipeline.run_directory import RunData
from eef.report.components import fold, section
from eef.report.formatting import describe_env
from eef.report.html import Html, join, tag
from eef.report.sections.case_study import draw_story
from eef.report.sections.evaluation import (
    draw_comparisons,
    draw_curves,
    draw_kinds,
    draw_scores,
    draw_skills,
)
from eef.report.sections.training import draw_costs, draw_exploration, draw_selection
from eef.report.summary import headline, progress, setting, verdict
from eef.utils.jsonl import disk_errors

# The page cannot load or run anything, whatever a task's text may hold.
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def write_page(run: RunData, results: Results, path: Path) -> None:
    """Write the report of a run as far as it is. StoreError where the file cannot be written."""
    page = draw_page(run, results)
    with disk_errors(path):
        path.write_text(page, encoding="utf-8", errors="replace")


def draw_page(run: RunData, results: Results) -> str:
    """The whole document."""
    story = telling_story(run)
    sections = [
        _opening(results),
        draw_scores(results),
        draw_curves(results),
        draw_comparisons(results),
        draw_kinds(results),
        draw_exploration(results),
        draw_selection(results),
        section("A failure of the expert, explored", draw_story(story)) if story else Html(""),
        draw_skills(results),
        draw_costs(results),
        _origin(run, results),
    ]
    return draw_document(f"{results.name} – report", *sections)


def draw_document(title: str, *content: Html) -> str:
    """A page as a whole: head, style sheet, content."""
    style = files("eef.report").joinpath("page.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"{tag('title', title)}\n<style>\n{style}</style>\n</head>\n<body>\n{tag('main', *content)}\n</body>\n</html>\n"
    )


def _opening(results: Results) -> Html:
    """What came out, in words, and what the run was."""
    about = results.fingerprint
    facts = (
        f"{describe_env(about)} · student {about['student']} · {about['train_tasks']} training tasks · "
        f"{about['test_tasks']} {about['test_split']} tasks · seed {results.seed}"
    )
    words = {
        "verdict": verdict(results),
        "setting": setting(results),
        "unfinished": progress(results),
        "facts": facts,
    }
    return tag(
        "header",
        tag("p", results.name, class_="kicker"),
        tag("h1", headline(results)),
        *(tag("p", text, class_=name) for name, text in words.items() if text),
    )


def _origin(run: RunData, results: Results) -> Html:
    """What was run, on what, and how to run it again."""
    prints = [
        join([tag("dt", key), tag("dd", _plain(value))])
        for key, value in results.fingerprint.items()
    ]
    return section(
        "How to get these numbers again",
        tag("pre", tag("code", f"eef run {run.path.resolve().name}/recipe.json --out again")),
        fold(
            "Fingerprint: what decides whether two numbers can stand in one table",
            tag("dl", *prints),
        ),
        fold("Recipe, every default written out", tag("pre", tag("code", run.recipe.to_json()))),
    )


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
