"""GRPO, RLOO, GiGPO, EEF+GRPO: plans, hand-worked advantages, the order of tasks."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eef.errors import ConfigError, MethodError
from eef.methods.advantages import tasks_of_round
from eef.methods.registry import make_method
from eef.selection import Acts
from eef.trajectory import StateRef, Step, TrajectorySet
from tests.fakes.grids import TASK, expert, rollout

EXPERT = expert(actions="abcdef")


def select(items, method="grpo", round=1, tasks=(TASK,), **options):
    made = make_method(method, options)
    return made.select(TrajectorySet([EXPERT, *items]), list(tasks), round)


def advantages(selection):
    return {each.id: each.advantages for each in selection.acts}


def group(*outcomes, start=None, actions="xy", name="r"):
    return [
        rollout(f"{name}{number}", start, outcome, actions=actions)
        for number, outcome in enumerate(outcomes)
    ]


# outcomes


def test_advantages_of_a_group_of_four():
    """Rewards 1, 0, 0, 0: mean 1/4, sample deviation 1/2."""
    acts = advantages(select(group("win", "lose", "lose", "lose")))
    assert acts["r0"] == pytest.approx((1.5, 1.5), rel=1e-5)
    assert acts["r3"] == pytest.approx((-0.5, -0.5), rel=1e-5)
    acts = advantages(select(group("win", "lose", "lose", "lose"), scale="one"))
    assert acts["r0"] == pytest.approx((0.75, 0.75))
    assert acts["r1"] == pytest.approx((-0.25, -0.25))


def test_a_group_with_one_outcome_gives_no_act():
    for outcome, count in (("win", "groups.won"), ("lose", "groups.lost")):
        selection = select(group(*[outcome] * 4))
        assert selection.acts == ()
        assert selection.counts[count] == 1
        assert selection.counts["groups.mixed"] == 0


def test_a_single_rollout_has_nothing_to_be_compared_with():
    assert select(group("win")).acts == ()
    assert select(group("win", "error")).acts == ()


def test_failed_rollouts_are_no_members():
    acts = advantages(select(group("win", "lose", "error", "error"), scale="one"))
    assert acts == {"r0": (0.5, 0.5), "r1": (-0.5, -0.5)}


def test_groups_are_of_one_state_and_one_round():
    early = [replace(item, round=1) for item in group("win", "lose", name="early")]
    late = [replace(item, round=2) for item in group("lose", "lose", name="late")]
    assert select([*early, *late], round=2).acts == ()
    inside = group("win", "lose", start=StateRef("e", 4), name="inside")
    acts = select([*group("lose", "lose"), *inside], scale="one").acts
    assert {each.group for each in acts} == {"e@4"}
    assert acts[0].advantages == (0, 0, 0, 0, 0.5, 0.5)


def test_means_over_steps_count_longer_rollouts_more_often():
    items = [*group("win", actions="x"), *group("lose", actions="xyz", name="s")]
    acts = advantages(select(items, scale="one"))
    assert acts == {"r0": (0.5,), "s0": (-0.5,) * 3}
    acts = advantages(select(items, scale="one", mean="steps"))
    assert acts == {"r0": (0.75,), "s0": (-0.25,) * 3}


def test_rollouts_without_a_step_have_no_advantage():
    """Their context overflowed at the first turn, or they began at the step limit."""
    bare = [replace(item, steps=(), status="truncated") for item in group("lose", "lose")]
    one = replace(group("win", name="s")[0], steps=group("win")[0].steps[:1])
    for method in ("grpo", "gigpo"):
        for scale in ("one", "deviation"):
            for items in (bare, [one, bare[0]]):
                assert select(items, method=method, scale=scale, mean="steps").acts == ()


def test_an_invalid_call_costs_as_much_as_a_turn_without_an_action():
    won, lost = group("win", "lose")
    invalid = Step(observation="o", completion="?", action="format_error[no such tool]")
    clumsy = replace(lost, steps=(invalid, *lost.steps))
    acts = advantages(select([won, clumsy], scale="one", invalid_action_penalty=0.2))
    assert acts["r0"] == pytest.approx((0.6, 0.6))


def test_outcomes_can_be_rewards_and_invalid_actions_cost():
    won, lost = group("win", "lose")
    half = replace(lost, reward=0.5)
    acts = advantages(select([won, half], scale="one", outcome="reward"))
    assert acts["r0"] == (0.25, 0.25)
    empty = Step(observation="o", completion="?", action="")
    clumsy = replace(lost, steps=(empty, *lost.steps))
    acts = advantages(select([won, clumsy], scale="one", invalid_action_penalty=0.2))
    assert acts["r0"] == pytest.approx((0.6, 0.6))


@pytest.mark.parametrize(
    ("method", "options"),
    [("grpo", {}), ("grpo", {"mean": "steps"}), ("rloo", {}), ("gigpo", {"discount": 1.0})],
)
@pytest.mark.parametrize("reward", [0.1, 0.7, 0.9])
def test_equal_rewards_give_no_act(method, options, reward):
    """The mean of eight 0.7 is not 0.7 in floating point."""
    items = [replace(item, reward=reward) for item in group(*["lose"] * 8)]
    assert not select(items, method=method, outcome="reward", **options).acts


def test_rloo_compares_with_the_others():
    """Rewards 1, 0, 0: the others of the first have mean 0, those of the second 1/2."""
    acts = advantages(select(group("win", "lose", "lose"), method="rloo"))
    assert acts["r0"] == pytest.approx((1, 1))
    assert acts["r1"] == pytest.approx((-0.5, -0.5))
    with pytest.raises(ConfigError, match="scale"):
        make_method("rloo", {"scale": "deviation"})


# anchors


def seen(name, outcome, *turns):
    """A rollout of (observation, action) turns."""
    item = rollout(name, None, outcome)
    return replace(
        item,
        steps=tuple(
            Step(observation=page, completion=f"Action: {action}", action=action)
            for page, action in turns
        ),
    )


def test_step_advantages_of_a_hand_worked_group():
    """Page A is seen by both; B by the first alone; C twice by the second.

    With a discount of 1/2, the first has returns 1/2 and 1, the second 0, 0 and 0.
    """
    items = [
        seen("won", "win", ("A", "x"), ("B", "y")),
        seen("lost", "lose", ("A", "z"), ("C", "u"), ("C", "v")),
    ]
    acts = advantages(select(items, method="gigpo", discount=0.5))
    assert acts["won"] == pytest.approx((0.5 + 0.25, 0.5))
    assert acts["lost"] == pytest.approx((-0.5 - 0.25, -0.5, -0.5))
    acts = advantages(select(items, method="gigpo", discount=0.5, step_weight=2.0))
    assert acts["won"] == pytest.approx((0.5 + 0.5, 0.5))


def test_repeats_within_an_episode_share_an_anchor():
    """Three visits of page A with returns 1/4 · 1, 1 and 0."""
    items = [
        seen("won", "win", ("A", "x"), ("B", "y"), ("A", "z")),
        seen("lost", "lose", ("A", "z")),
    ]
    acts = advantages(select(items, method="gigpo", discount=0.5, step_weight=1.0))
    mean = (0.25 + 1 + 0) / 3
    assert acts["won"] == pytest.approx((0.5 + 0.25 - mean, 0.5, 0.5 + 1 - mean))
    assert acts["lost"] == pytest.approx((-0.5 - mean,))


def test_equal_pages_in_different_states_are_no_exact_anchor():
    items = [
        seen("won", "win", ("A", "take"), ("A", "leave")),
        seen("lost", "lose", ("A", "take"), ("A", "drop")),
        seen("other", "lose", ("A", "look"), ("A", "leave")),
    ]
    acts = advantages(select(items, method="gigpo", discount=1.0, anchor="state"))
    # start: returns 1, 0, 0; after `take`: 1, 0; after `look`: alone
    assert acts["won"] == pytest.approx((2 / 3 + 2 / 3, 2 / 3 + 1 / 2))
    assert acts["lost"] == pytest.approx((-1 / 3 - 1 / 3, -1 / 3 - 1 / 2))
    assert acts["other"] == pytest.approx((-1 / 3 - 1 / 3, -1 / 3))


@given(
    outcomes=st.lists(st.sampled_from(["win", "lose", "error"]), min_size=1, max_size=8),
    method=st.sampled_from(["grpo", "rloo", "gigpo"]),
    scale=st.sampled_from(["deviation", "one"]),
)
def test_advantages_of_a_group_sum_to_zero(outcomes, method, scale):
    """Rollouts of equal length: what one gains, the others lose; and order does not matter."""
    options = {} if method == "rloo" else {"scale": scale}
    items = group(*outcomes)
    selection = select(items, method=method, **options)
    assert sum(sum(each.advantages) for each in selection.acts) == pytest.approx(0, abs=1e-6)
    assert advantages(select(items[::-1], method=method, **options)) == advantages(selection)
    wins, losses = outcomes.count("win"), outcomes.count("lose")
    if wins and losses and method == "grpo" and scale == "deviation":
        n = wins + losses
        deviation = sqrt(wins * losses / n / (n - 1))
        best = max(max(each.advantages) for each in selection.acts)
        assert best == pytest.approx(losses / n / (deviation + 1e-6))


# plans


def test_tasks_come_in_passes():
    tasks = [f"t{number}" for number in range(10)]
    rounds = [tasks_of_round(tasks, round, 5) for round in range(1, 5)]
    assert sorted(rounds[0] + rounds[1]) == tasks
    assert sorted(rounds[2] + rounds[3]) == tasks
    assert rounds[:2] != rounds[2:]
    assert tasks_of_round(tasks, 3, None) == tasks


def test_grpo_plans_a_group_for_each_task_of_the_round():
    plan = make_method("grpo", {"group_size": 4, "tasks_per_round": 3}).plan(
        TrajectorySet(), [f"t{number}" for number in range(9)], 2
    )
    assert len({item.task for item in plan}) == 3
    assert {(item.state, item.count) for item in plan} == {(None, 4)}


def test_groups_start_inside_the_experts_failures():
    options = {"group_size": 4, "group_states": 2, "tasks_per_round": None}
    method = make_method("eef+grpo", options)
    won = expert("won", win=True, task="toy/2")
    plan = method.plan(TrajectorySet([EXPERT, won]), [TASK, "toy/2"], 1)
    states = [item.state for item in plan]
    assert [item.count for item in plan] == [4] * 4
    assert [item.task for item in plan] == [TASK, TASK, TASK, "toy/2"]
    assert states[0] is None
    assert states[3] is None
    assert all(0 < state.t < 6 for state in states[1:3])
    later = method.plan(TrajectorySet([EXPERT, won]), [TASK, "toy/2"], 2)
    assert [item.count for item in later] == [4] * 4


def test_groups_inside_failures_need_one_that_can_be_branched_from():
    store = TrajectorySet([replace(EXPERT, replayable=False)])
    with pytest.raises(MethodError, match="unverified"):
        make_method("eef+grpo").plan(store, [TASK], 1)
    assert make_method("eef+grpo", {"group_states": 0}).plan(store, [TASK], 1)


def test_eef_rounds_come_first_and_train_once():
    options = {"eef_rounds": 2, "tasks_per_round": None, "M": 2}
    method = make_method("eef+grpo", options)
    eef = make_method("eef", {"M": 2, "grid": "all"})
    start = TrajectorySet([EXPERT])
    assert method.plan(start, [TASK], 1) == eef.plan(start, [TASK], 1)
    played = [
        rollout("first", None, "win", round=1),
        rollout("second", StateRef("e", 2), "win", round=2),
        rollout("third", StateRef("e", 4), "lose", round=2),
    ]
    store = TrajectorySet([EXPERT, *played])
    first = method.select(store, [TASK], 1)
    assert (first.examples, first.acts) == ((), ())
    second = method.select(store, [TASK], 2)
    assert second.examples == eef.select(store, [TASK], 2).examples
    assert second.examples
    late = [replace(item, round=3) for item in group("win", "lose", start=StateRef("e", 4))]
    third = method.select(TrajectorySet([EXPERT, *played, *late]), [TASK], 3)
    assert third.examples == ()
    assert {each.group for each in third.acts} == {"e@4"}


def test_acts_of_an_earlier_version_have_a_clipped_ratio():
    acts = select(group("win", "lose")).acts[0]
    record = acts.to_record()
    assert record.pop("ratio") == "clipped"
    assert Acts.from_record({**record, "version": 1}) == acts
