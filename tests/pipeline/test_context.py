"""RunContext: plans of a run leave out the states that its environment does not branch from."""

from __future__ import annotations

import pytest

from eef.envs.toy import ToyEnv
from eef.pipeline.context import RunContext
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import Stage
from eef.trajectory import StateRef, TrajectorySet
from tests.fakes.grids import expert
from tests.fakes.small_run import as_recipe, small_recipe
from tests.fakes.tiny import tiny_model, tiny_tokenizer


class Forbidding(ToyEnv):
    """Allows no branch from the state in which action `e` was taken."""

    def can_branch_at(self, steps, t):
        return steps[t].action != "e"


def planned(env, path, method, origin):
    recipe = as_recipe(small_recipe("student", methods=[method]) | {"options": {}})
    context = RunContext(RunDirectory(path, recipe))
    context.env = env
    return context.plan(Stage(method, 1, "explore"), TrajectorySet([origin]))


@pytest.mark.parametrize(("method", "win"), [("eef", False), ("atlas", True), ("ipr", True)])
def test_no_method_branches_from_a_forbidden_state(method, win, tmp_path):
    origin = expert(task=ToyEnv().tasks("train")[0].id, win=win)
    assert origin.steps[4].action == "e"
    everywhere = planned(ToyEnv(), tmp_path, method, origin)
    allowed = planned(Forbidding(), tmp_path, method, origin)
    assert StateRef(origin.id, 4) in {item.state for item in everywhere}
    assert allowed == [item for item in everywhere if item.state != StateRef(origin.id, 4)]


def test_a_roles_whole_answer_is_trained_whatever_is_trained_of_the_agents(tmp_path):
    """`chat.loss_on = "action"` is about the agent's turns; a plan holds no action."""
    recipe = as_recipe(small_recipe("student", chat={"loss_on": "action"}))
    context = RunContext(RunDirectory(tmp_path, recipe))
    renderer = context.role_renderer(tiny_model(), tiny_tokenizer())
    talk = [{"role": "user", "content": "Plan."}, {"role": "assistant", "content": "1. Search."}]
    rendered = renderer.render(talk, [1.0])
    assert rendered.trained == len(tiny_tokenizer()("1. Search.")["input_ids"]) + 1
    agent = context._renderer(tiny_tokenizer(), None, None)
    assert agent.loss_on == "action"
