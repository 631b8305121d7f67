"""The pipeline: dependencies and results of stages, interrupted and resumed runs."""

from __future__ import annotations

import json
import os

import pytest
import torch

from eef.errors import ConfigError, DataError, EefError, ModelError, StoreError
from eef.pipeline.execution.executors import EXECUTORS
from eef.pipeline.pipeline import Pipeline
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import COLLECT, Stage, round_methods, stages_of
from eef.trajectory import Author
from eef.utils.locks import acquire_lock
from eef.utils.progress import Progress, ignore_progress
from tests.fakes.scripted_run import start_run
from tests.fakes.small_run import as_recipe, losses, rollouts, save_student, small_recipe


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return save_student(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def finished(student, tmp_path_factory):
    """A run of two rounds of `eef` that nothing interrupted, and its progress reports."""
    pipeline = Pipeline.create(tmp_path_factory.mktemp("runs") / "finished", two_rounds(student))
    reports = []
    execute_stages(pipeline, reports.append)
    return pipeline.run, reports


def two_rounds(student, **changes):
    recipe = small_recipe(student, rounds=2, methods=["bc", "eef"], train={"updates": 4}, **changes)
    recipe["overrides"] = {"eef": {"train": {"updates": 5}}}
    return as_recipe(recipe)


def execute_stages(pipeline, on_progress=ignore_progress):
    for stage in pipeline.run.stages:
        pipeline.execute(stage, on_progress)


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


def reports_of(stage, reports):
    return [report for report in reports if report.subject == stage]


def test_a_stage_reports_its_progress(finished):
    _, reports = finished
    for stage in {report.subject for report in reports}:
        of_stage = reports_of(stage, reports)
        assert of_stage[0] == Progress(stage, 0, 0)
        assert of_stage[-1] == Progress(stage, 0, 0, finished=True)
        assert [report.finished for report in of_stage].count(True) == 1
    explored = reports_of(Stage("eef", 1, "explore"), reports)
    assert explored[-2].done == explored[-2].total == 32


def test_a_finished_run_holds_the_result_of_each_stage(finished):
    run, _ = finished
    assert all(run.is_done(stage) for stage in stages_of(run.recipe))
    assert run.evaluation("eef", 2).method == "eef"
    assert run.summary(Stage("eef", 2, "explore"))["rollouts"] == 32
    assert run.summary(Stage("bc", 0, "train"))["updates"] == 4
    assert run.summary(Stage("eef", 2, "train"))["updates"] == 5, "the method's own number"
    assert {item.author for item in run.trajectories("eef")} == {
        Author("expert", "weak"),
        Author("student", "bc@round0"),
        Author("student", "eef@round1"),
    }
    assert {item.author for item in run.trajectories("bc")} == {Author("expert", "weak")}
    entries = {(stage.round, stage.kind) for stage in run.costs("eef")}
    assert entries == {
        (round, kind) for round in (1, 2) for kind in ("explore", "train", "evaluate")
    }


def test_test_tasks_are_never_trained_on(finished):
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
def test_an_interrupted_run_ends_like_an_uninterrupted_one(
    stage, after, finished, student, tmp_path
):
    uninterrupted, expected_reports = finished
    reports = []

    def interrupt(progress):
        if progress.subject == stage and progress.done == after and not progress.finished:
            raise Interrupted

    with pytest.raises(Interrupted):
        execute_stages(Pipeline.create(tmp_path / "run", two_rounds(student)), interrupt)
    pipeline = Pipeline.open(tmp_path / "run")
    execute_stages(pipeline, reports.append)
    run = pipeline.run
    assert [rollouts(run.path, name) for name in ("expert", "eef")] == [
        rollouts(uninterrupted.path, name) for name in ("expert", "eef")
    ]
    assert losses(run.path, ("bc", "eef")) == losses(uninterrupted.path, ("bc", "eef"))
    for method, round in (("bc", 0), ("eef", 1), ("eef", 2)):
        assert (
            run.evaluation(method, round).outcomes
            == uninterrupted.evaluation(method, round).outcomes
        )
        assert run.selection(method, round) == uninterrupted.selection(method, round)
    assert reports_of(stage, reports)[-2] == reports_of(stage, expected_reports)[-2]


def test_a_stage_requires_its_dependencies(student, tmp_path):
    pipeline = Pipeline.create(tmp_path / "run", two_rounds(student))
    for stage, needed in (
        (Stage("bc", 0, "select"), "expert collect"),
        (Stage("eef", 1, "explore"), "expert collect"),
        (Stage("eef", 1, "train"), "expert collect"),
    ):
        with pytest.raises(StoreError, match=f"needs `{needed}` first"):
            pipeline.execute(stage)
    pipeline.execute(COLLECT)
    with pytest.raises(
        StoreError, match="`eef explore \\(round 2\\)` needs `eef train \\(round 1\\)` first"
    ):
        pipeline.execute(Stage("eef", 2, "explore"))


def test_one_process_at_a_time_works_on_a_method(student, tmp_path):
    pipeline = Pipeline.create(tmp_path / "run", two_rounds(student))
    (tmp_path / "run/expert").mkdir()
    with (
        acquire_lock(tmp_path / "run/expert/stage.lock"),
        pytest.raises(StoreError, match="is being written by process"),
    ):
        pipeline.execute(COLLECT)


def test_a_started_run_refuses_another_recipe_except_for_jobs(student, finished):
    run, _ = finished
    Pipeline.create(run.path, two_rounds(student, jobs=4))
    with pytest.raises(StoreError, match=r"they differ in: seed, train\)"):
        Pipeline.create(run.path, two_rounds(student, seed=1))


def test_a_started_run_refuses_another_environment(student, tmp_path):
    pipeline = Pipeline.create(tmp_path / "run", two_rounds(student))
    pipeline.check()
    path = tmp_path / "run/fingerprint.json"
    fingerprint = json.loads(path.read_text())
    versions = {"eef", "python", "torch", "transformers"}
    assert versions < set(fingerprint), "what the numbers were computed with"
    path.write_text(json.dumps({**fingerprint, **dict.fromkeys(versions, "0.0")}))
    pipeline.check()
    path.write_text(json.dumps({**fingerprint, "prompt": "another"}))
    with pytest.raises(StoreError, match=r"another environment \(it differs in: prompt\)"):
        pipeline.check()


def test_a_run_that_cannot_succeed_is_refused_before_anything_is_played(student, tmp_path):
    with pytest.raises(ModelError, match="no such model directory"):
        Pipeline.create(tmp_path / "a", two_rounds(tmp_path / "none")).check()
    with pytest.raises(ConfigError, match="100 tasks of split 'train', which has 40"):
        Pipeline.create(tmp_path / "b", two_rounds(student, tasks={"train": 100}))
    assert not (tmp_path / "b").exists()


def test_no_stage_is_executed_in_another_environment(student, tmp_path):
    Pipeline.create(tmp_path / "run", two_rounds(student)).execute(COLLECT)
    path = tmp_path / "run/fingerprint.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prompt": "another"}))
    pipeline = Pipeline.open(tmp_path / "run")
    pipeline.execute(COLLECT)  # it is done
    for _ in range(2):
        with pytest.raises(StoreError, match=r"another environment \(it differs in: prompt\)"):
            pipeline.execute(Stage("bc", 0, "select"))


def test_what_collected_experts_needed_is_not_needed_again(student, tmp_path):
    recipe = small_recipe(student, methods=["bc"])
    source = Pipeline.create(tmp_path / "source", as_recipe({**recipe, "options": {}}))
    source.execute(COLLECT)
    file = (source.run.store("expert") / "trajectories.jsonl").rename(tmp_path / "expert.jsonl")
    recipe |= {"options": {}, "expert": {"names": [f"file/{file}"]}}
    pipeline = Pipeline.create(tmp_path / "run", as_recipe(recipe))
    pipeline.execute(COLLECT)
    file.unlink()
    pipeline.check()
    Pipeline.create(tmp_path / "run", as_recipe({**recipe, "methods": ["bc", "rft4"]}))
    with pytest.raises(DataError, match="no such file"):
        Pipeline.create(tmp_path / "another", as_recipe(recipe))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["eef", "efe"]}, "unknown method 'efe'"),
        ({"options": {"eef": {"m": 3}}}, "unknown setting 'm'"),
        ({"expert": {"names": ["scripted/strnog"]}}, "unknown scripted expert"),
        ({"model": {"name": "nosuchmodel"}}, "no such model directory `nosuchmodel`"),
    ],
)
def test_a_run_with_a_wrong_name_is_not_created(changes, message, student, tmp_path):
    recipe = as_recipe(small_recipe(student, **changes))
    with pytest.raises(EefError, match=message):
        Pipeline.create(tmp_path / "run", recipe)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": ["bc", "eef", "efe"]}, "unknown method 'efe'"),
        (
            {"methods": ["bc", "eef", "rft4"], "options": {"rft4": {"m": 3}}},
            "unknown setting 'm'",
        ),
        ({"methods": ["bc", "eef", "mpo"]}, "needs a model for the role"),
    ],
)
@pytest.mark.parametrize("shared", [False, True])
def test_a_wrong_method_is_not_added_to_a_run(changes, message, shared, tmp_path):
    run = start_run(tmp_path / "run", methods=["bc", "eef"])
    run.run.store("expert").mkdir()
    settings = json.loads((tmp_path / "run/recipe.json").read_text())
    changes = {**changes, "options": {**settings["options"], **changes.get("options", {})}}
    with pytest.raises(EefError, match=message):
        Pipeline.create(tmp_path / "run", as_recipe(settings | changes), shared=shared)
    assert json.loads((tmp_path / "run/recipe.json").read_text()) == settings


@pytest.mark.parametrize("directory", ["models", "models/base", "models/base/run"])
def test_a_run_does_not_share_a_directory_with_its_student(directory, student, tmp_path):
    model = tmp_path / "models/base"
    model.mkdir(parents=True)
    with pytest.raises(ConfigError, match="share a directory") as error:
        Pipeline.create(tmp_path / directory, as_recipe(small_recipe(model)))
    assert "`--out`" in error.value.hint
    assert list(model.iterdir()) == []


def test_a_run_is_opened_by_path_or_text(finished):
    run, _ = finished
    assert RunDirectory.open(str(run.path)).recipe == RunDirectory.open(run.path).recipe


def test_the_recipe_states_how_many_methods_run_at_a_time(student, tmp_path, monkeypatch):
    jobs = []
    monkeypatch.setattr(
        "eef.pipeline.parallel.execute_methods",
        lambda pipeline, count, *_, **__: jobs.append(count),
    )
    pipeline = Pipeline.create(tmp_path / "run", as_recipe(small_recipe(student, jobs=2)))
    pipeline.execute_all()
    pipeline.execute_all(jobs=1)
    assert jobs == [2, 1]


def test_a_task_is_not_both_trained_and_tested_on(student, tmp_path):
    pipeline = Pipeline.create(tmp_path / "run", two_rounds(student, evaluate={"split": "train"}))
    for attempt in (pipeline.check, lambda: pipeline.execute(COLLECT)):
        with pytest.raises(ConfigError, match="of the test tasks are training tasks, for example"):
            attempt()
    assert not (tmp_path / "run/expert").exists()


def test_each_round_may_continue_from_the_last_checkpoint(student, finished, tmp_path):
    pipeline = Pipeline.create(
        tmp_path / "run",
        two_rounds(student).model_copy(
            update={"train": two_rounds(student).train.model_copy(update={"init_from": "last"})}
        ),
    )
    execute_stages(pipeline)
    manifest = json.loads((tmp_path / "run/eef/round2/checkpoint/manifest.json").read_text())
    assert manifest["base"].endswith("eef/round1/checkpoint")
    base = json.loads((finished[0].path / "eef/round2/checkpoint/manifest.json").read_text())
    assert base["base"] == str(student)


def test_several_experts_play_every_task(student, tmp_path):
    recipe = two_rounds(student, expert={"names": ["scripted/weak", "scripted/strong"], "tasks": 3})
    pipeline = Pipeline.create(tmp_path / "run", recipe)
    pipeline.execute(COLLECT)
    assert pipeline.run.summary(COLLECT)["rollouts"] == 6
    assert {item.author for item in pipeline.run.trajectories("expert")} == {
        Author("expert", "weak"),
        Author("expert", "strong"),
    }


@pytest.mark.parametrize(("threads", "expected"), [(1, 1), (3, 3), (None, 2)])
def test_the_number_of_threads_holds_without_the_command_line(
    threads, expected, student, tmp_path, monkeypatch
):
    """Every stage has `train.threads`, whether torch was loaded before or not."""
    recipe = two_rounds(student).model_dump()
    recipe["train"]["threads"] = threads
    pipeline = Pipeline.create(tmp_path / "run", as_recipe(recipe))
    seen = []

    def executor(context, stage, on_progress):
        seen.append((torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")))

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setitem(EXECUTORS, "collect", executor)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        pipeline.execute(COLLECT)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == [(expected, str(threads) if threads else None)]
    assert "OMP_NUM_THREADS" not in os.environ
