"""Run page: complete, self-contained, and without markup from tasks or recipes."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from eef.analysis.results import read_results
from eef.cli import make_app
from eef.errors import StoreError
from eef.report.html import Html, join, tag
from eef.report.run_page import draw_page, write_page
from eef.report.sections.training import STEP_REASONS, draw_costs
from eef.report.summary import headline, verdict
from tests.fakes.html import Reader, read_html
from tests.fakes.scripted_run import UGLY, explored_run, finish, start_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A snapshot of a finished run."""
    return finish(start_run(tmp_path_factory.mktemp("run") / "run")).run.read()


@pytest.fixture(scope="module")
def results(run):
    return read_results(run)


@pytest.fixture(scope="module")
def page(run, results):
    return draw_page(run, results)


def test_the_page_is_complete_and_self_contained(page):
    reader = read_html(page)
    assert not reader.names & {"script", "link", "img", "iframe", "object", "b"}
    assert not reader.attributes & {"src", "srcset", "onclick", "action"}
    anchors = [link for link in reader.links if link.startswith("#")]
    assert anchors == [f"#{name}" for name in reader.ids]
    others = [link for link in reader.links if not link.startswith("#")]
    assert page.count('class="in-viewer"') == len(others)  # hidden unless `eef view` serves it
    assert all(link.startswith(("task/", "trajectory/")) for link in others)
    assert not [word for word in ("http://", "https://", "@import", "url(") if word in page]


def test_texts_of_tasks_and_recipes_are_escaped(run, page):
    observations = [step.observation for item in run.trajectories("eef") for step in item.steps]
    assert any(UGLY in text for text in observations)
    assert UGLY not in page
    reader = read_html(page)
    assert UGLY in reader.text
    assert "toys <b>" in reader.text


def test_the_page_shows_the_results(run, results, page):
    text = read_html(page).text
    assert headline(results) in text
    assert verdict(results) in text
    for method in results.methods:
        assert (
            f"{100 * method.score.interval.low:.1f} – {100 * method.score.interval.high:.1f}"
            in text
        )
    recipe = run.path.resolve() / "recipe.json"
    assert f"eef run {recipe} --out again" in text
    # the recipe with its own defaults, not with those of the methods
    assert '"rollouts_per_state"' not in text


def test_writing_a_page_replaces_lone_surrogates(tmp_path):
    run = explored_run(
        tmp_path,
        {"full": ["lose", "win", "lose", "win", "win", "lose"]},
        actions="a\ud800cdefghijkl",
    )
    snapshot = run.read()
    results = read_results(snapshot)
    write_page(snapshot, results, tmp_path / "report.html")
    assert "<code>?</code>" in (tmp_path / "report.html").read_text(encoding="utf-8")
    with pytest.raises(StoreError, match="cannot write"):
        write_page(snapshot, results, tmp_path / "no such directory" / "report.html")


@given(st.text(), st.text())
def test_any_text_comes_back_as_text(content, attribute):
    reader = Reader()
    reader.feed(tag("p", join([content]), title=attribute) + "<!-- -->")
    assert reader.names == {"p"}
    assert reader.attributes == {"title"}
    # what HTML itself does to text: line ends become \n
    plain = content.replace("\r\n", "\n").replace("\r", "\n")
    assert reader.text.replace("\r\n", "\n").replace("\r", "\n") == plain
    assert isinstance(tag("p"), Html)


def test_the_case_study_is_drawn_as_the_method_labels_it(tmp_path):
    run = explored_run(tmp_path, {"full": ["lose", "win", "lose", "win", "win", "lose"]}).read()
    page = draw_page(run, read_results(run))
    text = read_html(page).text
    assert page.count('class="step beneficial"') == 4
    assert page.count('class="step harmful"') == 4
    assert page.count('class="step neutral"') == 2
    assert page.count('class="step outside"') == 2
    assert text.count("needs recovery") == 2
    assert text.count("1 + 1 rollouts") == 5, "each label has one rollout at either end"
    assert "A solution for recovery state 4. 4 of 8 actions are trained" in text
    assert "not won" in text


def test_the_command_of_the_page_works_where_it_is_copied(tmp_path, monkeypatch):
    """The shell splits it into words, and the program opens the recipe from any directory."""
    run = start_run(tmp_path / "a run's directory").run.read()
    text = read_html(draw_page(run, read_results(run))).text
    [command] = re.findall(r"^ *(eef run .* --out again)", text.replace("Reproduce", "\n"), re.M)
    program, *arguments = shlex.split(command)
    assert program == "eef"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    executed = []
    monkeypatch.setattr(
        "eef.cli.run.execute_all", lambda pipeline, *_, **__: executed.append(pipeline)
    )
    done = CliRunner().invoke(make_app(), [*arguments, "--quiet"])
    assert done.exit_code == 0, done.stderr
    assert executed[0].run.recipe == run.recipe
    assert (elsewhere / "again" / "recipe.json").is_file()


def test_a_reason_has_one_color_in_the_bars_and_in_the_loss_masks(tmp_path):
    run = explored_run(tmp_path, {"full": ["lose", "win", "lose", "win", "win", "lose"]}).read()
    page = draw_page(run, read_results(run))
    shown = set(re.findall(r'<li class="trained ([\w-]+)"', page))
    assert "student-win" in shown
    style = files("eef.report").joinpath("page.css").read_text(encoding="utf-8")
    for reason, _ in STEP_REASONS:
        if reason != "unknown":
            assert f".fill-{reason}, .mask .{reason} {{ --reason: " in style
    assert shown <= {reason for reason, _ in STEP_REASONS}


def test_drifted_turns_and_the_engine_are_stated(run, results, page):
    assert "No turn drifted" in page
    assert "local (transformers" in read_html(page).text
    costs = {name: {**record} for name, record in results.to_record()["methods"].items()}
    assert {record["drifted_turns"] for record in costs.values()} == {0}
    method = results["eef"]
    changed = tuple(
        replace(
            item,
            costs={
                **item.costs,
                "explore": replace(item.costs["explore"], drifted_turns=4),
            },
        )
        for item in method.rounds
    )
    drifted = replace(method, rounds=changed)
    methods = tuple(drifted if each is method else each for each in results.methods)
    text = draw_costs(replace(results, methods=methods)).content
    assert f"are kept): EEF {4 * len(changed)}." in text
