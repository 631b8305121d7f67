"""EEF together with a judge, a planner and advisers."""

from __future__ import annotations

import pytest

from eef.errors import MethodError
from eef.methods.planning import SUFFIX
from eef.methods.registry import make_method
from eef.roles import ALONE
from eef.selection import PlannedState
from eef.trajectory import StateRef, TrajectorySet
from tests.fakes.grids import TASK, expert, played, rollout
from tests.fakes.notes import note, notes_in, states_in, stored

LOST = expert("e", actions="abcdefghijkl")
# M = 2: states 4 and 8; the student wins from the start of the task and from 8, not from 4
ROLLOUTS = played([4, 8], ["lose", "win"])
START = rollout("start", None, "win", actions="xyz")
OTHER = "toy/2"


def method(name, **options):
    return make_method(name, {"M": 2, **options})


def judged(*texts):
    return [note("judge", about, f"Critical steps: {text}", task=TASK) for about, text in texts]


def weights(selection):
    return {example.id: example.weights for example in selection.examples}


def test_the_judge_is_asked_about_solutions_once_the_round_is_played():
    judge = method("eef+judge", share=0.4)
    first = judge.plan(TrajectorySet([LOST]), [TASK], 1)
    assert (notes_in(first), states_in(first)) == (
        [],
        method("eef").plan(TrajectorySet([LOST]), [TASK], 1),
    )
    found = TrajectorySet([LOST, *ROLLOUTS, START])
    asked = notes_in(judge.plan(found, [TASK], 1))
    solved = [each.trajectory for each in method("eef").select(found, [TASK], 1).examples]
    assert [each.about for each in asked] == list(dict.fromkeys(solved)) == ["start", "e@8:1"]
    assert "Step 10\n" in asked[1].question  # the whole path: eight of the expert's, two own
    assert "Step 11\n" not in asked[1].question
    assert "Name at most 4." in asked[1].question
    fewer = notes_in(method("eef+judge", share=0.3).plan(found, [TASK], 1))
    assert [each.about for each in fewer] == ["e@8:1"]  # 0.3 of the three steps of `start` is none


def test_a_solution_is_not_judged_again_in_a_later_round():
    again = stored([LOST, *ROLLOUTS, START, *played([4], ["lose"], round=2)], *judged(("start", 1)))
    asked = notes_in(method("eef+judge").plan(again, [TASK], 2))
    assert "start" not in {each.about for each in asked}


def test_a_step_is_trained_if_eef_trains_it_and_the_judge_names_it():
    notes = judged(("start", "2"), ("e@8:1", "1, 9, 10"))
    found = stored([LOST, *ROLLOUTS, START], *notes)
    selection = method("eef+judge", share=0.4).select(found, [TASK], 1)
    plain = weights(method("eef").select(found, [TASK], 1))
    assert plain["e@8:1@4"] == (0,) * 4 + (1,) * 6
    assert weights(selection) == {
        "start@0": (0, 1, 0),
        "e@8:1@4": (0,) * 8 + (1, 1),  # step 1 lies before the recovery state
    }
    reasons = {example.id: example.reasons for example in selection.examples}
    assert reasons["start@0"] == ("not-critical", "student-win", "not-critical")
    assert selection.counts["states.recovery"] == 1
    assert selection.counts["judge.empty"] == 0


def test_solutions_without_a_usable_note_or_a_step_that_remains_are_dropped_and_counted():
    skipped = note("judge", "start", "…", task=TASK, problem="prose")
    found = stored([LOST, *ROLLOUTS, START], skipped, *judged(("e@8:1", "1")))
    with pytest.raises(MethodError, match="nothing to train on"):
        method("eef+judge").select(found, [TASK], 1)
    win = expert("w", actions="ab", win=True, task=OTHER)
    more = judged(("e@8:1", "1"), ("w", "2"))
    found = stored([LOST, *ROLLOUTS, START, win], skipped, *more)
    selection = method("eef+judge", share=0.5).select(found, [TASK, OTHER], 1)
    assert weights(selection) == {"w@0": (0, 1)}
    assert (selection.counts["judge.skipped"], selection.counts["judge.empty"]) == (1, 1)


def test_a_plan_is_asked_for_once_and_is_in_the_prompt_of_every_rollout_and_example():
    planner, plain = method("eef+planner"), method("eef")
    first = planner.plan(TrajectorySet([LOST]), [TASK], 1)
    assert [(each.role, each.about, each.count) for each in notes_in(first)] == [
        ("planner", TASK, 1)
    ]
    plan = note("planner", TASK, "Step 1: go", task=TASK)
    found = stored([LOST, *ROLLOUTS, START], plan)
    suffix = SUFFIX.format(plan="Step 1: go")
    for round in (1, 2):
        then = planner.plan(found, [TASK], round)
        assert len(notes_in(then)) == (round == 1)
        assert [each.prompt_suffix for each in states_in(then)] == [suffix] * 3
        assert [(each.state, each.count) for each in states_in(then)] == [
            (each.state, each.count) for each in plain.plan(found, [TASK], round)
        ]
    selection = planner.select(found, [TASK], 1)
    assert {example.prompt_suffix for example in selection.examples} == {suffix}
    assert weights(selection) == weights(plain.select(found, [TASK], 1))
    assert planner.roles["planner"].at_test
    assert planner.roles["planner"].trained is None
    assert states_in(planner.plan_evaluation(stored([], plan), [TASK, OTHER])) == [
        PlannedState(TASK, None, 1, suffix),
        PlannedState(OTHER, None, 1),
    ]


def test_without_a_usable_plan_the_student_explores_without_one():
    unusable = note("planner", TASK, "", task=TASK, problem="empty")
    found = stored([LOST], unusable)
    assert {
        each.prompt_suffix for each in states_in(method("eef+planner").plan(found, [TASK], 1))
    } == {""}
    assert notes_in(method("eef+planner").plan(found, [TASK], 2)) == []


def test_a_plan_that_is_used_while_exploring_alone_is_neither_trained_nor_asked_at_test_time():
    planner = method("eef+planner", used="exploring")
    plan = note("planner", TASK, "Step 1: go", task=TASK)
    found = stored([LOST, *ROLLOUTS, START], plan)
    assert all(each.prompt_suffix for each in states_in(planner.plan(found, [TASK], 1)))
    assert {each.prompt_suffix for each in planner.select(found, [TASK], 1).examples} == {""}
    assert not planner.roles["planner"].at_test
    assert planner.plan_evaluation(TrajectorySet(), [TASK]) == [PlannedState(TASK, None, 1)]


@pytest.mark.parametrize(
    ("adviser", "kind"),
    [("critic", "criticized"), ("reasoner", "advised"), ("value", "lookahead")],
)
def test_an_adviser_helps_inside_failures_alone_and_not_at_test_time(adviser, kind):
    helped = method("eef+adviser", adviser=adviser, candidates=2)
    acting = helped.acting(1, at_test=False)
    assert (acting.kind, acting.role, acting.candidates) == (kind, adviser, 2)
    assert not acting.from_start
    assert helped.acting(1, at_test=True) == ALONE
    assert {name: use.at_test for name, use in helped.roles.items()} == {adviser: False}
    found = TrajectorySet([LOST, *ROLLOUTS, START])
    assert helped.plan(found, [TASK], 1) == method("eef").plan(found, [TASK], 1)
    assert weights(helped.select(found, [TASK], 1)) == weights(
        method("eef").select(found, [TASK], 1)
    )
    assert StateRef("e", 4) in {each.state for each in helped.plan(found, [TASK], 1)}


@pytest.mark.parametrize(
    ("name", "role"), [("mpo", "planner"), ("epo", "reasoner"), ("stl", "value"), ("cgi", "critic")]
)
def test_a_role_that_is_not_trained_needs_no_other_and_trains_nothing(name, role):
    frozen = make_method(name, {"trained": False})
    assert {each: use.trained for each, use in frozen.roles.items() if each != "agent"} == {
        role: None
    }
    assert frozen.roles[role].at_test
    for round in (1, 2):
        assert notes_in(frozen.plan(TrajectorySet([LOST]), [TASK], round)) == []
    if name == "cgi":  # the student is trained under it from the first round on
        win = expert("w", win=True)
        assert frozen.acting(1, at_test=False).role == "critic"
        assert frozen.select(TrajectorySet([win]), [TASK], 1).examples
    else:
        assert frozen.plan(TrajectorySet([LOST]), [TASK], 1) == []
        selection = frozen.select(TrajectorySet([LOST, START]), [TASK], 1)
        assert (selection.examples, selection.texts, selection.text_pairs) == ((), (), ())
