"""Budgets: plans are cut or repeated in turns, and rounds of real runs end with their budget."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eef.errors import ConfigError, StoreError
from eef.pipeline.context import RunContext
from eef.pipeline.pipeline import Pipeline
from eef.pipeline.stages import Stage
from eef.policy import Completion
from eef.rollouts.budget import chunks, once, round_robin
from eef.rollouts.settings import BudgetSettings
from eef.selection import PlannedState
from eef.trajectory import Author, StateRef
from eef.utils.jsonl import read_jsonl
from eef.utils.progress import ignore_progress
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
    """The rollouts of a round whose n-th costs `costs(n)` tokens, and the sizes of the chunks."""
    units, sizes = [], []
    for chunk in chunks(
        plan, budget, batch_size, lambda count: sum(costs(n) for n in range(count))
    ):
        units += chunk
        sizes.append(len(chunk))
    return units, sizes


@given(plans, st.integers(1, 40))
def test_rollouts_are_spread_evenly_over_tasks(plan, count):
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
def test_a_plan_that_fits_is_played_once(plan):
    of_task = {}
    for item in plan:
        of_task.setdefault(item.task, Counter())[item.state] += item.count
    for task, wanted in of_task.items():
        alone = [item for item in plan if item.task == task]
        units = islice(round_robin(alone), wanted.total())
        assert Counter(item.state for item in units) == +wanted


def test_a_cut_does_not_favor_early_states():
    tasks = [f"toy/{number}" for number in range(30)]
    plan = [
        PlannedState(task, StateRef(task, t) if t else None, 1) for task in tasks for t in range(9)
    ]
    cut = list(islice(round_robin(plan), 4 * len(tasks)))
    assert [item.state for item in cut[: len(tasks)]] == [None] * len(tasks)
    assert {item.state.t for item in cut if item.state} == set(range(1, 9))
    assert set(Counter(item.task for item in cut).values()) == {4}


@given(st.integers(1, 12), st.integers(1, 8), st.integers(1, 6))
def test_states_are_branched_from_equally_often_over_the_rounds(states, size, rounds):
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


def test_a_plan_that_was_played_completely_keeps_its_order():
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
def test_a_token_budget_ends_with_the_chunk_that_reaches_it(plan, tokens, most):
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
def test_a_token_budget_is_hardly_exceeded(plan, cost, rollouts):
    tokens = rollouts * cost
    units, sizes = played(plan, BudgetSettings(tokens=tokens), lambda n: cost)
    assert len(units) == max(rollouts, sizes[0]), "rollouts of equal length fill it exactly"


@given(plans, st.integers(1, 3000), st.integers(1, 40))
def test_a_plan_that_is_not_repeated_ends_with_the_budget_too(plan, tokens, most):
    costs = [1 + (7 * n) % most for n in range(4000)]
    total = sum(item.count for item in plan)
    units = []
    limit = BudgetSettings(tokens=tokens)
    for chunk in once(plan, limit, 4, lambda count: sum(costs[:count])):
        assert sum(costs[: len(units)]) < tokens
        units += chunk
        assert 0 < len(chunk) <= 4
    assert units == list(islice(round_robin(plan), len(units)))
    assert len(units) == total or sum(costs[: len(units)]) >= tokens
    whole = [item for part in once(plan, BudgetSettings(), 4, len) for item in part]
    assert len(whole) == total


def test_without_a_budget_the_plan_is_unchanged():
    plan = [PlannedState("a", None, 6)]
    assert list(chunks(plan, BudgetSettings(), 4, lambda count: 0)) == [plan]
    assert list(chunks([], BudgetSettings(rollouts=5), 4, lambda count: 0)) == []


def test_rollouts_without_tokens_cannot_fill_a_round():
    with pytest.raises(ConfigError, match="no tokens"):
        played([PlannedState("a", None, 1)], BudgetSettings(tokens=5), lambda n: 0)


# in a run

EXPLORE = Stage("eef", 1, "explore")


def create(student, directory, budget, **changes):
    settings = {"budget": {"rollouts_per_task": None, **budget}, **changes}
    return Pipeline.create(directory, as_recipe(small_recipe(student, **settings)))


def finished_run(student, directory, budget):
    """A run in which five methods have explored and trained within a budget."""
    options = {"eef": {"M": 5}, "eef-two": {"method": "eef", "rollouts_per_state": 2}}
    recipe = small_recipe(
        student,
        methods=["bc", "rft", "eef", "eef-two", "nat"],
        budget={"rollouts_per_task": None, **budget},
        train={"updates": 2},
    )
    pipeline = Pipeline.create(directory, as_recipe({**recipe, "options": options}))
    execute(pipeline)
    return pipeline


def execute(pipeline, on_progress=ignore_progress):
    for stage in pipeline.run.stages:
        if stage.kind != "evaluate":
            pipeline.execute(stage, on_progress)


def exploration_cost(pipeline, method):
    return pipeline.run.costs(method)[Stage(method, 1, "explore")]


def test_a_budget_of_rollouts(student, tmp_path):
    pipeline = finished_run(student, tmp_path / "run", {"rollouts": 30})
    assert {
        method: exploration_cost(pipeline, method).rollouts
        for method in ("rft", "eef", "eef-two", "nat")
    } == {
        "rft": 30,
        "eef": 30,
        "eef-two": 30,
        "nat": 0,
    }


def test_a_budget_of_rollouts_per_task(student, tmp_path):
    pipeline = finished_run(student, tmp_path / "run", {"rollouts_per_task": 3})
    for method in ("rft", "eef", "eef-two"):
        trajectories = pipeline.run.trajectories(method)
        counts = Counter(item.task for item in trajectories if item.by_student)
        assert counts == Counter({task.id: 3 for task in pipeline.context.train_tasks})


@pytest.mark.parametrize(
    "two", [{"rollouts": 9, "tokens": 9}, {"rollouts_per_task": 2, "rollouts": 9}]
)
def test_only_one_measure_limits_a_round(student, two):
    with pytest.raises(ConfigError, match="both limit a round; set only one"):
        as_recipe(small_recipe(student, budget={"rollouts_per_task": None, **two}))


def test_a_budget_of_tokens_survives_an_interruption(student, tmp_path):
    whole = finished_run(student, tmp_path / "whole", {"tokens": 700})
    longest = 7 * 8  # most steps times most tokens of a rollout
    for method in ("rft", "eef", "eef-two"):
        assert 700 <= exploration_cost(whole, method).generated_tokens < 700 + 4 * longest

    class Interrupted(Exception):
        pass

    def interrupt(progress):
        if progress.subject == EXPLORE and progress.done == 9:
            raise Interrupted

    cut = Pipeline.create(tmp_path / "cut", whole.run.recipe)
    with pytest.raises(Interrupted):
        execute(cut, interrupt)
    cut = Pipeline.open(tmp_path / "cut")
    cut.execute(EXPLORE)
    assert {item.id for item in cut.run.trajectories("eef")} == {
        item.id for item in whole.run.trajectories("eef")
    }
    assert (
        exploration_cost(cut, "eef").generated_tokens
        == exploration_cost(whole, "eef").generated_tokens
    )


class Unreliable:
    """A student that fails if `fails(conversations)`; its completions count ten tokens each."""

    author, replays = Author("student", "eef@round0"), "alone"

    def __init__(self, fails):
        self.fails = fails

    def act(self, conversations, seeds, sampling):
        if self.fails(conversations):
            raise RuntimeError("the server is gone")
        return [Completion(text="Action: noop[]", generated_tokens=10) for _ in conversations]


def before_exploring(pipeline):
    stages = pipeline.run.stages
    return stages[: stages.index(EXPLORE)]


def use_unreliable(monkeypatch, fails):
    monkeypatch.setattr(RunContext, "explorer", lambda self, stage: Unreliable(fails))


def test_one_rollout_that_fails_at_the_end_of_a_round_is_recorded(student, tmp_path, monkeypatch):
    pipeline = create(student, tmp_path / "run", {"tokens": 1500}, methods=["eef"])
    alone = []

    def fails(conversations):
        alone.extend(conversations if len(conversations) == 1 else ())
        return 0 < len(alone) <= 2  # a chunk of one rollout, and its second attempt

    use_unreliable(monkeypatch, fails)
    for stage in (*before_exploring(pipeline), EXPLORE):
        pipeline.execute(stage)
    assert pipeline.run.summary(EXPLORE)["errors"] == 2
    assert exploration_cost(pipeline, "eef").generated_tokens >= 1500


@pytest.mark.parametrize("budget", [{"rollouts": 8}, {"tokens": 300}])
def test_if_every_rollout_failed_all_are_played_again(student, tmp_path, monkeypatch, budget):
    pipeline = create(student, tmp_path / "run", budget, methods=["eef"])
    for stage in before_exploring(pipeline):
        pipeline.execute(stage)
    use_unreliable(monkeypatch, lambda conversations: True)
    with pytest.raises(
        StoreError, match=r"every rollout failed, the first with: .*the server is gone"
    ) as caught:
        pipeline.execute(EXPLORE)
    quarantine = tmp_path / "run/eef/trajectories.jsonl.failed"
    assert str(quarantine) in caught.value.hint
    assert len(read_jsonl(quarantine)) == 2 * budget.get("rollouts", 4), "both attempts"
    use_unreliable(monkeypatch, lambda conversations: False)
    pipeline = Pipeline.open(tmp_path / "run")
    pipeline.execute(EXPLORE)
    assert pipeline.run.summary(EXPLORE)["errors"] == 0
