"""Weak-for-Strong: weights by hand, what is never trained, and a round in its environment."""

import math
from dataclasses import replace

import pytest
from hypothesis import given

from eef.envs.registry import make_env
from eef.envs.workflow.experts import WORKFLOWS
from eef.errors import ConfigError
from eef.methods.registry import make_method
from eef.methods.w4s import best_state
from eef.policy import Sampling, ScriptedPolicy
from eef.react import format_completion
from eef.report import status
from eef.rollouts.runner import RolloutParameters, play
from eef.rollouts.specs import rollout_specs
from eef.selection import PlannedState
from eef.trajectory import Author, StateRef, TrajectorySet
from tests.fakes.grids import TASK, expert, rollout, worlds


def rewarded(item, *rewards):
    """The rollout with these rewards of its steps."""
    steps = zip(item.steps, rewards, strict=True)
    return replace(item, steps=tuple(replace(step, reward=reward) for step, reward in steps))


def select(store, tasks=(TASK,), round=1, **options):
    return make_method("w4s", options).select(TrajectorySet(store), list(tasks), round)


def test_a_turn_has_the_weight_of_its_reward():
    store = [
        expert("e", actions="abcd"),
        rewarded(rollout("s", None, "lose", actions="uvxyz"), 1.0, 0.5, 0.0, -0.1, 0.9),
        rewarded(rollout("b", StateRef("s", 2), "lose", actions="z"), 0.4),
        rewarded(rollout("old", None, "win", actions="z", round=0), 1.0),
    ]
    selection = select(store)
    acts = {each.id: each for each in selection.acts}
    assert set(acts) == {"s", "b"}
    assert {each.ratio for each in selection.acts} == {"none"}
    weights = (12.1825, 3.4903, 1.0, 0.7788, 9.4877)
    assert acts["s"].advantages == pytest.approx(weights, rel=1e-4)
    assert acts["b"].advantages == pytest.approx((0.0, 0.0, math.exp(1.0)))
    assert (
        status._selected(selection.counts)
        == "2 rollouts with an advantage; 0 of 2 groups with wins and losses"
    )
    steps = {name: n for name, n in selection.counts.items() if name.startswith("steps.")}
    assert steps == {"steps.better-than-last": 2, "steps.improved": 2, "steps.no-gain": 2}
    [_, start] = sorted(select(store, temperature=1.0).acts, key=lambda each: each.id)
    assert start.advantages[0] == pytest.approx(math.e)


def test_a_turn_without_an_action_is_context():
    item = rollout("s", None, "lose", actions="uv")
    steps = (replace(item.steps[0], action=""), replace(item.steps[1], action="format_error[x]"))
    [acts] = select([replace(item, steps=(steps[0], item.steps[1]))]).acts
    assert acts.advantages == (0.0, 1.0)
    assert select([replace(item, steps=steps)]).acts == ()


@given(worlds())
def test_every_rollout_of_the_round_is_trained_and_nothing_of_the_expert(world):
    kept = {
        item.id
        for item in world.trajectories
        if item.by_student and item.round == world.round and item.status != "error" and item.steps
    }
    selection = make_method("w4s").select(world.trajectories, world.tasks, world.round)
    assert {each.trajectory for each in selection.acts} == kept
    for each in selection.acts:
        first = world.trajectories[each.trajectory].first
        assert each.advantages == (0.0,) * first + (1.0,) * (len(each.advantages) - first)


def test_the_state_moves_on_from_the_best_of_m():
    def ended(name, *rewards, start=None):
        actions = "uvwxyz"[: len(rewards)]
        return rewarded(rollout(name, start, "lose", actions=actions), *rewards)

    method = make_method("w4s", {"m": 2, "depth": 3})
    assert method.turns == 3
    first = [PlannedState(TASK, None, 2)]
    assert method.plan(TrajectorySet(), [TASK], 1) == first
    played = [ended("a", 0.0, 1.0), ended("b", -0.1, 0.5, 1.0), ended("c", 0.5, 0.0)]
    second = [*first, PlannedState(TASK, StateRef("b", 2), 2)]
    assert method.plan(TrajectorySet(played), [TASK], 1) == second
    played += [ended("d", 0.4, 1.0, start=StateRef("b", 2)), ended("e", 1.0, 0.0, 0.0)]
    played[-1] = replace(played[-1], start=StateRef("b", 2))
    third = [*second, PlannedState(TASK, StateRef("e", 3), 2)]
    assert method.plan(TrajectorySet(played), [TASK], 1) == third
    assert method.plan(TrajectorySet(played), [TASK], 2) == first  # every round begins again
    assert best_state([ended("one", 1.0)]) is None
    cut = replace(ended("cut", 0.5, 0.9), status="truncated")
    assert best_state([cut]) == StateRef("cut", 1)  # no step is left after the second


def test_it_branches_unless_its_depth_is_one():
    assert make_method("w4s").branches
    assert not make_method("w4s", {"depth": 1}).branches


def test_its_plan():
    method = make_method("w4s", {"m": 3})
    assert method.plan(TrajectorySet(), ["a", "b"], 1) == [
        PlannedState("a", None, 3),
        PlannedState("b", None, 3),
    ]
    with pytest.raises(ConfigError, match="temperature"):
        make_method("w4s", {"temperature": 0})


def test_a_round_in_its_environment():
    """A meta-agent with four kinds of workflows: the weights rank them as their scores do."""
    env = make_env(
        "workflow", {"families": "sums", "problems": 8, "held_out": 4, "tasks_per_split": 2}
    )
    names = ["unread", "direct", "steps", "vote"]

    def write(conversation, seed):
        turn = sum(message["role"] == "assistant" for message in conversation)
        return format_completion("So.", f"run[\n{WORKFLOWS[names[(seed + turn) % 4]]}]")

    agent = ScriptedPolicy(Author("student", "w4s@round0"), write)
    method, tasks = make_method("w4s", {"m": 4}), {task.id: task for task in env.tasks("train")}
    states = method.plan(TrajectorySet(), list(tasks), 1)
    specs = rollout_specs(states, tasks, owner="w4s", round=1, seed=0)
    played = TrajectorySet(
        play(
            specs,
            env=env,
            policy=agent,
            trajectories=TrajectorySet(),
            parameters=RolloutParameters(sampling=Sampling(), step_limit=5),
        )
    )
    selection = method.select(played, list(tasks), 1)
    assert len(selection.acts) == 8
    weights = {}
    for each in selection.acts:
        for step, weight in zip(played[each.trajectory].steps, each.advantages, strict=True):
            name = next(name for name in names if step.action == f"run[\n{WORKFLOWS[name]}]")
            weights.setdefault(name, []).append(weight)
    means = {name: sum(each) / len(each) for name, each in weights.items()}
    assert set(weights["unread"]) == {math.exp(-0.1 / 0.4)}
    assert means["vote"] == max(means.values()) > 3 * means["unread"]
