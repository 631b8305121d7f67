"""Site: the pages of one or several runs, written by templates with autoescaping."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context

from eef import __version__
from eef.errors import EefError
from eef.report.charts import swatch
from eef.report.components import OTHER_STYLES, STYLES
from eef.report.formatting import count_of, display_name, number, percent, reward
from eef.report.html import Html
from eef.report.sections.case_study import MEANINGS, REASONS, SIGNS
from eef.viewer.address import VIEWS, Address, Link, report_name
from eef.viewer.index.reader import Reader
from eef.viewer.index.rows import TaskRow
from eef.viewer.library import Library
from eef.viewer.open_run import OpenRun
from eef.viewer.page import NotFound, Page
from eef.viewer.text import embedded, highlighted, shorten, visible
from eef.viewer.views.example import (
    ACT_REASONS,
    advantage_text,
    example_address,
    example_page,
    tokens_page,
)
from eef.viewer.views.rollout import compare_page, trajectory_page
from eef.viewer.views.run import behaviors_page, run_page, tasks_page
from eef.viewer.views.study import study_page
from eef.viewer.views.task import task_page

RUN_VIEWS: Mapping[str, Callable[[OpenRun, Reader, Address], Page]] = {
    "run": run_page,
    "tasks": tasks_page,
    "task": task_page,
    "trajectory": trajectory_page,
    "example": example_page,
    "tokens": tokens_page,
    "compare": compare_page,
    "behaviors": behaviors_page,
}
OUTCOME_SIGNS = {"won": "●", "lost": "○", "failed": "✕"}


class Site:
    """The pages of some runs and comparisons.

    `link` writes addresses. A `static` site has no forms and is never renewed. Safe to use from
    several threads.
    """

    def __init__(
        self,
        library: Library,
        link: Link,
        *,
        static: bool = False,
    ) -> None:
        self.runs = {run.slug: run for run in library.runs}
        self.studies = {study.slug: study for study in library.studies}
        self.static = static
        self._templates = Environment(
            loader=PackageLoader("eef.viewer"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "visible": visible,
            "highlighted": highlighted,
            "shorten": shorten,
            "advantage": advantage_text,
            "embedded": embedded,
            "display_name": display_name,
            "count_of": count_of,
            "number": number,
            "percent": percent,
            "reward": reward,
        }
        self._templates.globals |= {
            "link": _linker(link),
            "write": link,
            "make_address": Address.of,
            "example_address": example_address,
            "report_name": report_name,
            "asset": asset_linker(link, static=static),
            "static": static,
            "embed": lambda address: Html(self.draw(address)),
            "signs": OUTCOME_SIGNS,
            "label_signs": SIGNS,
            "meanings": MEANINGS,
            "reasons": {**REASONS, **ACT_REASONS},
            "eef_version": __version__,
            "views": VIEWS,
        }

    def draw(self, address: Address) -> str:
        """The page of an address. NotFound if there is none."""
        if address.view == "home":
            return self._draw_home()
        if address.view == "study" and address.run in self.studies:
            return self._fill(study_page(self.studies[address.run], address), address, None)
        run = self.runs.get(address.run)
        if run is None:
            raise NotFound(f"no run {address.run!r}", hint="open the list of runs")
        view = RUN_VIEWS.get(address.view)
        if view is None:
            raise NotFound(f"no page {address.view!r}", hint="open the run")
        with run.index.connect(run.only) as reader, reader.snapshot():
            page = view(run, reader, address)
            return self._fill(page, address, run)

    def draw_row(self, run: OpenRun, task: TaskRow) -> str:
        """The row of a task in the table of tasks."""
        template = self._templates.get_template("row.html")
        return template.render(task=task, run=run, style=_style_finder(run)).strip()

    def draw_error(self, error: EefError) -> str:
        """A page with an error and its hint."""
        page = Page(
            template="error.html", title="Not found", variables={"problem": error}, live=False
        )
        return self._fill(page, Address.of("home"), None)

    def stamp(self, run: OpenRun) -> str:
        """A text that changes when the pages of a run change; empty once it is finished."""
        return "" if run.finished or self.static else str(run.version)

    def _draw_home(self) -> str:
        page = Page(template="home.html", title="Runs", variables={}, live=False)
        return self._fill(page, Address.of("home"), None)

    def _fill(self, page: Page, address: Address, run: OpenRun | None) -> str:
        template = self._templates.get_template(page.template)
        return template.render(
            page=page,
            address=address,
            run=run,
            runs=self.runs,
            studies=self.studies,
            style=_style_finder(run),
            stamp=self.stamp(run) if run and page.live else "",
            **page.variables,
        )


def _linker(link: Link) -> Callable[..., str]:
    @pass_context
    def to(context: Any, view: str, name: str = "", **query: Any) -> str:
        run = context["run"]
        return link(Address.of(view, run.slug if run else "", name, **query))  # type: ignore[arg-type]

    return to


def asset_linker(link: Link, *, static: bool) -> Callable[[str], str]:
    """Where a page finds a style sheet or the script."""
    root = "assets/" if static else link(Address.of("home")) + "assets/"
    return lambda name: root + name


def _style_finder(run: OpenRun | None) -> Callable[[str], Html]:
    """A method's marker, the same as in the report."""
    others = [name for name in run.run.methods if name not in STYLES] if run else []

    def style(method: str) -> Html:
        if method in STYLES:
            return swatch(STYLES[method])
        place = others.index(method) if method in others else 0
        return swatch(OTHER_STYLES[place % len(OTHER_STYLES)])

    return style
