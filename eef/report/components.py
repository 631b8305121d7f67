"""Pieces: what every section of the page is built of. Content → markup."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from eef.analysis.results import Results
from eef.pipeline.stages import BC, EXPERT
from eef.report.charts import swatch
from eef.report.formatting import display_name
from eef.report.html import Content, Html, tag

KINDS = {EXPERT: "expert-d", BC: "bc-b", "eef": "eef-a"}
OTHERS = ("other1-c", "other2-e", "other3-b", "other4-d", "other5-a", "other6-c")


def kind_of(method: str, results: Results) -> str:
    """The class of a method's colour and sign, the same all over the page; its last letter is the sign's."""
    others = [item.name for item in results.round_methods if item.name not in KINDS]
    return KINDS[method] if method in KINDS else OTHERS[others.index(method) % len(OTHERS)]


def method_cell(method: str, results: Results) -> Html:
    """A method's sign and name."""
    return tag("span", swatch(kind_of(method, results)), display_name(method), class_="method")


def section(title: str, *content: Html) -> Html:
    return tag("section", tag("h2", title), *content)


def table(head: Sequence[str], rows: Iterable[Sequence[Content]], *, name: str) -> Html:
    """A table that scrolls by itself where it is too wide; its first column names the row."""
    body = [
        tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:]))
        for row in rows
    ]
    columns = [tag("th", column, scope="col") for column in head]
    drawn = tag("table", tag("thead", tag("tr", *columns)), tag("tbody", *body))
    return tag("div", drawn, class_="scroll", tabindex=0, role="region", aria_label=name)


def figure(caption: str, *drawing: Html) -> Html:
    return tag("figure", tag("figcaption", caption), *drawing)


def note(text: str) -> Html:
    return tag("p", text, class_="note")


def fold(title: str, content: Html) -> Html:
    """Content that is shown on demand."""
    return tag("details", tag("summary", title), content, class_="fold")
