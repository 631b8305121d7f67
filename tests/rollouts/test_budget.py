"""Budgets: a plan in turns, cut or gone on with; and rounds of real runs that end where their budget does."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eef.errors import ConfigError, StoreError
from eef.pipeline.ledger import Stage
from eef.pipeline.stages import Stage, stages_of
from eef.policy import Completion
from eef.rollouts.budget import chunks, round_robin
from eef.rollouts.settings import BudgetSettings
from eef.selection import PlannedState
from eef.trajectory import Author, StateRef
from eef.utils.jsonl import read_jsonl
from tests.fakes.small_run import as_recipe, small_recipe

plans = st.lists(
    st.builds(
        PlannedState,
        st.sampled_from("abc"),
        st.none() | st.builds(StateRef, st.just("e"), st.integers(1, 5)),
        st.integers(0, 3),
    ),
    max_size=8,
)


def played(plan, budget, costs, batch_size=4):
    """The rollouts of a round whose n-th costs `costs(n)` tokens, and the sizes of the portions."""
    units, sizes = [], []
    for wave in chunks(plan, budget, batch_size, lambda count: sum(costs(n) for n in range(count))):
        units += wave
        sizes.append(len(wave))
    return units, sizes


@given(plans, st.integers(1, 40))
def test_every_task_gets_as_many_rollouts(plan, count):
    units, _ = played(plan, BudgetSettings(rollouts=count), lambda n: 1)
    tasks = {item.task for item in plan if item.count}
    assert len(units) == (count if tasks else 0)
    given_to = Counter(item.task for item in units)
    assert (
        max((given_to[task] for task in tasks), default=0)
        - min((given_to[task] for task in tasks), default=0)
        <= 1
    )
    assert all(item.count == 1 for item in units)


@given(plans)
def test_a_plan_that_fits_is_played_once_through(plan):
    of_task = {}
    for item in plan:
        of_task.setdefault(item.task, Counter())[item.state] += item.count
    for task, wanted in of_task.items():
        alone = [item for item in plan if item.task == task]
        units = islice(round_robin(alone), wanted.total())
        assert Counter(item.state for item in units) == +wanted


def test_what_is_cut_off_is_not_always_the_end():
    tasks = [f"toy/{number}" for number in range(30)]
    plan = [
        PlannedState(task, StateRef(task, t) if t else None, 1) for task in tasks for t in range(9)
    ]
    cut = list(islice(round_robin(plan), 4 * len(tasks)))
    assert [item.state for item in cut[: len(tasks)]] == [None] * len(tasks)
    assert {item.state.t for item in cut if item.state} == set(range(1, 9))
    assert set(Counter(item.task for item in cut).values()) == {4}


@given(st.integers(1, 12), st.integers(1, 8), st.integers(1, 6))
def test_states_are_played_equally_often_over_the_rounds(states, size, rounds):
    plan = [
        PlannedState("a", None, 1),
        *(PlannedState("a", StateRef("e", t), 1) for t in range(1, states + 1)),
    ]
    played = Counter()
    for _ in range(rounds):
        units = list(islice(round_robin(plan, played), min(size, states + 1)))
        assert units[0].state is None
        played.update(item.state for item in units[1:])
        assert (
            played.total() == 0
            or max(played.values()) - min(played[item.state] for item in plan[1:]) <= 1
        )


def test_a_plan_that_was_played_whole_keeps_its_order():
    plan = [
        PlannedState("a", None, 3),
        *(PlannedState("a", StateRef("e", t), 1) for t in range(1, 9)),
    ]
    whole = list(islice(round_robin(plan), 11))
    assert [item.state for item in whole][:1] + [item.state for item in whole][-2:] == [None] * 3
    again = list(islice(round_robin(plan, Counter(item.state for item in whole if item.state)), 11))
    assert Counter(whole) == Counter(again)
    assert [item for item in again if item.state] == [item for item in whole if item.state]


@given(
    plans.filter(lambda plan: any(item.count for item in plan)),
    st.integers(1, 3000),
    st.integers(1, 40),
)
def test_a_budget_of_tokens_ends_with_what_reaches_it(plan, tokens, most):
    costs = [1 + (7 * n) % most for n in range(4000)]
    units, sizes = played(plan, BudgetSettings(tokens=tokens), costs.__getitem__)
    spent = sum(costs[: len(units)])
    assert spent >= tokens
    assert sum(costs[: len(units) - sizes[-1]]) < tokens
    assert max(sizes) <= 4


@given(
    plans.filter(lambda plan: any(item.count for item in plan)),
    st.integers(1, 50),
    st.integers(1, 100),
)
def test_little_is_played_beyond_a_budget_of_tokens(plan, cost, rollouts):
    tokens = rollouts * cost
    units, sizes = played(plan, BudgetSettings(tokens=tokens), lambda n: cost)
    assert len(units) == max(rollouts, sizes[0]), "rollouts of one length fill it to the token"


def test_no_budget_is_the_plan_itself():
    plan = [PlannedState("a", None, 6)]
    assert list(chunks(plan, BudgetSettings(), 4, lambda count: 0)) == [plan]
    assert list(chunks([], BudgetSettings(rollouts=5), 4, lambda count: 0)) == []


def test_rollouts_without_tokens_cannot_fill_a_round():
    with pytest.raises(ConfigError, match="no tokens"):
        played([PlannedState("a", None, 1)], BudgetSettings(tokens=5), lambda n: 0)


# in a run


def run_of(student, directory, budget, **changes):
    methods = ["bc", "rft", "eef", "eef-two", "nat"]
    options = {"eef": {"M": 5}, "eef-two": {"method": "eef", "rollouts_per_state": 2}}
    run = Run.create(
        directory,
        as_recipe(
            small_recipe(
                student,
                methods=methods,
                budget={"rollouts_per_task": None, **budget},
                train={"updates": 2},
                **changes,
            )
            | {"options": options}
        ),
    )
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
    assert {
        method: explored(run, method).rollouts for method in ("rft", "eef", "eef-two", "nat")
    } == {
        "rft": 30,
        "eef": 30,
        "eef-two": 30,
        "nat": 0,
    }


def test_a_round_is_full_by_rollouts_of_each_task(student, tmp_path):
    run = run_of(student, tmp_path / "run", {"rollouts_per_task": 3})
    for method in ("rft", "eef", "eef-two"):
        counts = Counter(item.task for item in run.trajectories(method) if item.by_student)
        assert counts == Counter({task.id: 3 for task in run.train_tasks})


@pytest.mark.parametrize(
    "two", [{"rollouts": 9, "tokens": 9}, {"rollouts_per_task": 2, "rollouts": 9}]
)
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
        if (
            progress.stage.kind == "explore"
            and progress.stage.method == "eef"
            and progress.done == 9
        ):
            raise Left

    recipe = whole.recipe
    cut = Run.create(tmp_path / "cut", recipe)
    with pytest.raises(Left):
        carry_out(cut, leave)
    cut = Run.open(tmp_path / "cut")
    for stage in stages_of(recipe):
        if stage.method == "eef" and stage.kind == "explore":
            cut.carry_out(stage, lambda progress: None)
    assert {item.id for item in cut.trajectories("eef")} == {
        item.id for item in whole.trajectories("eef")
    }
    assert explored(cut, "eef").generated_tokens == explored(whole, "eef").generated_tokens


class Worn:
    """A student whose completions are worth ten tokens each, and which breaks while `broken(conversations)`."""

    name, batch_invariant = Author("student", "eef@round0"), True

    def __init__(self, broken):
        self.broken = broken

    def act(self, conversations, seeds, sampling):
        if self.broken(conversations):
            raise RuntimeError("the server is gone")
        return [Completion(text="Action: noop[]", generated_tokens=10) for _ in conversations]


def up_to_exploring(run):
    stages = stages_of(run.recipe)
    return stages[: stages.index(Stage("eef", 1, "explore")) + 1]


def by_worn(monkeypatch, broken):
    monkeypatch.setattr(Run, "explorer", lambda self, stage: Worn(broken))


def test_one_rollout_that_breaks_at_the_end_of_a_round_is_a_record(student, tmp_path, monkeypatch):
    run = Run.create(
        tmp_path / "run",
        as_recipe(
            small_recipe(
                student, methods=["eef"], budget={"rollouts_per_task": None, "tokens": 1500}
            )
        ),
    )
    alone = []

    def broken(conversations):
        alone.extend(conversations if len(conversations) == 1 else ())
        return 0 < len(alone) <= 2  # a portion of one rollout, and its second try

    by_worn(monkeypatch, broken)
    for stage in up_to_exploring(run):
        run.carry_out(stage, lambda progress: None)
    assert run.outcome(Stage("eef", 1, "explore"))["errors"] == 2
    assert explored(run, "eef").generated_tokens >= 1500


@pytest.mark.parametrize("budget", [{"rollouts": 8}, {"tokens": 300}])
def test_where_every_rollout_broke_all_is_played_anew_once_that_is_mended(
    student, tmp_path, monkeypatch, budget
):
    run = Run.create(
        tmp_path / "run",
        as_recipe(
            small_recipe(student, methods=["eef"], budget={"rollouts_per_task": None, **budget})
        ),
    )
    *before, explore = up_to_exploring(run)
    for stage in before:
        run.carry_out(stage, lambda progress: None)
    by_worn(monkeypatch, lambda conversations: True)
    with pytest.raises(
        StoreError, match=r"every rollout broke; the first with: .*the server is gone"
    ) as caught:
        run.carry_out(explore, lambda progress: None)
    aside = tmp_path / "run/eef/trajectories.jsonl.broken"
    assert str(aside) in caught.value.hint
    assert len(read_jsonl(aside)) == 2 * budget.get("rollouts", 4), "both tries"
    by_worn(monkeypatch, lambda conversations: False)
    run = Run.open(tmp_path / "run")
    run.carry_out(explore, lambda progress: None)
    assert run.outcome(explore)["errors"] == 0
