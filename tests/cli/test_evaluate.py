"""`eef evaluate`: a score, an interval, and rollouts like any other."""

from __future__ import annotations

import json

import pytest

from eef.envs.toy import ToyEnv
from eef.trajectory import Trajectory
from eef.utils.jsonl import read_jsonl
from tests.fakes.small_run import eef, save_student, small_recipe, write_recipe


def test_a_model_is_evaluated_without_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = eef("evaluate", "scripted/flawless", "--env", "toy", "--tasks", "5")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "evaluations/toy/scripted_flawless/rollouts.jsonl\n"
    assert "scripted/flawless: won 5 of 5 tasks (100.0 %, 95 % interval 56.6 to 100.0)" in (
        done.stderr
    )
    items = [Trajectory.from_record(row) for row in read_jsonl(tmp_path / done.stdout.strip())]
    assert [item.success for item in items] == [True] * 5


def test_a_failed_rollout_counts_as_lost(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    score = ToyEnv.score
    scored = []

    def fragile(self, rewards):
        scored.append(rewards)
        if len(scored) == 2:
            raise RuntimeError("the floor is gone")
        return score(self, rewards)

    monkeypatch.setattr(ToyEnv, "score", fragile)
    done = eef("evaluate", "scripted/flawless", "--env", "toy", "--tasks", "5")
    assert "won 4 of 5 tasks (80.0 %" in done.stderr
    assert "; 1 failed and count as lost" in done.stderr
    assert "the floor is gone" in done.stderr


def test_a_file_in_place_of_its_directory_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    done = eef("evaluate", "scripted/weak", "--env", "toy", "--out", tmp_path / "taken")
    assert done.exit_code == 2
    assert "taken" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("scripted/best", "--env", "toy"), "unknown scripted expert 'best'"),
        (("scripted/weak", "--env", "toi"), "unknown environment 'toi'"),
        (("scripted/weak", "--env", "toy", "--base-url", "http://x/v1"), "has no effect"),
        (("scripted/weak", "--env", "toy", "--tasks", "500"), "`--tasks` is 500; split 'test' has"),
        (("scripted/weak", "--env", "toy", "--format", "tools"), "declares no tools"),
        (("scripted/weak",), "`--env` is missing, and `scripted/weak` is not a checkpoint of a"),
        (("runs/demo/eef/round1/checkpoint",), "`--env` is missing"),
        (("scripted/weak", "--env", "toy", "--temperature", "inf"), "`--temperature` is inf"),
    ],
)
def test_mistakes(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = eef("evaluate", *arguments)
    assert (done.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert message in done.stderr


def test_an_evaluation_without_a_rollout_that_ended_is_an_error(tmp_path, monkeypatch):
    def broken(self, task):
        raise RuntimeError("the floor is gone")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ToyEnv, "reset", broken)
    done = eef("evaluate", "scripted/flawless", "--env", "toy", "--tasks", "2")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "all 2 rollouts failed, the first with" in done.stderr
    assert "rollouts.jsonl` has the errors of all" in done.stderr


def test_rollouts_of_an_earlier_evaluation_are_kept(tmp_path):
    for tasks in ("3", "2"):
        done = eef("evaluate", "scripted/weak", "--env", "toy", "--tasks", tasks, "--out", tmp_path)
        assert done.exit_code == 0, done.stderr
    assert "of an earlier evaluation are now in" in done.stderr
    assert len(read_jsonl(tmp_path / "rollouts-1.jsonl")) == 3
    assert len(read_jsonl(tmp_path / "rollouts.jsonl")) == 2


def test_each_split_has_a_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = eef("evaluate", "scripted/weak", "--env", "toy", "--tasks", "1", "--split", "train")
    assert done.stdout == "evaluations/toy/scripted_weak-train/rollouts.jsonl\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run; `nat` appends a text to its prompts, `stl` asks a role at test time."""
    directory = tmp_path_factory.mktemp("evaluated")
    settings = small_recipe(
        save_student(directory / "student"),
        methods=["nat", "eef", "stl"],
        options={"eef": {"M": 3}, "stl": {"trained": False, "candidates": 2, "tries": 2}},
        roles={"value": {"model": "scripted/flawless"}},
        overrides={"eef": {"evaluate": {"temperature": 0.9}}},
    )
    recipe = write_recipe(directory / "small.json", settings)
    done = eef("run", recipe, "--out", directory / "run", "--quiet")
    assert done.exit_code == 0, done.stderr
    return directory / "run"


@pytest.mark.parametrize("method", ["bc", "nat", "eef"])
def test_a_checkpoint_of_a_run_is_evaluated_as_the_run_does_it(method, run, tmp_path):
    folder = run / method / ("round0" if method == "bc" else "round1")
    done = eef("evaluate", folder / "checkpoint", "--out", tmp_path / "again")
    assert done.exit_code == 0, done.stderr
    again = [Trajectory.from_record(row) for row in read_jsonl(tmp_path / "again/rollouts.jsonl")]
    stored = read_jsonl(folder / "evaluation" / "trajectories.jsonl")
    first = {item.task: item for item in map(Trajectory.from_record, stored)}
    assert len(again) == len(first) == 6
    for item in again:
        same = first[item.task]
        assert [step.completion for step in item.steps] == [step.completion for step in same.steps]
        assert (item.reward, item.prompt_suffix) == (same.reward, same.prompt_suffix)
    assert any(item.prompt_suffix for item in again) == (method == "nat")


def test_another_split_has_the_tasks_that_the_run_uses(run, tmp_path):
    checkpoint = run / "eef/round1/checkpoint"
    for extra, tasks in (((), 8), (("--tasks", "3"), 3)):
        done = eef("evaluate", checkpoint, "--split", "train", "--out", tmp_path / "train", *extra)
        assert done.exit_code == 0, done.stderr
        assert "eef after round 1: won " in done.stderr
        rows = read_jsonl(tmp_path / "train/rollouts.jsonl")
        trained = json.loads((run / "fingerprint.json").read_text())["train_tasks"]
        assert (len(list(rows)), trained) == (tasks, 8)


@pytest.mark.parametrize(
    "option", [("--set", "tasks_per_split=9"), ("--format", "react"), ("--max-tokens", "9")]
)
def test_what_the_run_sets_is_refused(option, run):
    done = eef("evaluate", run / "eef/round1/checkpoint", *option)
    assert done.exit_code == 2
    assert f"`{option[0]}` has no effect" in done.stderr


def test_a_student_that_asks_a_role_at_test_time_is_refused(run):
    done = eef("evaluate", run / "stl/round1/checkpoint")
    assert done.exit_code == 2
    assert "`stl` asks `roles.value` at test time" in done.stderr
