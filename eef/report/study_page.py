"""Page: the results of a study as a Markdown document and as one HTML page that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from eef.analysis.study import Study
from eef.report.components import note, section, table
from eef.report.html import Html, join, tag
from eef.report.run_page import draw_document
from eef.report.run_table import markdown_lines
from eef.report.study_charts import draw_figures
from eef.report.study_tables import tables_of, verdict


def study_markdown(study: Study, commands: Sequence[str]) -> str:
    """The document: every table of every budget, and how to get it again."""
    parts = [
        "# Results",
        "",
        "Written by `eef results`; nothing in it is written by hand. Curves: `results.html`.",
    ]
    for kind, over in study.over.items():
        parts += ["", f"## {_title(study, kind)}", *(["", told] if (told := verdict(over)) else [])]
        for each in tables_of(over):
            parts += ["", f"**{each.title}**", "", *markdown_lines(each.head, each.rows)]
            parts += ["", each.note] if each.note else []
    prints = [f"- {key}: `{value}`" for key, value in study.fingerprint.items()]
    return "\n".join(
        [
            *parts,
            "",
            "## How to get these numbers again",
            "",
            "```",
            *commands,
            "```",
            "",
            *prints,
            "",
        ]
    )


def study_page(study: Study, commands: Sequence[str]) -> str:
    """The same as one HTML page, with figures."""
    sections = []
    for kind, over in study.over.items():
        drawn = [
            tag(
                "div",
                tag("h3", each.title),
                table(each.head, each.rows, name=each.title),
                note(each.note) if each.note else Html(""),
            )
            for each in tables_of(over)
        ]
        told = tag("p", verdict(over), class_="verdict")
        sections.append(section(_title(study, kind), told, draw_figures(over), *drawn))
    prints = tag(
        "dl",
        *(
            join([tag("dt", key), tag("dd", str(value))])
            for key, value in study.fingerprint.items()
        ),
    )
    origin = section("How to get these numbers again", tag("pre", "\n".join(commands)), prints)
    return draw_document("Results", tag("h1", "Results"), *sections, origin)


def _title(study: Study, kind: str) -> str:
    """`At equal rollouts: 720 a round`"""
    if kind == "none":
        return "As planned"
    size = study.budgets[kind]
    return f"At equal {kind}: {size:,} a round" if size else f"At equal {kind}"
