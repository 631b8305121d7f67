"""Many short rounds: settings of one method, carried moments, checkpoints that are not kept."""

from __future__ import annotations

from collections import Counter

import pytest

torch = pytest.importorskip("torch")

from eef.errors import ConfigError, DataError  # noqa: E402
from eef.models.manifest import read_manifest  # noqa: E402
from eef.pipeline.pipeline import Pipeline  # noqa: E402
from eef.pipeline.stages import Stage  # noqa: E402
from tests.fakes.small_run import (  # noqa: E402
    as_recipe,
    losses,
    rollouts,
    save_student,
    small_recipe,
)

pytestmark = pytest.mark.torch
OPTIONS = {
    "group_size": 4,
    "tasks_per_round": 2,
    "outcome": "reward",
    "invalid_action_penalty": 0.1,
}
OVERRIDES = {
    "rounds": 4,
    "sampling": {"temperature": 1.0},
    "budget": {"rollouts": 8},
    "evaluate": {"every": 2},
    "train": {"keep_checkpoints": "evaluated"},
}


def settings(student, **changes):
    return small_recipe(
        student,
        methods=["bc", "rft4", "grpo"],
        options={"grpo": OPTIONS, "eef": None},
        overrides={"grpo": OVERRIDES},
        policy_gradient={"learning_rate": 0.003, "batch_size": 4},
        **changes,
    )


def recipe_of(student, **changes):
    data = settings(student, **changes)
    del data["options"]["eef"]
    return as_recipe(data)


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return save_student(tmp_path_factory.mktemp("student"))


@pytest.fixture(scope="module")
def finished(student, tmp_path_factory):
    pipeline = Pipeline.create(tmp_path_factory.mktemp("runs") / "whole", recipe_of(student))
    pipeline.execute_all()
    return pipeline


def stages(pipeline, kind):
    return [s.round for s in pipeline.run.stages if (s.method, s.kind) == ("grpo", kind)]


def test_a_method_may_have_rounds_of_its_own(finished):
    assert stages(finished, "explore") == [1, 2, 3, 4]
    assert stages(finished, "evaluate") == [2, 4]
    assert [s.round for s in finished.run.stages if (s.method, s.kind) == ("rft4", "train")] == [1]
    explored = [finished.run.summary(Stage("grpo", number, "explore")) for number in range(1, 5)]
    assert [each["rollouts"] for each in explored] == [8] * 4
    assert finished.run.summary(Stage("rft4", 1, "explore"))["rollouts"] == 32
    assert finished.context.sampling(Stage("grpo", 1, "explore")).temperature == 1.0
    assert finished.context.sampling(Stage("rft4", 1, "explore")).temperature == 0.7


def test_acts_are_selected_and_trained_on(finished):
    selections = [finished.run.selection("grpo", number) for number in range(1, 5)]
    assert any(selection.acts for selection in selections)
    for number, selection in enumerate(selections, start=1):
        summary = finished.run.summary(Stage("grpo", number, "train"))
        assert summary["acts"] == len(selection.acts) == selection.counts["acts"]
        assert bool(summary["losses"]) == bool(selection.acts)


def test_only_evaluated_checkpoints_are_kept(finished):
    run = finished.run
    kept = [run.checkpoint(Stage("grpo", number, "train")) for number in (2, 4)]
    removed = [run.checkpoint(Stage("grpo", number, "train")) for number in (1, 3)]
    assert all(read_manifest(path) for path in kept)
    assert [[file.name for file in path.iterdir()] for path in removed] == [["removed.json"]] * 2
    assert all(run.is_done(stage) for stage in run.stages)
    with pytest.raises(DataError, match="was not kept"):
        read_manifest(removed[0])
    states = sorted(run.path.glob("grpo/round*/optimizer"))
    assert len(states) == 1


class StopError(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("at", ["explore", "train"])
def test_an_interrupted_run_ends_in_the_same_bits(finished, student, tmp_path, at):
    """Every stage in a new process, and each of one kind is interrupted once."""
    path = tmp_path / "cut"
    Pipeline.create(path, recipe_of(student))
    for stage in finished.run.stages:
        if stage.method == "rft4":
            continue

        def stop(progress, stage=stage):
            if stage.kind == at and stage.method == "grpo" and progress.done:
                raise StopError

        try:
            Pipeline.open(path).execute(stage, stop)
        except StopError:
            Pipeline.open(path).execute(stage)
    assert rollouts(path, "grpo") == rollouts(finished.run.path, "grpo")
    assert losses(path, ["grpo"]) == losses(finished.run.path, ["grpo"])
    last = Stage("grpo", 4, "train")
    manifests = [
        read_manifest(each.checkpoint(last))["sha256"]
        for each in (finished.run, Pipeline.open(path).run)
    ]
    assert manifests[0] == manifests[1]


def test_results_hold_the_evaluated_rounds(finished):
    from eef.analysis.results import read_results

    results = {item.name: item for item in read_results(finished.run.read()).methods}
    assert [item.round for item in results["grpo"].evaluated] == [2, 4]


@pytest.mark.parametrize(
    ("overrides", "message", "hint"),
    [
        ({"eef": {"rounds": 3}}, "'eef' is not a method of this recipe", ""),
        ({"bc": {"rounds": 3}}, "'bc' is not a method of this recipe", ""),
        ({"grpo": {"round": 3}}, "unknown setting of one method 'round'", "'rounds'"),
        ({"grpo": {"model": {}}}, "unknown setting of one method 'model'", "sampling"),
        ({"grpo": {"rounds": {}}}, r"`overrides.grpo.rounds` is \{\}; expected a number", ""),
        ({"grpo": {"train": 3}}, "`overrides.grpo.train` is 3; expected a table", ""),
        ({"grpo": {"train": {"update": 3}}}, "unknown setting 'train.update'", "updates"),
        ({"grpo": {"rounds": 0}}, "`rounds` is 0; expected 1 or more", ""),
        ({"grpo": {"evaluate": {"split": "dev"}}}, "`overrides.grpo.evaluate.split` has no", ""),
        ({"grpo": {"rollouts": {"cache_gib": 1}}}, "`overrides.grpo.rollouts.cache_gib` has", ""),
        (
            {"grpo": {"rollouts": {"engine": "vllm"}}},
            "`overrides.grpo.rollouts.engine` has no effect: all methods of a run share it",
            "",
        ),
    ],
)
def test_a_mistaken_override_is_reported(student, overrides, message, hint):
    data = settings(student)
    del data["options"]["eef"]
    with pytest.raises(ConfigError, match=message) as error:
        as_recipe({**data, "overrides": overrides})
    assert hint in error.value.hint


def test_an_override_replaces_the_measure_of_a_group(student):
    recipe = recipe_of(student)
    own = recipe.of_method("grpo")
    assert recipe.budget.rollouts_per_task == 4
    assert (own.budget.rollouts, own.budget.rollouts_per_task) == (8, None)
    assert own.train.learning_rate == recipe.train.learning_rate
    assert recipe.of_method("rft4") == recipe


def test_a_started_run_refuses_other_overrides(finished, student):
    from eef.errors import StoreError

    data = settings(student)
    del data["options"]["eef"]
    data["overrides"] = {"grpo": {**OVERRIDES, "rounds": 6}}
    with pytest.raises(StoreError, match="they differ in: overrides"):
        Pipeline.create(finished.run.path, as_recipe(data))


@pytest.mark.long
def test_twenty_rounds_of_grpo_win_more_often(student, tmp_path):
    recipe = small_recipe(
        student,
        methods=["bc", "grpo"],
        options={"grpo": {"group_size": 16, "tasks_per_round": 4}},
        rounds=20,
        budget={"rollouts_per_task": None, "rollouts": 64},
        expert={"names": ["scripted/flawless"]},
        tasks={"train": 4, "test": 2},
        sampling={"max_tokens": 24, "temperature": 1.0},
        rollouts={"batch_size": 64},
        train={"updates": 30, "schedule": "constant"},
        policy_gradient={"learning_rate": 0.002},
        evaluate={"every": 20},
    )
    recipe["options"].pop("eef", None)
    pipeline = Pipeline.create(tmp_path / "run", as_recipe(recipe))
    pipeline.execute_all()
    won = Counter(
        item.round for item in pipeline.run.trajectories("grpo") if item.by_student and item.success
    )
    first, last = (sum(won[round] for round in rounds) for rounds in (range(1, 6), range(16, 21)))
    assert last > 1.3 * first, f"{first} and {last} of 320 rollouts won"
