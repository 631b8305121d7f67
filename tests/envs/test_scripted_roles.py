"""Scripted roles answer what a flawless expert would, from the question alone, with lapses."""

from __future__ import annotations

import pytest

from eef.envs.registry import make_expert, make_role
from eef.envs.toy import ToyEnv
from eef.errors import ConfigError, EnvError
from eef.methods.judging import REQUEST
from eef.methods.planning import PLAN, check_plan
from eef.policies.acting import Advised, Criticized, Lookahead, Role
from eef.policy import GREEDY, Sampling
from eef.react import parse_completion
from eef.roles import Acting, number_steps, read_step_numbers, task_question
from eef.rollouts.runner import RolloutParameters, play
from eef.rollouts.specs import RolloutSpec
from eef.trajectory import TrajectorySet
from tests.fakes.shopping import open_shop

WAYS = {"reasoner": Advised, "critic": Criticized, "value": Lookahead}
KINDS = {"reasoner": "advised", "critic": "criticized", "value": "lookahead"}


@pytest.fixture(scope="module", params=["toy", "webshop"])
def env(request):
    return ToyEnv() if request.param == "toy" else open_shop()


def episodes(env, policy, count=4, shown="none"):
    tasks = env.tasks("train").head(count)
    specs = [RolloutSpec(task.id, task, None, number, 1) for number, task in enumerate(tasks)]
    settings = RolloutParameters(sampling=GREEDY, step_limit=12, advice=shown)
    return list(
        play(specs, env=env, policy=policy, trajectories=TrajectorySet(), parameters=settings)
    )


def answers(env, role, question, preset="flawless", count=1):
    policy = make_role(env, role, preset)
    talk = [{"role": "user", "content": question}]
    return [each.text for each in policy.act([talk] * count, range(count), Sampling())]


def test_a_judge_names_steps_that_the_flawless_expert_would_take(env):
    expert = make_expert(env, "flawless")
    item = max(episodes(env, expert), key=lambda item: item.length)
    question = f"{number_steps(item.steps)}\n\n{REQUEST.format(steps=item.length, most=2)}"
    (text,) = answers(env, "judge", question)
    assert len(read_step_numbers(text, item.length)) == min(2, item.length)
    wrong = item.steps[0].completion.replace(item.steps[0].action, "click[nothing]")
    (bad,) = answers(env, "judge", question.replace(item.steps[0].completion, wrong, 1))
    assert 0 not in read_step_numbers(bad, item.length)
    assert len(set(answers(env, "judge", question, "weak", 30))) > 1


def test_a_planner_finds_the_tasks_of_every_split():
    env = open_shop()
    for split in env.splits:
        task = env.tasks(split)[0]
        (plan,) = answers(env, "planner", task_question(task.instruction, PLAN))
        check_plan(plan)


def test_a_plan_is_what_the_flawless_expert_does_in_the_task(env):
    task = env.tasks("test")[0]
    (plan,) = answers(env, "planner", task_question(task.instruction, PLAN))
    check_plan(plan)
    assert len(plan.splitlines()) > 1
    short = answers(env, "planner", task_question(task.instruction, PLAN), "weak", 20)
    assert {len(each.splitlines()) for each in short} == {1, len(plan.splitlines())}


@pytest.mark.parametrize("name", WAYS)
def test_a_role_guides_each_turn_by_what_the_expert_would_do(env, name):
    role = Role(name, make_role(env, name, "flawless"), Sampling(), env.prompt)
    acting = Acting(KINDS[name], name, candidates=2)
    policy = WAYS[name](make_expert(env, "flawless"), acting, role)
    for item in episodes(env, policy, shown=acting.shown):
        assert item.success
        for step in item.steps:
            for advice in step.advice:
                if name == "reasoner":
                    assert advice.text == f"Aim at this next: {step.action}"
                else:
                    same = parse_completion(advice.candidate)[1] == step.action
                    assert same == (("excellent" in advice.text) or advice.score == 0.8)


def test_unknown_roles_and_presets_are_refused(env):
    with pytest.raises(EnvError, match="unknown scripted role 'jugde'"):
        make_role(env, "jugde", "flawless")
    with pytest.raises(EnvError, match="unknown preset 'perfect'"):
        make_role(env, "judge", "perfect")


def test_an_environment_without_scripted_roles_says_so():
    bare = ToyEnv()
    bare.name = "gymnasium"
    with pytest.raises(ConfigError, match="has no scripted roles"):
        make_role(bare, "judge", "flawless")
