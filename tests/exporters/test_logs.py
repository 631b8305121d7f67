"""Rollouts for other viewers: every rollout, with its outcome, labels and weights.

`EEF_INSPECT_PYTHON` names a Python with `inspect-ai` and `trackio`, which read the files themselves
(`make test-inspect`).
"""

from __future__ import annotations

import json
import os
import subprocess
import zipfile

import pytest

from eef.importers.formats import read_row
from eef.importers.rows import read_rows
from eef.pipeline.run_directory import RunDirectory
from tests.fakes.scripted_run import explored_run, finish, start_run
from tests.fakes.small_run import eef

INSPECT = os.environ.get("EEF_INSPECT_PYTHON")
OUTCOMES = {"a": ["lose", "win", "lose", "win", "win", "lose"], "b": ["win"] * 6}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return finish(start_run(tmp_path_factory.mktemp("run") / "run")).run.path


def export(path, to, out, *options):
    return eef("export", path, "--to", to, "--out", out, *options).stdout.split()


def samples(path):
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.startswith("samples/")]
        found = [json.loads(archive.read(name)) for name in names]
        assert [f"samples/{each['id']}_epoch_{each['epoch']}.json" for each in found] == names
        header = json.loads(archive.read("header.json"))
        summaries = json.loads(archive.read("summaries.json"))
    assert len(summaries) == len(found) == header["results"]["total_samples"]
    return header, found


def test_a_log_holds_every_rollout_of_the_round(finished, tmp_path):
    files = export(finished, "inspect", tmp_path / "out", "--method", "eef", "--round", "2")
    assert [name.rsplit("/", 1)[1] for name in files] == [
        "README.md",
        "eef-round2-evaluate.eval",
        "eef-round2-explore.eval",
    ]
    run = RunDirectory.open(finished)
    expected = {
        item.id: item for item in run.trajectories("eef") if item.by_student and item.round == 2
    }
    header, found = samples(tmp_path / "out" / "eef-round2-explore.eval")
    assert {each["metadata"]["trajectory"] for each in found} == set(expected)
    for each in found:
        item = expected[each["metadata"]["trajectory"]]
        assert each["scores"]["reward"]["value"] == item.reward
        assert each["scores"]["win"]["value"] == item.success
        path = run.trajectories("eef").path(item.id)
        said = [m["content"] for m in each["messages"] if m["role"] == "assistant"]
        assert said == [part.step.completion for part in path]
    wins = sum(item.success for item in expected.values()) / len(expected)
    [win] = [score for score in header["results"]["scores"] if score["name"] == "win"]
    assert win["metrics"]["mean"]["value"] == pytest.approx(wins)


def test_messages_carry_labels_and_weights(tmp_path):
    run = explored_run(tmp_path / "run", OUTCOMES)
    export(run.path, "inspect", tmp_path / "out", "--method", "eef", "--round", "1")
    _, found = samples(tmp_path / "out" / "eef-round1-explore.eval")
    trajectories = run.trajectories("eef")
    grid = run.methods["eef"].measure(trajectories, trajectories["a"], 1)
    weights = {each.trajectory: each for each in run.selection("eef", 1).examples}
    checked = 0
    for each in found:
        turns = [m["metadata"] for m in each["messages"] if m["role"] == "assistant"]
        item = trajectories[each["metadata"]["trajectory"]]
        for turn in turns:
            segment = grid.segment_at(turn["t"]) if item.task == "toy/a" else None
            if turn["prefix"] and segment:
                assert turn["label"] == segment.label
                checked += 1
        if item.id in weights:
            example = weights[item.id]
            assert [turn["trained"][0]["weight"] for turn in turns] == list(example.weights)
            assert [turn["trained"][0]["reason"] for turn in turns] == list(example.reasons)
            checked += 1
    assert checked > 10


def test_a_log_can_be_imported_again(finished, tmp_path):
    export(finished, "inspect", tmp_path / "out", "--method", "bc")
    path = tmp_path / "out" / "bc-round0-evaluate.eval"
    rows = list(read_rows(path))
    run = RunDirectory.open(finished)
    played = list(run.evaluation_rollouts("bc", 0))
    assert len(rows) == len(played)
    actions = [[step.action for step in read_row(row.data).steps] for row in rows]
    assert sorted(actions) == sorted([step.action for step in item.steps] for item in played)


def test_traces_hold_every_rollout(finished, tmp_path):
    export(finished, "trackio", tmp_path / "out", "--method", "expert")
    lines = (tmp_path / "out" / "traces.jsonl").read_text().splitlines()
    run = RunDirectory.open(finished)
    collected = len(run.trajectories("expert")) + len(run.evaluation_rollouts("expert", 0))
    assert len(lines) == collected
    first = json.loads(lines[0])
    assert {message["role"] for message in first["messages"]} == {"user", "assistant"}
    assert first["metadata"]["outcome"] in ("won", "not won")
    compile((tmp_path / "out" / "log.py").read_text(), "log.py", "exec")


@pytest.mark.skipif(INSPECT is None, reason="no `EEF_INSPECT_PYTHON`: `make test-inspect`")
def test_inspect_reads_its_logs(finished, tmp_path):
    export(finished, "inspect", tmp_path / "out", "--method", "eef", "--round", "1")
    script = (
        "import json, sys\n"
        "from inspect_ai.log import read_eval_log, read_eval_log_sample_summaries\n"
        "log = read_eval_log(sys.argv[1])\n"
        "summaries = read_eval_log_sample_summaries(sys.argv[1])\n"
        "turns = [m.metadata for s in log.samples for m in s.messages if m.role == 'assistant']\n"
        "mean = {score.name: score.metrics['mean'].value for score in log.results.scores}\n"
        "print(json.dumps([log.status, len(log.samples), len(summaries), mean,\n"
        "      sum(bool(turn['trained']) for turn in turns)]))\n"
    )
    log = tmp_path / "out" / "eef-round1-explore.eval"
    done = subprocess.run([INSPECT, "-c", script, log], capture_output=True, text=True, check=True)
    status, count, summaries, mean, trained = json.loads(done.stdout)
    run = RunDirectory.open(finished)
    played = [item for item in run.trajectories("eef") if item.by_student and item.round == 1]
    assert (status, count, summaries) == ("success", len(played), len(played))
    assert mean["win"] == pytest.approx(sum(item.success for item in played) / len(played))
    assert trained


@pytest.mark.skipif(INSPECT is None, reason="no `EEF_INSPECT_PYTHON`: `make test-inspect`")
def test_trackio_takes_its_traces(finished, tmp_path):
    export(finished, "trackio", tmp_path / "out", "--method", "bc")
    script = (
        "import json, sys, trackio\n"
        "traces = [trackio.Trace(**json.loads(line)) for line in open(sys.argv[1])]\n"
        "print(len(traces))\n"
    )
    lines = tmp_path / "out" / "traces.jsonl"
    done = subprocess.run(
        [INSPECT, "-c", script, lines], capture_output=True, text=True, check=True
    )
    assert int(done.stdout.split()[-1]) == len(lines.read_text().splitlines())
