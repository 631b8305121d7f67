"""A run directory: what a stage needs, what it leaves, and that it can be left and entered anywhere."""

from __future__ import annotations

import json

import pytest

from eef.errors import ConfigError, ModelError, StoreError
from eef.pipeline.stages import Progress, Stage, round_methods, stages_of
from eef.trajectory import Author
from eef.utils.locks import acquire_lock
from tests.fakes.small_run import as_recipe, losses, rollouts, save_student, small_recipe


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return save_student(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def finished(student, tmp_path_factory):
    """A run of two rounds of `eef` that nothing interrupted, and all that was heard of it."""
    run = Run.create(tmp_path_factory.mktemp("runs") / "finished", two_rounds(student))
    heard = []
    carry_out(run, heard.append)
    return run, heard


def two_rounds(student, **changes):
    recipe = small_recipe(student, rounds=2, methods=["bc", "eef"], train={"updates": 4}, **changes)
    return as_recipe(recipe)


def carry_out(run, listener=lambda progress: None):
    for stage in stages_of(run.recipe):
        run.carry_out(stage, listener)


class Interrupted(Exception):
    pass


def test_the_stages_of_a_recipe_come_in_order(student):
    assert [str(stage) for stage in stages_of(two_rounds(student))] == [
        "expert collect",
        "expert evaluate",
        "bc select",
        "bc train",
        "bc evaluate",
        "eef explore (round 1)",
        "eef select (round 1)",
        "eef train (round 1)",
        "eef evaluate (round 1)",
        "eef explore (round 2)",
        "eef select (round 2)",
        "eef train (round 2)",
        "eef evaluate (round 2)",
    ]
    assert round_methods(two_rounds(student)) == ["eef"]


def test_a_stage_tells_how_far_it_is(finished):
    _, heard = finished
    for stage in {progress.stage for progress in heard}:
        told = [progress for progress in heard if progress.stage == stage]
        assert told[0] == Progress(stage, 0, 0)
        assert told[-1] == Progress(stage, 0, 0, finished=True)
        assert [progress.finished for progress in told].count(True) == 1
    explored = [progress for progress in heard if progress.stage == Stage("eef", 1, "explore")]
    assert explored[-2].done == explored[-2].total == 32


def test_a_finished_run_holds_what_each_stage_came_to(finished):
    run, _ = finished
    assert all(run.is_done(stage) for stage in stages_of(run.recipe))
    assert run.evaluation("eef", 2).method == "eef"
    assert run.outcome(Stage("eef", 2, "explore"))["rollouts"] == 32
    assert run.outcome(Stage("eef", 2, "train"))["updates"] == 4
    assert {item.author for item in run.trajectories("eef")} == {
        Author("expert", "weak"),
        Author("student", "bc@round0"),
        Author("student", "eef@round1"),
    }
    assert {item.author for item in run.trajectories("bc")} == {Author("expert", "weak")}
    entries = {(stage.round, stage.stage) for stage in run.ledger("eef").entries}
    assert entries == {
        (round, kind) for round in (1, 2) for kind in ("explore", "train", "evaluate")
    }


def test_test_tasks_are_kept_apart_from_what_is_trained_on(finished):
    run, _ = finished
    played = {item.task for method in ("expert", "eef") for item in run.trajectories(method)}
    assert played.isdisjoint({outcome.task for outcome in run.evaluation("eef", 2).outcomes})


@pytest.mark.parametrize(
    ("stage", "after"),
    [
        (Stage("expert", 0, "collect"), 3),
        (Stage("bc", 0, "train"), 3),
        (Stage("eef", 1, "explore"), 6),
        (Stage("eef", 2, "explore"), 13),
        (Stage("eef", 2, "train"), 2),
        (Stage("eef", 2, "evaluate"), 3),
    ],
)
def test_a_run_left_anywhere_ends_as_if_it_had_not_been(stage, after, finished, student, tmp_path):
    uninterrupted, heard_then = finished
    heard = []

    def leave(progress):
        if progress.stage == stage and progress.done == after and not progress.finished:
            raise Interrupted

    with pytest.raises(Interrupted):
        carry_out(Run.create(tmp_path / "run", two_rounds(student)), leave)
    run = Run.open(tmp_path / "run")
    carry_out(run, heard.append)
    assert [rollouts(run.directory, name) for name in ("expert", "eef")] == [
        rollouts(uninterrupted.directory, name) for name in ("expert", "eef")
    ]
    assert losses(run.directory, ("bc", "eef")) == losses(uninterrupted.directory, ("bc", "eef"))
    for method, round in (("bc", 0), ("eef", 1), ("eef", 2)):
        assert (
            run.evaluation(method, round).outcomes
            == uninterrupted.evaluation(method, round).outcomes
        )
        assert run.selection(method, round) == uninterrupted.selection(method, round)
    last = [progress for progress in heard if progress.stage == stage and not progress.finished][-1]
    assert (
        last
        == [
            progress for progress in heard_then if progress.stage == stage and not progress.finished
        ][-1]
    )


def test_a_stage_asks_for_those_it_needs(student, tmp_path):
    run = Run.create(tmp_path / "run", two_rounds(student))
    for stage, needed in (
        (Stage("bc", 0, "select"), "expert collect"),
        (Stage("eef", 1, "explore"), "expert collect"),
        (Stage("eef", 1, "train"), "expert collect"),
    ):
        with pytest.raises(StoreError, match=f"needs `{needed}` first"):
            run.carry_out(stage, lambda progress: None)
    run.carry_out(Stage("expert", 0, "collect"), lambda progress: None)
    with pytest.raises(
        StoreError, match="`eef explore \\(round 2\\)` needs `eef train \\(round 1\\)` first"
    ):
        run.carry_out(Stage("eef", 2, "explore"), lambda progress: None)


def test_a_method_is_worked_on_by_one_process(student, tmp_path):
    run = Run.create(tmp_path / "run", two_rounds(student))
    (tmp_path / "run/expert").mkdir()
    with (
        acquire_lock(tmp_path / "run/expert/stage.lock"),
        pytest.raises(StoreError, match="is being written by process"),
    ):
        run.carry_out(Stage("expert", 0, "collect"), lambda progress: None)


def test_a_begun_run_refuses_another_recipe_but_other_jobs(student, finished):
    run, _ = finished
    Run.create(run.directory, two_rounds(student, jobs=4))
    with pytest.raises(StoreError, match=r"it differs in: seed, train\)"):
        Run.create(run.directory, two_rounds(student, seed=1))


def test_a_begun_run_refuses_another_environment(student, tmp_path):
    run = Run.create(tmp_path / "run", two_rounds(student))
    run.check()
    path = tmp_path / "run/fingerprint.json"
    place = json.loads(path.read_text())
    told = {"eef", "python", "torch", "transformers"}
    assert told < set(place), "what the numbers were computed with"
    path.write_text(json.dumps({**place, **dict.fromkeys(told, "0.0")}))
    run.check()
    path.write_text(json.dumps({**place, "prompt": "another"}))
    with pytest.raises(StoreError, match=r"another environment \(it differs in: prompt\)"):
        run.check()


def test_what_cannot_work_is_refused_before_anything_is_played(student, tmp_path):
    with pytest.raises(ModelError, match="no such model directory"):
        Run.create(tmp_path / "a", two_rounds(tmp_path / "none")).check()
    with pytest.raises(ConfigError, match="100 tasks of split 'train', which has 40"):
        Run.create(tmp_path / "b", two_rounds(student, tasks={"train": 100}))
    assert not (tmp_path / "b").exists()


def test_a_task_is_not_both_trained_and_tested_on(student, tmp_path):
    run = Run.create(tmp_path / "run", two_rounds(student, evaluate={"split": "train"}))
    with pytest.raises(ConfigError, match="of the test tasks are training tasks, toy/"):
        run.check()


def test_each_round_may_go_on_from_the_last_checkpoint(student, finished, tmp_path):
    run = Run.create(
        tmp_path / "run",
        two_rounds(student).model_copy(
            update={"train": two_rounds(student).train.model_copy(update={"init_from": "last"})}
        ),
    )
    carry_out(run)
    manifest = json.loads((tmp_path / "run/eef/round2/checkpoint/manifest.json").read_text())
    assert manifest["base"].endswith("eef/round1/checkpoint")
    base = json.loads((finished[0].directory / "eef/round2/checkpoint/manifest.json").read_text())
    assert base["base"] == str(student)


def test_several_experts_play_every_task(student, tmp_path):
    recipe = two_rounds(student, expert={"names": ["scripted/weak", "scripted/strong"], "tasks": 3})
    run = Run.create(tmp_path / "run", recipe)
    run.carry_out(Stage("expert", 0, "collect"), lambda progress: None)
    assert run.outcome(Stage("expert", 0, "collect"))["rollouts"] == 6
    assert {item.author for item in run.trajectories("expert")} == {
        Author("expert", "weak"),
        Author("expert", "strong"),
    }
