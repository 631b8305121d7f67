"""Budgets: a plan in turns, cut or gone on with; and rounds of real runs that end where their budget does."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_run import as_recipe, small_recipe

from eef.budget import in_turns, waves
from eef.config import BudgetSettings
from eef.errors import ConfigError
from eef.ledger import Stage
from eef.pipeline import Run, stages_of
from eef.selection import PlannedState
from eef.trajectory import StateRef

plans = st.lists(
    st.builds(PlannedState, st.sampled_from("abc"), st.none() | st.builds(StateRef, st.just("e"), st.integers(1, 5)),
              st.integers(0, 3)),
    max_size=8,
)


def played(plan, budget, costs, batch_size=4):
    """The rollouts of a round whose n-th costs `costs(n)` tokens, and the sizes of the portions."""
    units, sizes = [], []
    for wave in waves(plan, budget, batch_size, lambda count: sum(costs(n) for n in range(count))):
        units += wave
        sizes.append(len(wave))
    return units, sizes


@given(plans, st.integers(1, 40))
def test_every_task_gets_as_many_rollouts(plan, count):
    units, _ = played(plan, BudgetSettings(rollouts=count), lambda n: 1)
    tasks = {item.task for item in plan if item.count}
    assert len(units) == (count if tasks else 0)
    given_to = Counter(item.task for item in units)
    assert max((given_to[task] for task in tasks), default=0) - min((given_to[task] for task in tasks), default=0) <= 1
    assert all(item.count == 1 for item in units)


@given(plans)
def test_a_plan_that_fits_is_played_once_through(plan):
    wanted = Counter()
    for item in plan:
        wanted[(item.task, item.state)] += item.count
    counts = Counter(item.task for item in plan for _ in range(item.count))
    if len(set(counts.values())) != 1:
        return
    units = islice(in_turns(plan), sum(counts.values()))
    assert Counter((item.task, item.state) for item in units) == +wanted


def test_what_is_cut_off_is_not_always_the_end():
    tasks = [f"toy/{number}" for number in range(30)]
    plan = [
        PlannedState(task, StateRef(task, t) if t else None, 1) for task in tasks for t in range(9)
    ]
    cut = list(islice(in_turns(plan), 4 * len(tasks)))
    assert [item.state for item in cut[: len(tasks)]] == [None] * len(tasks)
    assert {item.state.t for item in cut if item.state} == set(range(1, 9))
    assert set(Counter(item.task for item in cut).values()) == {4}


def test_what_was_cut_off_comes_first_in_the_next_round():
    plan = [PlannedState("a", None, 1), *(PlannedState("a", StateRef("e", t), 1) for t in range(1, 11))]
    first = [item.state for item in islice(in_turns(plan), 6)]
    second = [item.state for item in islice(in_turns(plan, {state for state in first if state}), 6)]
    assert first[0] is second[0] is None
    assert not set(first[1:]) & set(second[1:])
    whole = list(islice(in_turns(plan), 11))
    again = list(islice(in_turns(plan, {item.state for item in whole if item.state}), 11))
    assert whole == again, "a plan that was played whole keeps its order"


@given(plans.filter(lambda plan: any(item.count for item in plan)), st.integers(1, 3000), st.integers(1, 40))
def test_a_budget_of_tokens_ends_with_what_reaches_it(plan, tokens, most):
    costs = [1 + (7 * n) % most for n in range(4000)]
    units, sizes = played(plan, BudgetSettings(tokens=tokens), costs.__getitem__)
    spent = sum(costs[: len(units)])
    assert spent >= tokens
    assert sum(costs[: len(units) - sizes[-1]]) < tokens
    assert max(sizes) <= 4


def test_no_budget_is_the_plan_itself():
    plan = [PlannedState("a", None, 6)]
    assert list(waves(plan, BudgetSettings(), 4, lambda count: 0)) == [plan]
    assert list(waves([], BudgetSettings(rollouts=5), 4, lambda count: 0)) == []


def test_rollouts_without_tokens_cannot_fill_a_round():
    with pytest.raises(ConfigError, match="no tokens"):
        played([PlannedState("a", None, 1)], BudgetSettings(tokens=5), lambda n: 0)


# in a run


def run_of(student, directory, budget, **changes):
    methods = ["bc", "rft", "eef", "eef-two", "nat"]
    options = {"eef": {"M": 5}, "eef-two": {"method": "eef", "rollouts_per_state": 2}}
    run = Run.create(directory, as_recipe(small_recipe(
        student, methods=methods, budget={"rollouts_per_task": None, **budget}, train={"updates": 2}, **changes
    ) | {"options": options}))
    carry_out(run, lambda progress: None)
    return run


def carry_out(run, listener):
    for stage in stages_of(run.recipe):
        if stage.kind != "evaluate":
            run.carry_out(stage, listener)


def explored(run, method):
    return run.ledger(method).entries[Stage(method, 1, "explore")]


def test_a_round_is_full_by_rollouts(student, tmp_path):
    run = run_of(student, tmp_path / "run", {"rollouts": 30})
    assert {method: explored(run, method).rollouts for method in ("rft", "eef", "eef-two", "nat")} == {
        "rft": 30, "eef": 30, "eef-two": 30, "nat": 0,
    }


def test_a_round_is_full_by_rollouts_of_each_task(student, tmp_path):
    run = run_of(student, tmp_path / "run", {"rollouts_per_task": 3})
    for method in ("rft", "eef", "eef-two"):
        counts = Counter(item.task for item in run.trajectories(method) if item.author.startswith("policy:"))
        assert counts == Counter({task.id: 3 for task in run.train_tasks})


@pytest.mark.parametrize("two", [{"rollouts": 9, "tokens": 9}, {"rollouts_per_task": 2, "rollouts": 9}])
def test_one_measure_says_when_a_round_is_full(student, two):
    with pytest.raises(ConfigError, match="both say when a round is full"):
        as_recipe(small_recipe(student, budget={"rollouts_per_task": None, **two}))


def test_a_round_is_full_by_tokens_and_can_be_left(student, tmp_path):
    whole = run_of(student, tmp_path / "whole", {"tokens": 700})
    longest = 7 * 8  # steps and tokens of a rollout at most
    for method in ("rft", "eef", "eef-two"):
        assert 700 <= explored(whole, method).generated_tokens < 700 + 4 * longest

    class Left(Exception):
        pass

    def leave(progress):
        if progress.stage.kind == "explore" and progress.stage.method == "eef" and progress.done == 9:
            raise Left

    recipe = whole.recipe
    cut = Run.create(tmp_path / "cut", recipe)
    with pytest.raises(Left):
        carry_out(cut, leave)
    cut = Run.open(tmp_path / "cut")
    for stage in stages_of(recipe):
        if stage.method == "eef" and stage.kind == "explore":
            cut.carry_out(stage, lambda progress: None)
    assert {item.id for item in cut.trajectories("eef")} == {item.id for item in whole.trajectories("eef")}
    assert explored(cut, "eef").generated_tokens == explored(whole, "eef").generated_tokens
