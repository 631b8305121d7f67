"""The environment `workflow`: puzzles, the weak executor, rewards, replay."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eef.env_check import check_env
from eef.envs.registry import make_env, make_expert
from eef.envs.workflow.env import improvement
from eef.envs.workflow.executor import answer_weakly, near_miss
from eef.envs.workflow.experts import WORKFLOWS
from eef.envs.workflow.problems import (
    FAMILIES,
    MOST_PROBLEMS,
    Problem,
    find_questions,
    is_right,
    make_problems,
)
from eef.errors import ConfigError, EnvError
from eef.policy import Sampling
from eef.react import format_completion, parse_completion
from eef.replay import replay
from eef.rollouts.runner import RolloutParameters, play
from eef.rollouts.specs import RolloutSpec
from eef.trajectory import PathStep, StateRef, TrajectorySet

SMALL = {"problems": 4, "held_out": 4, "tasks_per_split": 7}


@pytest.fixture(scope="module")
def env():
    return make_env("workflow", SMALL)


def run(env, workflow):
    return env.step(f"run[\n{WORKFLOWS.get(workflow, workflow)}]")


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_questions_are_found_in_any_text_with_their_answers(family):
    problems = make_problems(family, 30, "seed")
    assert problems == make_problems(family, 30, "seed")
    assert len({problem.question for problem in problems}) == 30
    for one, other in pairwise(problems):
        text = f"Solve: {one.question} Answer: {one.answer}\n{other.question} Step by step."
        assert [found.answer for found in find_questions(text)] == [one.answer, other.answer]
        assert is_right(one, f' "{one.answer}".\n')
        assert not is_right(one, near_miss(one.answer, random.Random(one.question)))


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Compute 12 - 30 + 4.", "-14"),
        (
            "Ada has 3 bags with 4 pens each and gives away 5. How many pens are left?",
            "7",
        ),
        ('How often does the letter "a" occur in "banana"?', "3"),
        ('Write "amberbasket" backwards.', "teksabrebma"),
        ("Sort from small to large: 30, 9, 12.", "9, 12, 30"),
        ("Join the last letters of these words: amber basket candle.", "rte"),
        ('Replace each letter of "yes" by the letter 2 places later (z is followed by a).', "agu"),
    ],
)
def test_answers(question, answer):
    [found] = find_questions(question)
    assert found.answer == answer


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_a_family_has_as_many_questions_as_a_task_may_need(family):
    assert len(make_problems(family, MOST_PROBLEMS, "0")) == MOST_PROBLEMS


def test_the_executor_is_weak_and_prompts_help_it():
    problems = make_problems(FAMILIES["sums"], 60, "x")

    def share(prompt_of):
        texts = [answer_weakly(prompt_of(each.question), "s") for each in problems]
        answers = [text.rpartition("Answer:")[2] for text in texts]
        return sum(map(is_right, problems, answers)) / len(problems)

    shown = "Compute 1 + 2 + 3. Answer: 6\n"
    direct = share(lambda question: f"{question} Give the answer only.")
    steps = share(lambda question: f"{question} Work step by step.")
    both = share(lambda question: f"{shown}{shown}{question} Work step by step.")
    assert 0.2 < direct < steps < both < 1
    assert share(lambda question: question) == 0  # a sentence is not an answer
    assert answer_weakly("Hello?", "s") == answer_weakly("x" * 9000, "s")


@settings(max_examples=20)
@given(st.text(max_size=30), st.text(max_size=5))
def test_the_executor_answers_any_prompt_the_same_way_again(prompt, seed):
    prompt = prompt.encode("utf-8", "replace").decode()
    assert answer_weakly(prompt, seed) == answer_weakly(prompt, seed)


def test_it_keeps_the_protocol():
    env = make_env("workflow", SMALL | {"tasks_per_split": 1, "repairs": 1})
    found = check_env(
        env,
        actions=["run[]", "run[x =]", "run[def solve(problem, ask): return 1 / 0]", "stop[]"],
        expert=make_expert(env, "careful"),
        episodes=0,
    )
    assert found.wins >= 1


@pytest.mark.parametrize(
    ("accuracy", "best", "last", "reward"),
    [
        (0.7, 0.6, 0.6, 1.0),
        (0.6, 0.6, 0.5, 0.5),
        (0.6, 0.6, 0.6, 0.0),
        (0.2, 0.6, 0.6, -0.1),
        (0.2, 0.6, 0.1, 0.4),
        (0.2, 0.1, 0.1, 0.9),
    ],
)
def test_rewards_follow_the_improvement_rule(accuracy, best, last, reward):
    assert improvement(accuracy, best, last) == pytest.approx(reward)


def test_an_episode(env):
    task = env.tasks("train")[0]
    first = env.reset(task)
    assert task.id == "workflow/sums/0"
    assert "For example: Compute" in first
    assert "baseline, which asks once: " in first
    steps = run(env, "unread")
    assert (steps.reward, steps.terminated) == (-0.1, False)
    assert "solves 0 of 4 problems with 1.0 calls per problem" in steps.observation
    assert "The workflow: it returned 'I go through it step by step. Answer: " in steps.observation
    vote = run(env, "vote")
    assert (vote.reward, vote.terminated) == (1.0, True)
    assert "solves 4 of 4 problems with 9.0 calls per problem" in vote.observation
    assert env.score([]) == env.score([steps.reward, vote.reward]) >= 0.75
    assert run(env, "vote").observation == "The episode is over."


def test_the_score_is_that_of_held_out_problems(env):
    """A workflow that knows the validation problems by heart scores nothing beyond the others."""
    task = env.tasks("train")[0]
    env.reset(task)
    problems = env._problems(task.index)
    known = dict(problems.validation)
    result = run(env, f"def solve(problem, ask):\n    return {known!r}.get(problem, '?')")
    assert "solves 4 of 4" in result.observation
    assert env.score([result.reward]) == 0.0
    assert not known.keys() & {problem.question for problem in problems.held_out}


def test_without_an_improvement_the_baseline_is_kept(env):
    env.reset(env.tasks("train")[1])
    baseline = env.score([])
    run(env, "unread")
    run(env, "unread")
    assert env.score([-0.1, -0.1]) == baseline > 0


def test_failures_use_up_repairs_and_then_turns():
    env = make_env("workflow", SMALL | {"repairs": 1, "turns": 1})
    env.reset(env.tasks("train")[0])
    first = run(env, "def solve(problem, ask):\n    return nothing")
    words = "The workflow failed: NameError: name 'nothing' is not defined (line 2). Repairs left: "
    assert first.observation.startswith(f"{words}0.")
    assert (first.reward, first.terminated) == (-0.1, False)
    second = run(env, "x =")
    assert second.observation.startswith("The workflow failed: SyntaxError")
    assert second.terminated


def test_observations_hold_no_addresses_and_no_surrogates(env):
    env.reset(env.tasks("train")[0])
    found = run(env, "def solve(problem, ask):\n    return '\\ud800' + str(solve)").observation
    assert "it returned '\ufffd<function solve at 0x…>'" in found
    env.reset(env.tasks("train")[0])
    assert "solves 0" in run(env, "def solve(p, ask):\n    return ask('\\ud800')").observation


def test_code_in_both_kinds_of_turns(env):
    code = WORKFLOWS["vote"]
    completion = format_completion("So.", f"run[\n{code}]")
    assert parse_completion(completion) == ("So.", f"run[\n{code}]")
    env.reset(env.tasks("train")[0])
    fenced = env.step(f"run[\n```python\n{code}```\n]")
    env.reset(env.tasks("train")[0])
    assert fenced == run(env, "vote")


def test_rollouts_replay_and_branch_like_their_origin(env):
    task = env.tasks("train")[2]
    expert = make_expert(env, "careful")
    parameters = RolloutParameters(sampling=Sampling(), step_limit=5)
    [whole] = play(
        [RolloutSpec("e", task, None, 5, 0)],
        env=env,
        policy=expert,
        trajectories=TrajectorySet(),
        parameters=parameters,
    )
    assert whole.status == "terminated"
    path = [PathStep(step, "e", whole.author) for step in whole.steps]
    assert replay(env, task, path).result.observation == whole.final_observation
    specs = [RolloutSpec(name, task, StateRef("e", 1), 6, 1) for name in ("a", "b")]
    found = {"env": env, "policy": expert, "parameters": parameters}
    one, other = play(specs, trajectories=TrajectorySet([whole]), **found)
    assert one.steps == other.steps  # the second starts from a snapshot
    assert one.reward == other.reward


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"families": "sumss"}, "unknown family of problems 'sumss'"),
        ({"families": ["sums", "sums"]}, "families, each once"),
        ({"turns": 0}, "turns"),
        ({"problems": 10, "held_out": 120}, "`held_out` is 130; expected at most 100"),
    ],
)
def test_wrong_settings(options, message):
    with pytest.raises(ConfigError, match=message):
        make_env("workflow", options)


def test_splits_and_steps(env):
    ids = {task.id for split in ("train", "test") for task in env.tasks(split)}
    assert len(ids) == 14
    with pytest.raises(EnvError, match="unknown split 'dev'"):
        env.tasks("dev")
    with pytest.raises(EnvError, match="no episode has started"):
        make_env("workflow", SMALL).step("run[x]")
    with pytest.raises(EnvError, match="unknown scripted expert"):
        make_expert(env, "best")
    assert not is_right(Problem("?", "1"), None)
