"""`eef evaluate`: a score, an interval, and rollouts like any other."""

from __future__ import annotations

import pytest

from eef.envs.toy import ToyEnv
from eef.trajectory import Trajectory
from eef.utils.jsonl import read_jsonl
from tests.fakes.small_run import eef


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
