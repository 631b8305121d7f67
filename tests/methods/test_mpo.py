"""The method `mpo`: plans are asked for, compared by what the agent does with them, and trained."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eef.errors import MethodError
from eef.methods.planning import PLAN, SUFFIX, check_plan
from eef.methods.registry import make_method
from eef.roles import task_question
from eef.selection import PlannedState
from eef.trajectory import TrajectorySet
from tests.fakes.grids import TASK, expert, rollout
from tests.fakes.notes import note, notes_in, states_in, stored

WON = expert("w", actions="abc", win=True)
OTHER = "toy/2"


def mpo(**options):
    return make_method("mpo", options)


def plan_notes(task, *texts):
    return [
        note("planner", task, text, number, round=2, task=task) for number, text in enumerate(texts)
    ]


def carried_out(task, text, *outcomes, round=2):
    suffix = SUFFIX.format(plan=text)
    return [
        replace(
            rollout(f"{task}:{text}:{number}:{round}", None, outcome, task=task, round=round),
            prompt_suffix=suffix,
        )
        for number, outcome in enumerate(outcomes)
    ]


def test_the_first_round_asks_the_writer_about_wins_and_trains_its_plans_as_the_planners():
    lost = expert("f", actions="ab", task=OTHER)
    (asked,) = mpo().plan(TrajectorySet([WON, lost]), [TASK, OTHER], 1)
    assert (asked.role, asked.about) == ("writer", "w")
    assert "Step 3\nObservation: o\nAgent: Action: c" in asked.question
    written = note("writer", "w", "Step 1: go", task=TASK, instruction="Open it.")
    selection = mpo().select(stored([WON], written), [TASK], 1)
    (text,) = selection.texts
    assert (text.role, text.text) == ("planner", "Step 1: go")
    assert text.question == task_question("Open it.", PLAN)
    assert (selection.examples, selection.text_pairs) == ((), ())
    assert selection.counts == {"examples": 0, "texts.planner": 1}


def test_a_round_without_a_usable_plan_of_the_writer_is_an_error():
    skipped = note("writer", "w", "", task=TASK, problem="empty")
    with pytest.raises(MethodError, match="no text to train its roles on"):
        mpo().select(stored([WON], skipped), [TASK], 1)


def test_plans_are_asked_for_before_they_are_played_and_each_is_played_equally_often():
    method = mpo(plans=3, rollouts_per_plan=4)
    first = method.plan(TrajectorySet([WON]), [TASK, OTHER], 2)
    assert [(each.role, each.about, each.count) for each in first] == [
        ("planner", TASK, 3),
        ("planner", OTHER, 3),
    ]
    notes = plan_notes(TASK, "Step 1: a", "Step 1: b", "Step 1: c")
    then = method.plan(stored([WON], *notes), [TASK], 2)
    assert notes_in(then) == first[:1]
    assert states_in(then) == [
        PlannedState(TASK, None, 4, SUFFIX.format(plan=each.text)) for each in notes
    ]
    assert states_in(method.plan(stored([WON], *notes), [TASK], 3)) == []  # of another round


def test_the_best_and_the_worst_plan_of_a_task_are_a_pair_and_equal_ones_are_none():
    good, bad, fair = "Step 1: good", "Step 1: bad", "Step 1: fair"
    trajectories = [
        WON,
        *carried_out(TASK, good, "win", "win", "error"),
        *carried_out(TASK, bad, "lose", "lose"),
        *carried_out(TASK, fair, "win", "lose"),
        *carried_out(TASK, bad, "win", "win", round=1),
        *carried_out(OTHER, good, "win", "lose"),
        *carried_out(OTHER, bad, "lose", "win"),
    ]
    notes = [*plan_notes(TASK, bad, good, fair), *plan_notes(OTHER, good, bad)]
    selection = mpo().select(stored(trajectories, *notes), [TASK, OTHER, "toy/3"], 2)
    (pair,) = selection.text_pairs
    assert (pair.chosen.text, pair.rejected.text) == (good, bad)
    assert pair.chosen.question == pair.rejected.question == "Q?"
    assert (selection.texts, selection.examples) == ((), ())
    assert selection.counts["plans.equal"] == 1
    assert selection.counts["plans.unplayed"] == 1
    assert selection.counts["text_pairs.planner"] == 1


def test_an_evaluation_asks_for_one_plan_per_task_and_plays_without_if_there_is_none():
    asked = mpo().plan_evaluation(TrajectorySet(), [TASK])
    assert [each.count for each in notes_in(asked)] == [1]
    (usable,) = plan_notes(TASK, "Step 1: a")
    (state,) = states_in(mpo().plan_evaluation(stored([], usable), [TASK]))
    assert state == PlannedState(TASK, None, 1, SUFFIX.format(plan="Step 1: a"))
    skipped = replace(usable, problem="empty")
    (state,) = states_in(mpo().plan_evaluation(stored([], skipped), [TASK]))
    assert state == PlannedState(TASK, None, 1)


def test_a_plan_has_a_first_step():
    check_plan("Plan:\n**Step 1:** go")
    with pytest.raises(ValueError, match="holds no line"):
        check_plan("First go, then take step 1 of the stairs.")
