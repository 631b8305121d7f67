"""Run table: the same rows in the terminal and in Markdown."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from eef.analysis.results import Results, read_results
from eef.report.run_page import draw_page
from eef.report.run_table import COLUMNS, results_table, rows
from tests.fakes.scripted_run import finish, start_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A snapshot of a finished run."""
    return finish(start_run(tmp_path_factory.mktemp("run") / "run")).run.read()


@pytest.fixture(scope="module")
def results(run):
    return read_results(run)


def printed(results: Results) -> str:
    console = Console(width=160, file=io.StringIO())
    with console.capture() as capture:
        console.print(results_table(results))
    return capture.get()


def test_the_table_has_a_row_per_method(results):
    assert [len(row) for row in rows(results)] == [len(COLUMNS)] * 4
    shown = printed(results)
    for method in results.methods:
        assert f"{100 * method.score.win_rate:.1f} [" in shown
    assert "toys <b> (seed 3)" in shown


def test_every_report_names_the_environment(run, results):
    """For the shop: its size, the source of its goals, and the tagger that its reward uses."""
    shop = {"products": 1000, "goals": "human", "tagger": "en_core_web_lg"}
    played = replace(results, fingerprint={**results.fingerprint, "env": "webshop", **shop})
    named = "webshop (1,000 products, human goals, nouns by en_core_web_lg)"
    assert named in draw_page(run, played)
    assert named in printed(played)


def test_a_name_is_not_console_markup(tmp_path):
    results = read_results(start_run(tmp_path, name="[red]a[/red] [/]").run.read())
    assert "[red]a[/red] [/] (seed 3)" in printed(results)
