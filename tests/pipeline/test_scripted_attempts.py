"""Attempts of scripted students: interrupted rounds, and evaluations whose retries fail."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import replace

import pytest

from eef.envs.toy import ToyEnv, toy_player
from eef.errors import EnvError
from eef.methods.attempts import MEMORY
from eef.pipeline import roles
from eef.pipeline.evaluation import first_attempts
from eef.pipeline.stages import Stage
from eef.policy import ScriptedPolicy
from eef.react import format_completion
from eef.rollouts.store import read_trajectories
from eef.trajectory import Author
from tests.fakes.roles import FakeModel
from tests.fakes.scripted_run import ScriptedContext, ScriptedPipeline, start_run

METHOD = "retroact"
EXPLORE, EVALUATE = Stage(METHOD, 1, "explore"), Stage(METHOD, 1, "evaluate")
STUDENT = Author("student", "s")
WEAK = toy_player(STUDENT, 0.3)


@pytest.fixture(autouse=True)
def reflector(monkeypatch):
    def make_role(env, role, preset):
        return FakeModel(lambda question, seed: " ".join(["Go to the right."] * 9))

    monkeypatch.setattr(roles, "make_role", make_role)


class CountedStudent(FakeModel):
    """A weak student whose completions have tokens."""

    def _complete(self, conversation, seed):
        [completion] = WEAK.act([conversation], [seed], None)
        return replace(completion, generated_tokens=len(completion.text.split()))


def execute_until(pipeline, last):
    for stage in pipeline.run.stages[: pipeline.run.stages.index(last)]:
        pipeline.execute(stage)


class Interrupted(Exception):
    pass


def test_an_interrupted_round_of_reflections_costs_what_an_uninterrupted_one_costs(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(
        ScriptedContext, "student", lambda self, trained: CountedStudent(lambda *_: "")
    )
    start = start_run(
        tmp_path / "start",
        methods=["bc", METHOD],
        rounds=1,
        tasks={"train": 6, "test": 3},
        options={METHOD: {"attempts": 2, "trained": False}},
        roles={"reflector": {"model": "scripted/flawless"}},
        budget={"tokens": 1000},
        rollouts={"batch_size": 2},
    )
    execute_until(start, EXPLORE)

    def explored(directory, stops=()):
        shutil.copytree(start.run.path, directory)
        reports = []

        def stop(progress):
            reports.append(progress)
            if len(reports) in stops:
                raise Interrupted

        while not (pipeline := ScriptedPipeline.open(directory)).run.is_done(EXPLORE):
            with suppress(Interrupted):
                pipeline.execute(EXPLORE, stop)
        store = read_trajectories(pipeline.run.store(METHOD))
        return {item.id for item in store}, {note.id for note in store.notes}, len(reports)

    *whole, count = explored(tmp_path / "whole")
    assert any(not name.endswith("#0") for name in whole[0]), "the last turn repeats its plan"
    assert whole[1]
    for stop in range(2, count):
        assert explored(tmp_path / f"cut{stop}", {stop})[:2] == tuple(whole), stop


class Fragile(ToyEnv):
    """An environment that fails at one action."""

    def step(self, action):
        if action == "break":
            raise EnvError("it broke")
        return super().step(action)


def act_until_a_reflection(conversation, seed):
    again = MEMORY in conversation[0]["content"]
    return format_completion("", "break" if again else "left")


def test_an_evaluation_whose_retries_fail_has_the_result_of_the_first_attempts(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(ScriptedContext, "env", property(lambda self: Fragile()))
    monkeypatch.setattr(
        ScriptedContext, "student", lambda *_: ScriptedPolicy(STUDENT, act_until_a_reflection)
    )
    pipeline = start_run(
        tmp_path / "run",
        methods=["bc", METHOD],
        rounds=1,
        tasks={"train": 6, "test": 3},
        options={METHOD: {"attempts": 1, "test_attempts": 3, "trained": False}},
        roles={"reflector": {"model": "scripted/flawless"}},
    )
    execute_until(pipeline, EVALUATE)
    pipeline.execute(EVALUATE)
    run = pipeline.run
    result = run.evaluation(METHOD, 1)
    assert [each.error for each in result.outcomes] == [None] * 3
    assert result.wins_by_attempt == (0, 0)
    played = run.evaluation_rollouts(METHOD, 1)
    assert len(played) == 9, "each retry was repeated, and failed again"
    assert {item.id for item in first_attempts(played)} == {
        f"{METHOD}/round1/evaluation/{each.task}" for each in result.outcomes
    }
