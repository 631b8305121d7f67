"""What roles wrote, wherever a trajectory is shown: terminal, report, viewer, exports."""

from __future__ import annotations

import json
import shutil
import zipfile
from urllib.parse import quote

import pytest
from starlette.testclient import TestClient

from eef.analysis.aggregation import aggregate_trials
from eef.analysis.results import read_results
from eef.analysis.role_texts import find_samples
from eef.analysis.trial import trials_of
from eef.note import NoteSet
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import Stage
from eef.report.run_page import draw_page
from eef.report.study_tables import make_tables
from eef.viewer.library import Library
from eef.viewer.open_run import OpenRun
from eef.viewer.server import make_app
from tests.fakes.html import read_html
from tests.fakes.notes import note
from tests.fakes.scripted_run import UGLY, finish, start_run
from tests.fakes.small_run import eef

SCRIPTED = {"model": "scripted/flawless"}
OPTIONS = {
    "planned": {"method": "eef+planner", "M": 2},
    "judged": {"method": "eef+judge", "M": 2, "share": 0.5},
    "criticized": {"method": "eef+adviser", "M": 2, "adviser": "critic", "candidates": 2},
    "advised": {"method": "epo", "trained": False},
    "looking": {"method": "stl", "trained": False, "candidates": 2, "tries": 2},
    "again": {"method": "retroact", "trained": False, "attempts": 3, "test_attempts": 2},
}
ROLES = ("planner", "judge", "critic", "reasoner", "value", "reflector")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run in which each method has its own way of acting."""
    pipeline = start_run(
        tmp_path_factory.mktemp("roles") / "run",
        methods=["bc", *OPTIONS],
        options=OPTIONS,
        roles=dict.fromkeys(ROLES, SCRIPTED),
        rounds=1,
        budget={"rollouts_per_task": 4},
        tasks={"train": 6, "test": 4},
    )
    return finish(pipeline).run


@pytest.fixture(scope="module")
def samples(run):
    return {sample.method: sample for sample in find_samples(run.read())}


def squeezed(text):
    return " ".join(text.split())


def test_each_way_of_acting_has_a_sample(samples):
    assert {name: sample.way for name, sample in samples.items()} == {
        "planned": "alone",
        "judged": "alone",
        "criticized": "criticized",
        "advised": "advised",
        "looking": "lookahead",
        "again": "alone",
    }
    (plan,) = samples["planned"].texts.in_prompt
    assert plan.text in samples["planned"].trajectory.prompt_suffix
    assert {each.role for each in samples["again"].texts.in_prompt} == {"reflector"}
    assert {each.role for each in samples["judged"].texts.about} == {"judge"}
    assert samples["criticized"].trajectory.start is not None


def test_the_samples_are_printed_by_one_command(run, samples):
    shown = squeezed(eef("show", run.path, "--samples", "--full").stdout)
    for sample in samples.values():
        assert f"{sample.method}: {sample.title}" in shown
        assert sample.trajectory.id in shown
        for each in (*sample.texts.in_prompt, *sample.texts.about):
            assert squeezed(each.text) in shown
        for step in sample.trajectory.steps:
            assert all(squeezed(each.text) in shown for each in step.advice)
    assert "critic on " in shown
    assert ", score 0.8" in shown
    one = eef("show", run.path, "--samples", "--method", "looking").stdout
    assert "planned:" not in one
    refused = eef("show", run.path, "--samples", "--method", "bc")
    assert refused.exit_code == 2
    assert "no role has written anything to show" in refused.stderr


def test_the_report_states_what_each_method_asks_and_shows_a_sample(run, samples):
    data = run.read()
    page = draw_page(data, read_results(data))
    text = squeezed(read_html(page).text)
    assert "Models beside the student" in text
    assert "critic: scripted/flawless" in text
    for sample in samples.values():
        assert sample.title in text
        for each in (*sample.texts.in_prompt, *sample.texts.about):
            assert squeezed(each.text) in text
    assert UGLY not in page


def test_a_study_states_what_each_method_asks_and_what_that_costs(run):
    aggregate = aggregate_trials(trials_of(run.read()))
    (table,) = (each for each in make_tables(aggregate) if each.title.startswith("Models beside"))
    cells = {row[0]: dict(zip(table.head, row, strict=True)) for row in table.rows}
    looking, planned, criticized = (cells[name] for name in ("looking", "planned", "criticized"))
    assert looking["success known at test time"] == "yes"
    first, second = run.evaluation("again", 1).wins_by_attempt
    assert cells["again"]["win rate %, first attempt"] == f"{25 * first:.1f}"
    assert cells["again"]["win rate % within 2, 3, … attempts"] == f"{25 * second:.1f}"
    assert float(looking["completions per turn at test time"]) > 2
    assert planned["models at test time"] == "planner: scripted/flawless"
    assert criticized["further models in training"] == "critic: scripted/flawless"
    spent = run.costs("criticized")[Stage("criticized", 1, "explore")]
    assert criticized["tokens of roles, exploring"] == str(spent.roles[0].generated_tokens)
    assert criticized["tokens of each role, all stages"].startswith("critic ")


def test_the_viewer_shows_the_notes_and_the_advice_of_a_trajectory(run, samples):
    opened = OpenRun.open("run", run.path)
    opened.refresh()
    client = TestClient(make_app(Library((opened,)), "key"), raise_server_exceptions=True)
    for sample in samples.values():
        response = client.get(f"/key/run/trajectory/{quote(sample.trajectory.id)}")
        assert response.status_code == 200
        assert UGLY not in response.text
        shown = squeezed(read_html(response.text).text)
        for each in (*sample.texts.in_prompt, *sample.texts.about):
            assert squeezed(each.text) in shown
        for step in sample.trajectory.steps:
            assert all(squeezed(each.text) in shown for each in step.advice)
        assert ("The prompt of this rollout ends in" in shown) == bool(
            sample.trajectory.prompt_suffix
        )
    usage = client.get(f"/key/run/trajectory/{quote(samples['advised'].trajectory.id)}").text
    assert "<dt>Tokens of the reasoner</dt>" in usage
    opened.close()


def test_logs_hold_notes_and_advice(run, samples, tmp_path):
    for method in ("planned", "criticized", "again", "advised"):
        sample = samples[method]
        out = tmp_path / method
        done = eef("export", run.path, "--to", "inspect", "--out", out, "--method", method)
        assert done.exit_code == 0, done.stderr
        found = {}
        for file in out.glob("*.eval"):
            with zipfile.ZipFile(file) as archive:
                names = [name for name in archive.namelist() if name.startswith("samples/")]
                logged = [json.loads(archive.read(name)) for name in names]
            found |= {each["metadata"]["trajectory"]: each for each in logged}
        log = found[sample.trajectory.id]
        assert log["metadata"]["prompt_suffix"] == sample.trajectory.prompt_suffix
        noted = {
            (each["role"], each["text"], each["in_prompt"]) for each in log["metadata"]["notes"]
        }
        assert noted == {
            *((each.role, each.text, True) for each in sample.texts.in_prompt),
            *((each.role, each.text, False) for each in sample.texts.about),
        }
        turns = [each for each in log["messages"] if each["role"] == "assistant"]
        own = turns[sample.trajectory.first :]
        assert [[each["text"] for each in turn["metadata"]["advice"]] for turn in own] == [
            [each.text for each in step.advice] for step in sample.trajectory.steps
        ]
        if method == "advised":  # its conversation showed all of the advice
            given = [step.advice[0].text for step in sample.trajectory.steps]
            seen = [each["content"] for each in log["messages"] if each["role"] == "user"]
            assert all(
                f"Advice: {text}" in prompt for text, prompt in zip(given, seen, strict=False)
            )


def test_the_notes_of_a_trajectory_are_found_by_its_id_its_states_and_its_prompt():
    plan = note("planner", "toy/1", "Step 1: go", task="toy/1")
    other = note("planner", "toy/2", "Step 1: go", task="toy/2")
    judged = note("judge", "a/b", "Critical steps: 1", task="toy/1")
    at_state = note("critic", "a/b@3", "x", task="toy/1")
    notes = NoteSet([plan, other, judged, at_state])
    assert notes.of_trajectory("a/b", "toy/1", "Plan:\nStep 1: go") == ([plan], [judged, at_state])
    assert notes.of_trajectory("a/b", "toy/1", "") == ([], [judged, at_state])
    assert notes.of_trajectory("a", "toy/1", "") == ([], [])
    # equal reflections on two attempts: the second attempt was played with the first alone
    first, second = (note("reflector", name, "Open it.", task="toy/1") for name in ("one", "two"))
    assert NoteSet([first, second]).of_trajectory("two", "toy/1", "Open it.") == ([first], [second])


def test_notes_that_cannot_be_read_hide_no_trajectory(run, samples, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run.path, copy)
    (copy / "again" / "notes.jsonl").write_text("{}\n")
    opened = OpenRun.open("run", copy)
    assert len(opened.notes(RunDirectory.open(copy).store("again"))) == 0
    opened.close()
