"""The method `atlas` with a judge, and its controls."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eef.errors import MethodError
from eef.methods.registry import make_method
from eef.roles import read_step_numbers
from eef.trajectory import TrajectorySet
from tests.fakes.grids import TASK, expert
from tests.fakes.notes import note, notes_in, states_in, stored

WON = expert("w", actions="abcdefghij", win=True)


def atlas(**options):
    return make_method("atlas", options)


def weights(store, round=1, **options):
    (example,) = atlas(**options).select(store, [TASK], round).examples
    assert len(example.weights) == WON.length
    return example.weights


def judged(text):
    return stored([WON], note("judge", "w", text, task=TASK))


def test_the_judge_is_asked_once_about_each_win_and_nothing_is_played():
    lost = expert("f", actions="abc")
    method = atlas(selector="judge")
    plan = method.plan(TrajectorySet([WON, lost]), [TASK], 1)
    (asked,) = notes_in(plan)
    assert (asked.role, asked.about, asked.task, asked.count) == ("judge", "w", TASK, 1)
    assert "Step 10\nObservation: o\nAgent: Action: j" in asked.question
    assert "Name at most 3." in asked.question
    assert states_in(plan) == []
    assert method.plan(judged("Critical steps: 1"), [TASK], 1) == plan  # of the same round
    assert method.plan(judged("Critical steps: 1"), [TASK], 2) == []


def test_the_judge_is_not_asked_about_wins_too_short_for_its_share():
    short = expert("short", actions="abc", win=True, task="toy/2")
    method = atlas(selector="judge")
    assert notes_in(method.plan(TrajectorySet([short]), ["toy/2"], 1)) == []
    found = stored([WON, short], note("judge", "w", "Critical steps: 1", task=TASK))
    selection = method.select(found, [TASK, "toy/2"], 1)
    assert [each.trajectory for each in selection.examples] == ["w"]
    assert selection.counts["judge.empty"] == 1
    assert "judge.skipped" not in selection.counts


def test_only_measured_values_need_an_environment_that_can_be_replayed():
    assert atlas(selector="value").branches
    assert not any(atlas(selector=name).branches for name in ("judge", "random", "rest"))


def test_the_steps_that_the_judge_names_are_trained_and_the_whole_path_is_context():
    store = judged("It plans.\n**Critical steps:** 2, 9")
    assert weights(store, selector="judge") == (0, 1, 0, 0, 0, 0, 0, 0, 1, 0)


def test_rest_is_the_exact_complement():
    store = judged("Critical steps: 2, 9, 3, 5")
    chosen, rest = (weights(store, selector=name) for name in ("judge", "rest"))
    assert [a + b for a, b in zip(chosen, rest, strict=True)] == [1.0] * WON.length


def test_steps_beyond_the_share_are_dropped_and_counted():
    store = judged("Critical steps: 9, 2, 3, 5, 7")
    selection = atlas(selector="judge").select(store, [TASK], 1)
    assert selection.counts["judge.beyond_share"] == 2
    assert [t for t, weight in enumerate(selection.examples[0].weights) if weight] == [1, 2, 8]


def test_a_win_without_a_usable_note_is_skipped_and_counted():
    other = expert("v", actions="abcdefghij", win=True, task="toy/2")
    unusable = note("judge", "v", "prose", task="toy/2", problem="it holds no line")
    store = stored([WON, other], note("judge", "w", "Critical steps: 1", task=TASK), unusable)
    selection = atlas(selector="judge").select(store, [TASK, "toy/2"], 1)
    assert [example.trajectory for example in selection.examples] == ["w"]
    assert selection.counts["judge.skipped"] == 1
    with pytest.raises(MethodError, match="nothing to train on"):
        atlas(selector="judge").select(stored([other], unusable), ["toy/2"], 1)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("The second step matters most.", "holds no line"),
        ("Critical steps: the second", "names no step"),
        ("Critical steps: 2, 11", "names step 11 of 10"),
        ("Critical steps: 0", "names step 0 of 10"),
        ("Critical steps: 2, 3 of 5", "in another form"),
        ("Critical steps: 8-12", "names step 11 of 10"),
    ],
)
def test_the_check_of_the_judges_note_refuses_what_cannot_be_used(text, problem):
    (asked,) = notes_in(atlas(selector="judge").plan(TrajectorySet([WON]), [TASK], 1))
    with pytest.raises(ValueError, match=problem):
        asked.check(text)
    assert asked.check("Critical steps: none") == []


@given(st.integers(0, 9), st.floats(0.01, 1))
def test_a_random_selection_depends_on_the_seed_and_the_trajectory_alone(seed, share):
    options = {"selector": "random", "seed": seed, "share": share}
    store = TrajectorySet([WON, expert("other", actions="kl", win=True, task="toy/2")])
    try:
        chosen = weights(TrajectorySet([WON]), **options)
    except MethodError:  # the share of ten steps is less than one
        assert share < 0.1
        return
    assert sum(chosen) <= share * WON.length + 1e-9
    assert sum(chosen) > share * WON.length - 1
    again = {each.trajectory: each for each in _select(store, options)}
    assert again["w"].weights == chosen
    assert atlas(**options).plan(store, [TASK], 1) == []
    assert atlas(**options).roles == {}


def _select(store, options):
    return atlas(**options).select(store, [TASK, "toy/2"], 2).examples


def test_numbers_of_steps_are_read_in_their_order_and_once():
    assert read_step_numbers("Critical steps: 1\nno:\ncritical steps: 3, 1, 3", 3) == [2, 0]
    for text in ("2-4, 6", "2–4 and 6", "[2, 3, 4, 6]", "step 2 to 4; #6.", "2-4 (of 9), and 6"):
        assert read_step_numbers(f"Critical steps: {text}", 9) == [1, 2, 3, 5]
