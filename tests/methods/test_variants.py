"""Ablations of EEF, the choice of states, and EEF with pairs."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eef.errors import MethodError
from eef.methods.labels import evenly_spaced_states
from eef.methods.registry import make_method
from eef.methods.state_choice import bisect, choose_states, most_uncertain, random_states
from eef.rollouts.budget import round_robin
from eef.selection import PlannedState
from eef.trajectory import StateRef, TrajectorySet
from tests.fakes.grids import TASK, expert, played, rollout, worlds

STATES = (0, 2, 4, 6, 8, 10)
WORKED = ("lose", "win", "lose", "win", "win", "lose")
STORE = [expert(), *played(STATES, WORKED)]


def select(store, method="eef", *, round=1, tasks=(TASK,), **options):
    return make_method(method, options).select(TrajectorySet(store), tasks, round)


def plan(store, method="eef", *, round=1, tasks=(TASK,), **options):
    return make_method(method, options).plan(TrajectorySet(store), tasks, round)


# ablations


def test_without_expert_actions_and_recovery():
    """Only the student's own steps of a solution are trained."""
    (start,) = select(STORE, expert_actions="masked", recovery=False).examples
    assert (start.id, start.weights) == ("e@2:1@0", (0.0, 0.0, 1.0, 1.0))
    assert start.reasons == ("context",) * 2 + ("student-win",) * 2


def test_with_beneficial_actions():
    (start,) = select(STORE, recovery=False).examples
    assert start.weights == (1.0,) * 4


def test_with_recovery_states():
    selection = select(STORE)
    assert [example.id for example in selection.examples] == ["e@2:1@0", "e@6:1@4"]
    assert (
        select(STORE, recovery=False).counts["states.recovery"]
        == selection.counts["states.recovery"]
        == 2
    )


def test_an_experts_own_win_is_trained_even_if_its_actions_are_masked():
    store = [expert("w", win=True), rollout("r", None, "lose")]
    (example,) = select(store, expert_actions="masked").examples
    assert set(example.weights) == {1.0}


@given(worlds(), st.sampled_from(["one", "rft"]))
def test_masked_expert_actions_are_never_trained_in_a_students_win(world, examples):
    try:
        found = select(
            [*world.experts, *world.rollouts],
            round=world.round,
            tasks=world.tasks,
            expert_actions="masked",
            examples=examples,
        ).examples
    except MethodError:
        return
    for example in found:
        if not world.trajectories[example.trajectory].by_expert:
            path = world.trajectories.path(example.trajectory)
            trained = [step for step, weight in zip(path, example.weights, strict=True) if weight]
            assert all(step.author.role == "student" for step in trained)


# the student's own failures


def test_without_own_failures_yet_branch_from_student_is_rft():
    planned = plan(STORE, branch_from="student")
    assert planned == [PlannedState(TASK, None, 1)]
    assert [item.state for item in islice(round_robin(planned), 6)] == [None] * 6


def test_later_rounds_branch_from_the_latest_own_failure():
    old = rollout("old", None, "lose", actions="abcdef")
    new = rollout("new", None, "lose", actions="abcdefgh", round=2)
    failed = rollout("failed", None, "error", round=2)
    planned = plan([expert(), old, new, failed], round=3, branch_from="student", M=2)
    assert planned == [
        PlannedState(TASK, None, 1),
        *(PlannedState(TASK, StateRef("new", t), 1) for t in (2, 4)),
    ]
    assert plan([expert(), old], round=2, branch_from="student", M=2)[1].state == StateRef("old", 2)


def test_a_win_from_inside_an_own_failure_solves_the_start():
    own = rollout("own", None, "lose", actions="abcdef")
    store = [
        expert(),
        own,
        rollout("again", None, "lose", actions="q", round=2),
        rollout("won", StateRef("own", 3), "win", round=2),
    ]
    (start,) = select(store, round=2, branch_from="student", M=1).examples
    assert start.id == "won@0"
    assert start.reasons == ("beneficial",) * 3 + ("student-win",) * 2
    (pad,) = select(store, round=2, branch_from="student", M=1, expert_actions="masked").examples
    assert pad.weights == (0.0,) * 3 + (1.0,) * 2


# two experts


def test_exploring_one_of_two_experts():
    store = [expert("s"), expert("w", by="weak"), expert("v", by="weak", win=True, task="toy/2")]
    assert {item.state.trajectory for item in plan(store) if item.state} == {"s", "w"}
    assert {item.state.trajectory for item in plan(store, experts=["strong"]) if item.state} == {
        "s"
    }
    assert sum(item.count for item in plan(store, experts=["strong"])) == 6
    assert sum(item.count for item in plan(store)) == 11
    store.append(rollout("own", None, "win"))
    tasks = (TASK, "toy/2")
    assert {example.id for example in select(store, tasks=tasks).examples} == {"own@0", "v@0"}
    assert {example.id for example in select(store, tasks=tasks, experts=["strong"]).examples} == {
        "own@0"
    }
    both = select(store, tasks=tasks, experts=["strong"], bc_experts=["weak"])
    assert {example.id for example in both.examples} == {"own@0", "v@0"}


def test_an_unknown_expert_to_explore_is_an_error():
    with pytest.raises(MethodError, match="`experts`: unknown expert 'stong'") as error:
        select(STORE, experts=["stong"])
    assert "'strong'" in error.value.hint


# choice of states


def test_the_bracket_of_the_last_winnable_state_shrinks():
    first = played((0, 4, 8), ("win", "win", "lose"))
    choice = {"state_choice": "bisection", "M": 2}
    assert [item.state.t for item in plan([expert()], **choice) if item.state] == [4, 8]
    assert [item.state.t for item in plan([expert(), *first], round=2, **choice) if item.state] == [
        5,
        6,
    ]
    second = played((5, 6), ("win", "lose"), round=2)
    assert [
        item.state.t for item in plan([expert(), *first, *second], round=3, **choice) if item.state
    ] == [5, 6]


def test_uncertain_states_are_measured_again():
    first = [
        rollout("a", None, "lose"),
        *(rollout(f"b{n}", StateRef("e", 6), "win") for n in range(4)),
    ]
    states = [
        item.state.t
        for item in plan([expert(), *first], round=2, M=3, state_choice="uncertainty")
        if item.state
    ]
    assert states == [1, 2, 8]  # 5/12, 1/2 and 5/9, on the line from 1/3 over 5/6 to 0


def test_labels_follow_the_states_of_their_round():
    first, second = (
        played((0, 4, 8), ("win", "win", "lose")),
        played((0, 5, 6), ("lose", "win", "lose"), round=2),
    )
    method = make_method("eef", {"M": 2, "state_choice": "bisection"})
    store = TrajectorySet([expert(), *first, *second])
    assert method.measure(store, store["e"], 1).states == (0, 4, 8)
    assert method.measure(store, store["e"], 2).states == (0, 5, 6)
    pooled = make_method("eef", {"M": 2, "state_choice": "bisection", "grid": "all"})
    assert pooled.measure(store, store["e"], 2).states == (0, 4, 5, 6, 8)


measurements = st.dictionaries(
    st.integers(0, 12),
    st.integers(0, 3).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
).map(lambda found: {0: (0, 0), **found})


@given(
    st.sampled_from(["even", "random", "bisection", "uncertainty"]),
    st.integers(1, 13),
    st.integers(0, 6),
    measurements,
)
def test_chosen_states_are_inside_the_path(how, length, count, measured):
    states = choose_states(
        how, length, count, {t: item for t, item in measured.items() if t <= length}, "key"
    )
    assert len(states) <= count
    assert list(states) == sorted(set(states))
    assert all(0 < t < length for t in states)


@given(st.integers(1, 13), st.integers(1, 6))
def test_without_outcomes_states_are_evenly_spaced(length, count):
    even = evenly_spaced_states(length, count)
    assert bisect(length, count, {0: (0, 0)}) == most_uncertain(length, count, {0: (0, 0)}) == even


def test_random_states_depend_on_their_key():
    draws = {random_states(30, 3, f"key {number}") for number in range(20)}
    assert len(draws) > 15
    assert random_states(30, 3, "key 1") in draws


# pairs


def test_harmful_segments_become_pairs():
    selection = select(STORE, "eef+dpo")
    first, second = selection.pairs
    assert (first.chosen.id, first.chosen.weights) == ("e@2:1@2", (0.0, 0.0, 1.0, 1.0))
    assert first.rejected.trajectory == "e"
    assert first.rejected.weights == (0.0,) * 2 + (1.0,) * 2 + (0.0,) * 8
    assert first.rejected.reasons[2:4] == ("harmful", "harmful")
    assert second.rejected.state == 8
    assert selection.counts == {**select(STORE).counts, "pairs": 2}


SMOOTHED = {"label_rule": "smoothed", "grid": "all"}


def test_a_state_that_only_its_neighbors_make_solvable_has_no_pair():
    """Five wins from the start make state 2, which is lost, solvable, and not state 4."""
    store = [
        expert(),
        *(rollout(f"s{number}", None, "win") for number in range(5)),
        *(rollout(f"r{t}", StateRef("e", t), "lose") for t in (2, 4)),
    ]
    selection = select(store, "eef+dpo", **SMOOTHED)
    assert (selection.counts["segments.harmful"], selection.pairs) == (1, ())


@given(worlds(), st.sampled_from([{}, SMOOTHED]))
def test_the_responses_of_a_pair_diverge_in_one_state(world, options):
    store = [*world.experts, *world.rollouts]
    try:
        selection = select(store, "eef+dpo", round=world.round, tasks=world.tasks, **options)
    except MethodError:
        return
    for pair in selection.pairs:
        chosen, rejected = (
            world.trajectories.path(response.trajectory)
            for response in (pair.chosen, pair.rejected)
        )
        at = pair.chosen.state
        assert pair.rejected.state == at
        assert [step.step for step in chosen[:at]] == [step.step for step in rejected[:at]]
        assert world.trajectories[pair.chosen.trajectory].success
        assert not world.trajectories[pair.rejected.trajectory].success
        assert any(pair.chosen.weights)
        assert any(pair.rejected.weights)
        assert not any(pair.chosen.weights[:at] + pair.rejected.weights[:at])
