"""Whole rounds with attempts and with lookahead: records, costs by role, and every attempt."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from eef.envs.toy import toy_player
from eef.pipeline import roles
from eef.pipeline.pipeline import Pipeline
from eef.pipeline.stages import Stage
from eef.policy import ScriptedPolicy
from eef.rollouts.store import read_trajectories
from eef.trajectory import Author
from tests.fakes.small_run import as_recipe, small_recipe

pytestmark = pytest.mark.torch
TEXTS = {"reflector": "Go to the right.", "value": "So near. Score: 7"}


@pytest.fixture(scope="module")
def run(student, tmp_path_factory):
    """One round of `retroact` and `stl` with scripted roles and a scripted agent."""
    changes = {
        "methods": ["bc", "retroact", "stl"],
        "budget": {"rollouts_per_task": None},
        "roles": {name: {"model": f"scripted/{name}"} for name in TEXTS},
        "tasks": {"train": 4, "test": 3},
        "sampling": {"max_tokens": 8, "temperature": 1.0},
        "train": {"updates": 2},
    }
    made = small_recipe(student, **changes)
    made["options"] = {
        "retroact": {"attempts": 2, "test_attempts": 3, "trained": False},
        "stl": {"candidates": 3, "tries": 2, "trained": False},
    }
    with pytest.MonkeyPatch.context() as patch:

        def make_role(env, role, preset):
            return ScriptedPolicy(Author("agent", preset), lambda talk, seed: TEXTS[role])

        patch.setattr(roles, "make_role", make_role)
        patch.setattr(
            "eef.pipeline.context.RunContext.student",
            lambda context, trained: toy_player(
                Author("student", f"{trained.method}@round{trained.round}"), 0.4
            ),
        )
        pipeline = Pipeline.create(tmp_path_factory.mktemp("attempts") / "run", as_recipe(made))
        pipeline.execute_all()
    return pipeline.run


def test_a_round_of_attempts(run):
    store = read_trajectories(run.store("retroact"))
    own = [item for item in store if item.round == 1]
    retried = [item for item in own if item.prompt_suffix]
    failed = {item.task for item in own if not item.success and not item.prompt_suffix}
    assert {item.task for item in retried} == failed
    assert all(item.prompt_suffix.endswith("\n1. Go to the right.") for item in retried)
    assert len(store.notes) == len(failed)


def test_every_attempt_of_an_evaluation_is_reported_and_the_first_counts(run):
    result = run.evaluation("retroact", 1)
    assert len(result.outcomes) == 3
    wins = result.wins_by_attempt
    assert wins[0] == len(result.wins)
    assert list(wins) == sorted(wins)
    assert len(wins) == 3 or wins[-1] == 3
    played = list(run.evaluation_rollouts("retroact", 1))
    assert result.cost.rollouts == len(played)
    [usage] = result.cost.roles
    assert (usage.role, usage.completions) == ("reflector", len(played) - 3)


def test_a_lookahead_is_paid_for(run):
    assert run.summary(Stage("stl", 1, "explore"))["rollouts"] == 0  # nothing is trained
    own = list(run.evaluation_rollouts("stl", 1))
    assert all(step.advice for item in own for step in item.steps)
    result = run.evaluation("stl", 1)
    assert result.cost.rollouts == len(own)
    assert result.cost.rollouts == 3 + sum(not each.success for each in result.outcomes)
    assert result.cost.lookahead_steps == result.cost.completions == 3 * result.cost.env_steps
    [usage] = result.cost.roles
    assert usage.role == "value"
    assert result.cost.env_steps <= usage.completions <= result.cost.lookahead_steps
