"""Run page: the report of a run as one self-contained HTML file without scripts."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from eef.analysis.case_study import find_case_study
from eef.analysis.diagnosis import diagnose
from eef.analysis.results import Results
from eef.analysis.role_texts import find_samples
from eef.pipeline.run_directory import RECIPE_FILE, RunData
from eef.report.components import Section, document, fold, note, section
from eef.report.formatting import describe_env, describe_inference, display_name
from eef.report.html import Html, join, tag
from eef.report.sections.case_study import draw_case_study
from eef.report.sections.evaluation import (
    draw_behaviors,
    draw_comparisons,
    draw_curves,
    draw_scores,
    draw_task_groups,
)
from eef.report.sections.roles import draw_roles
from eef.report.sections.training import draw_costs, draw_exploration, draw_selection
from eef.report.summary import headline, progress, setting, verdict
from eef.utils.jsonl import disk_errors


def write_page(run: RunData, results: Results, path: Path) -> None:
    """Write the report of a run, finished or not. StoreError if the file cannot be written."""
    page = draw_page(run, results)
    with disk_errors(path):
        path.write_text(page, encoding="utf-8", errors="replace")


def draw_page(run: RunData, results: Results) -> str:
    """The whole HTML document."""
    case = find_case_study(run)
    sections = [
        _diagnosis(run),
        draw_scores(results),
        draw_curves(results),
        draw_comparisons(results),
        draw_task_groups(results),
        draw_exploration(results),
        draw_selection(results),
        draw_case_study(case) if case else None,
        draw_behaviors(results),
        draw_roles(results, find_samples(run)),
        draw_costs(results),
        _reproduce(run, results),
    ]
    return document(f"{results.name} – report", _header(results), sections)


def _header(results: Results) -> Html:
    """The result in words, and the facts of the run."""
    about = results.fingerprint
    parts = (
        describe_env(about),
        f"student {about['student']}",
        f"{about['train_tasks']} training tasks",
        f"{about['test_tasks']} {about['test_split']} tasks",
        f"seed {results.seed}",
        describe_inference(about),
    )
    facts = " · ".join(filter(None, parts))
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


def _diagnosis(run: RunData) -> Section | None:
    """The problems that keep the run from learning, with the next steps; None without any."""
    found = [
        tag(
            "li",
            tag("strong", display_name(item.subject)),
            f": {item.reason}. ",
            tag("span", f"Next step: {item.advice}.", class_="advice"),
        )
        for item in diagnose(run)
    ]
    return section("What to look at first", tag("ul", *found, class_="findings")) if found else None


def _reproduce(run: RunData, results: Results) -> Section:
    """The command, the fingerprint and the recipe of the run."""
    recipe = shlex.quote(str(run.path.resolve() / RECIPE_FILE))
    fingerprint = [
        join([tag("dt", key), tag("dd", _plain(value))])
        for key, value in results.fingerprint.items()
    ]
    return section(
        "Reproduce",
        tag("pre", tag("code", f"eef run {recipe} --out again")),
        note(
            "Paths inside the recipe are relative to the directory where the command is executed. "
            "On another machine, save the recipe below as a file and name that file."
        ),
        tag("pre", tag("code", f"eef view {shlex.quote(str(run.path.resolve()))}")),
        note(
            "It shows every trajectory of the run in a browser, and this report with links to them."
        ),
        fold(
            "Fingerprint: numbers are comparable only between runs with equal fingerprints",
            tag("dl", *fingerprint),
        ),
        fold("Recipe with all defaults", tag("pre", tag("code", run.recipe.to_json()))),
    )


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
