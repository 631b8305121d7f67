"""Components: the elements that the pages are built from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from urllib.parse import quote

from eef.analysis.results import Results
from eef.pipeline.stages import BC, EXPERT
from eef.report.charts import swatch
from eef.report.formatting import display_name
from eef.report.html import Content, Html, join, tag

# The page can load and run nothing, whatever the text of a task contains.
CONTENT_POLICY = "default-src 'none'; style-src 'unsafe-inline'"

STYLES = {EXPERT: "expert-d", BC: "bc-b", "eef": "eef-a"}
OTHER_STYLES = ("other1-c", "other2-e", "other3-b", "other4-d", "other5-a", "other6-c")


@dataclass(frozen=True, slots=True)
class Section:
    """A section of a page: its title and its content."""

    title: str
    content: Html

    @property
    def anchor(self) -> str:
        """The id that the list of contents links to: `pairwise-comparisons`."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")

    def draw(self) -> Html:
        return tag("section", tag("h2", self.title), self.content, id=self.anchor)


def section(title: str, *content: Html) -> Section:
    return Section(title, join(content))


def document(title: str, header: Html, sections: Iterable[Section | None]) -> str:
    """A whole page: head, style sheet, header, list of contents, and the sections that exist."""
    style = files("eef.report").joinpath("page.css").read_text(encoding="utf-8")
    shown = [each for each in sections if each is not None]
    body = tag("main", header, contents(shown), *(each.draw() for each in shown))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_POLICY}">\n'
        f"{tag('title', title)}\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def contents(sections: Sequence[Section]) -> Html:
    """Links to the sections of a page."""
    links = [tag("li", tag("a", each.title, href=f"#{each.anchor}")) for each in sections]
    return tag("nav", tag("ul", *links), class_="contents", aria_label="Contents")


def style_of(method: str, results: Results) -> str:
    """The class of a method's color and marker, the same on the whole page.

    Its last letter selects the marker.
    """
    others = [item.name for item in results.round_methods if item.name not in STYLES]
    if method in STYLES:
        return STYLES[method]
    return OTHER_STYLES[others.index(method) % len(OTHER_STYLES)]


def method_cell(method: str, results: Results) -> Html:
    """A method's marker and name."""
    return tag("span", swatch(style_of(method, results)), display_name(method), class_="method")


def table(head: Sequence[str], rows: Iterable[Sequence[Content]], *, name: str) -> Html:
    """A table that scrolls sideways if it is too wide; its first column names the row."""
    body = [
        tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:]))
        for row in rows
    ]
    columns = [tag("th", column, scope="col") for column in head]
    drawn = tag("table", tag("thead", tag("tr", *columns)), tag("tbody", *body))
    return tag("div", drawn, class_="scroll", tabindex=0, role="region", aria_label=name)


def figure(caption: str, *drawing: Html) -> Html:
    return tag("figure", tag("figcaption", caption), *drawing)


def in_viewer(view: str, name: str) -> Html:
    """A link to a page of `eef view`, shown only where that serves the report."""
    return tag("a", "open", href=f"{view}/{quote(name)}", class_="in-viewer")


def note(text: str) -> Html:
    return tag("p", text, class_="note")


def fold(title: str, content: Html) -> Html:
    """Content that is shown on demand."""
    return tag("details", tag("summary", title), content, class_="fold")
