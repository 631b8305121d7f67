"""Evenly spaced states, the outcome grid, segments and recovery states."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eef.methods.labels import evenly_spaced_states, measure_grid, smoothed_rates
from eef.trajectory import StateRef, TrajectorySet
from tests.fakes.grids import expert, played, rollout

STATES = (2, 4, 6, 8, 10)
WORKED = ("lose", "win", "lose", "win", "win", "lose")


def grid_of(*trajectories, states=STATES, rounds=(1,), rule="any"):
    first = expert()
    return measure_grid(
        TrajectorySet([first, *trajectories]), first, states, rounds=rounds, rule=rule
    )


@given(st.integers(0, 60), st.integers(0, 12))
def test_states_are_evenly_spaced_inside_the_path(length, count):
    states = evenly_spaced_states(length, count)
    stride = max(1, length // (count + 1))
    assert all(0 < t < length for t in states)
    assert len(states) <= count
    assert list(states) == [t for t in range(stride, stride * count + 1, stride) if t < length]
    assert len(states) == count or length <= count


def test_the_worked_example():
    grid = grid_of(*played((0, *STATES), WORKED))
    assert grid.states == (0, 2, 4, 6, 8, 10)
    assert grid.solvable == (False, True, False, True, True, False)
    assert [(segment.start, segment.end, segment.label) for segment in grid.segments()] == [
        (0, 2, "beneficial"),
        (2, 4, "harmful"),
        (4, 6, "beneficial"),
        (6, 8, "neutral"),
        (8, 10, "harmful"),
    ]
    assert grid.recovery_states() == (4, 10)


def test_a_step_belongs_to_the_segment_around_it():
    grid = grid_of(*played((0, *STATES), WORKED))
    assert [grid.segment_at(t).label for t in (0, 1, 2, 3)] == ["beneficial"] * 2 + ["harmful"] * 2
    assert grid.segment_at(10) is None
    assert grid.labels() == {t: grid.segment_at(t).label for t in range(10)}


@pytest.mark.parametrize("unknown", ["error", "-"])
def test_a_state_without_a_rollout_that_ended_is_unknown(unknown):
    grid = grid_of(*played((0, *STATES), ("win", unknown, "lose", "lose", "win", unknown)))
    assert grid.solvable == (True, None, False, False, True, None)
    assert [segment.label for segment in grid.segments()] == [
        "unknown",
        "unknown",
        "neutral",
        "beneficial",
        "unknown",
    ]
    assert grid.recovery_states() == ()


def test_rollouts_from_the_start_count_for_every_expert_of_the_task():
    experts = [expert("e"), expert("f", by="weak")]
    other = rollout("elsewhere", None, "win", task="toy/2")
    store = TrajectorySet([*experts, rollout("r", None, "win"), other])
    for item in experts:
        assert measure_grid(store, item, STATES, rounds=(1,), rule="any").rollouts[0] == ("r",)


def test_the_experts_own_episode_is_not_a_rollout():
    assert grid_of(rounds=range(2)).rollouts[0] == ()


def test_rounds_are_kept_apart():
    first, second = played((0, 2), ("win", "lose")), played((0, 2), ("lose", "lose"), round=2)
    assert grid_of(*first, *second, states=(2,), rounds=(1,)).solvable == (True, False)
    assert grid_of(*first, *second, states=(2,), rounds=(2,)).solvable == (False, False)
    assert grid_of(*first, *second, states=(2,), rounds=range(3)).wins == (1, 0)


@given(st.lists(st.sampled_from(["win", "lose", "error"]), max_size=7))
def test_the_label_rules(outcomes):
    rollouts = [
        rollout(f"r{number}", StateRef("e", 2), outcome) for number, outcome in enumerate(outcomes)
    ]
    ended = [outcome for outcome in outcomes if outcome != "error"]
    wins = ended.count("win")
    by_any, by_majority = (
        grid_of(*rollouts, states=(2,), rule=rule).solvable[1] for rule in ("any", "majority")
    )
    assert by_any == (wins > 0 if ended else None)
    assert by_majority == (wins / len(ended) >= 0.5 if ended else None)


def test_the_worked_example_of_smoothing():
    rollouts = played((0, 2, 4), ("lose", "win", "lose"))
    rates = smoothed_rates([[item] for item in rollouts])
    assert rates == pytest.approx([1 / 2.75, 0.5, 1 / 2.75])
    assert grid_of(*rollouts, states=(2, 4), rule="smoothed").solvable == (False, True, False)


def test_one_lucky_win_among_losses_is_smoothed_away():
    outcomes = ("lose", "lose", "win", "lose", "lose", "lose")
    rollouts = played((0, *STATES), outcomes)
    more = [rollout("again", StateRef("e", 4), "lose")]
    grid = grid_of(*rollouts, *more, rule="smoothed")
    assert grid.solvable == (False,) * 6
    assert {segment.label for segment in grid.segments()} == {"neutral"}
    assert grid_of(*rollouts, *more).solvable[2]


def test_earlier_rounds_weigh_less():
    won, lost = rollout("r1", None, "win", round=1), rollout("r2", None, "lose", round=2)
    assert smoothed_rates([[won, lost]]) == pytest.approx([(0.5 + 0.5) / (1 + 1.5)])
    assert smoothed_rates([[won]]) == pytest.approx([0.75]), "age counts from the latest round"


def test_a_state_without_a_rollout_stays_unknown_when_smoothed():
    grid = grid_of(*played((0, *STATES), ("win", "-", "win", "win", "win", "win")), rule="smoothed")
    assert grid.solvable == (True, None, True, True, True, True)


@given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_equal_outcomes_are_their_own_smoothing(won):
    states = range(0, 2 * len(won), 2)
    same = played(states, ("win" if won[0] else "lose",) * len(won))
    assert {rate >= 0.5 for rate in smoothed_rates([[item] for item in same])} == {won[0]}
    mixed = played(states, tuple("win" if each else "lose" for each in won))
    rates = smoothed_rates([[item] for item in mixed])
    assert all(0 < rate < 1 for rate in rates)


def test_the_advantage_of_a_segment_is_the_rise_of_the_win_rate():
    rollouts = [
        *(
            rollout(f"a{n}", None, outcome)
            for n, outcome in enumerate(["win", "lose", "lose", "lose"])
        ),
        *(
            rollout(f"b{n}", StateRef("e", 2), outcome)
            for n, outcome in enumerate(["win"] * 3 + ["lose"])
        ),
    ]
    (segment,) = grid_of(*rollouts, states=(2,), rule="majority").segments()
    assert (segment.label, segment.advantage) == ("beneficial", 0.5)


def test_the_evidence_of_a_solution_starts_one_state_before_it():
    grid = grid_of(*played((0, *STATES), WORKED))
    assert grid.rollouts_between(4, 6) == ("e@2:1", "e@4:1", "e@6:1")
    assert grid.rollouts_between(0, 2) == ("e@0:1", "e@2:1")
