"""STL: lookahead where greedy fails, targets by hand, no rewards, nothing left behind."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eef.envs.toy import ToyEnv
from eef.methods.base import AGENT
from eef.methods.registry import make_method
from eef.methods.stl import VALUE_ROLE, target
from eef.note import Advice
from eef.policies.acting import with_roles
from eef.react import format_completion
from eef.roles import VALUE, read_score
from eef.rollouts.runner import play
from eef.trajectory import TrajectorySet
from tests.fakes.grids import TASK, expert, rollout
from tests.fakes.roles import acts, fake_role
from tests.fakes.toy_rollouts import parameters, specs_from_start

MOVES = ("left", "right", "open", "take blue", "take green", "take red", "take white")


def known_value(question, seed):
    """The true value in the corridor: the wanted key, then the way to the chest."""
    wanted = re.search(r"with the (\w+) key", question)[1]
    seen = question.partition("This leads to:\n")[2]
    if "opens" in seen:
        return "The chest is open. Score: 10"
    if "breaks" in seen:
        return "The lock is broken. Score: 0"
    room, rooms, here, held = re.search(
        r"Room (\d+) of (\d+).*Keys here: (.*)\. You hold: (?:the )?(\w+)", seen
    ).groups()
    if held == wanted:
        return f"It holds the key. Score: {5 + 4 * int(room) / int(rooms)}"
    return f"No key yet. Score: {3 if wanted in here else int(room) / int(rooms)}"


def played(policy, tasks=8, limit=12):
    return list(
        play(
            specs_from_start(ToyEnv(), tasks),
            env=ToyEnv(),
            policy=policy,
            trajectories=TrajectorySet(),
            parameters=parameters(step_limit=limit),
        )
    )


def guess(conversation, seed):
    return format_completion("", random.Random(seed).choice(MOVES))


def looking(value=known_value, candidates=20):
    acting = make_method("stl", {"candidates": candidates}).acting(1, at_test=False)
    return with_roles(acts(guess), acting, fake_role(value, VALUE_ROLE))


def scored(score, action, seen, text="So."):
    return Advice(
        role=VALUE_ROLE,
        text=f"{text} Score: {10 * score:g}",
        candidate=f"Action: {action}",
        seen=seen,
        score=score,
    )


def searched(*scores, status="truncated"):
    """A rollout whose turns had candidates with these scores."""
    item = rollout("r", None, "lose", actions="abcdefgh"[: len(scores)])
    steps = [
        replace(
            step,
            observation=f"o{t}",
            advice=tuple(scored(each, f"{t}{n}", f"p{t}{n}") for n, each in enumerate(row)),
        )
        for t, (step, row) in enumerate(zip(item.steps, scores, strict=True))
    ]
    return replace(item, steps=tuple(steps), status=status)


def texts_of(*items, **options):
    method = make_method("stl", options)
    return method.select(TrajectorySet(items), [TASK], 1).texts


def test_lookahead_wins_where_the_agent_alone_fails():
    alone, ahead = played(acts(guess)), played(looking())
    assert sum(item.success for item in alone) <= 1
    assert sum(item.success for item in ahead) >= 7


def test_the_environment_after_a_turn_is_one_that_was_never_searched():
    for item in played(looking(candidates=4), tasks=4):
        env = ToyEnv()
        task = next(s.task for s in specs_from_start(env, 4) if s.id == item.id)
        seen = [env.reset(task)]
        seen += [env.step(step.action).observation for step in item.steps]
        assert seen == [*(step.observation for step in item.steps), item.final_observation]
        assert item.usage.lookahead_steps == 4 * len(item.steps)
        [usage] = item.usage.roles
        assert usage.completions == sum(len(step.advice) for step in item.steps)


def test_the_target_is_the_discounted_maximum_over_successors():
    item = searched((0.1, 0.2), (0.4, 0.8, 0.6), (0.5,))
    first, second = texts_of(item)
    assert first.id == "r@1"
    assert read_score(first.text) == pytest.approx(0.75 * 0.8)
    assert first.text == ("The best next turn is:\nAction: 11\nIt leads to:\np11\nSo.\nScore: 6")
    assert read_score(second.text) == pytest.approx(0.375)
    assert read_score(texts_of(item, discount=0.5)[0].text) == pytest.approx(0.4)
    assert {text.role for text in (first, second)} == {VALUE_ROLE}


def test_the_target_states_one_score():
    """The reason ends where the score that is read begins, however it is written."""
    for text in ("It fits well. score: 8", "Score: 2? No. It fits well. **Score: 8.** High Score."):
        advice = Advice(role="value", text=text, candidate="Action: a", seen="p", score=0.8)
        written = target(advice, 0.75)
        assert "It fits well." in written
        assert "8" not in written.splitlines()[-2]
        assert (written.splitlines()[-1], read_score(written)) == ("Score: 6", 0.6)


def test_the_end_of_an_episode_is_not_discounted():
    item = searched((0.1,), (0.2, 0.8), status="terminated")
    assert read_score(texts_of(item)[0].text) == pytest.approx(0.8)


def test_the_question_is_the_one_that_the_value_model_was_asked():
    value = fake_role(known_value, VALUE_ROLE)
    acting = make_method("stl", {"candidates": 6}).acting(1, at_test=False)
    items = played(with_roles(acts(guess), acting, value), tasks=3)
    select = make_method("stl").select
    texts = [
        text
        for item in items
        for text in select(TrajectorySet([item]), [item.task], item.round).texts
    ]
    assert texts
    assert {text.question for text in texts} <= set(value.policy.questions)
    assert all(text.question.endswith(VALUE) for text in texts)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3), st.floats(0, 1), st.booleans())
def test_no_reward_is_read(rewards, final, won):
    item = searched((0.1, 0.2), (0.4, 0.8), (0.5,))
    steps = zip(item.steps, rewards, strict=True)
    other = replace(
        item,
        steps=tuple(replace(step, reward=reward) for step, reward in steps),
        reward=final,
        success=won,
    )
    assert texts_of(other) == texts_of(item)


def test_turns_without_scores_experts_and_other_rounds_teach_nothing():
    unscored = searched((0.1,), (), (0.5,))
    assert [text.id for text in texts_of(unscored)] == ["r@2"]
    assert texts_of(expert("e", win=True), replace(unscored, round=2)) == ()
    selection = make_method("stl").select(TrajectorySet([unscored]), [TASK], 1)
    assert (selection.examples, selection.acts, selection.counts["texts"]) == ((), (), 1)


def test_what_it_plans_and_who_it_asks():
    method = make_method("stl", {"k": 2, "tries": 3})
    assert [state.count for state in method.plan(TrajectorySet(), [TASK], 1)] == [2]
    lost, won = rollout("0", None, "lose"), rollout("1", None, "win")
    for played, planned in [([], 1), ([lost], 2), ([lost, won], 2), ([won], 1)]:
        assert len(method.plan_evaluation(TrajectorySet(played), [TASK])) == planned
    broken = rollout("2", None, "error")
    for played, planned in [([broken], 1), ([broken, lost], 2), ([lost, broken], 2)]:
        assert len(method.plan_evaluation(TrajectorySet(played), [TASK])) == planned
    three = [replace(lost, id=str(number)) for number in range(3)]
    assert len(method.plan_evaluation(TrajectorySet(three), [TASK])) == 3
    assert method.roles[VALUE_ROLE].trained == "base"
    assert method.roles[AGENT].optional
    assert method.attempts == 3
    frozen = make_method("stl", {"trained": False})
    assert frozen.roles[VALUE_ROLE].trained is None
    item = searched((0.1,), (0.4,))
    assert frozen.select(TrajectorySet([item]), [TASK], 1).texts == ()


def test_a_text_without_a_reason():
    best = Advice(role="value", text="Score: 5", candidate="Action: x", seen="p", score=0.5)
    assert target(best, 1.0).endswith("It leads to:\np\nScore: 5")
