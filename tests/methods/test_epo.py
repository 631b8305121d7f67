"""The method `epo`: returns by hand, and what of a rollout is trained."""

from __future__ import annotations

from dataclasses import replace

import pytest

from eef.methods.registry import make_method
from eef.note import Advice
from eef.roles import ADVISE
from eef.trajectory import TrajectorySet
from tests.fakes.grids import TASK, rollout
from tests.fakes.notes import note, notes_in, states_in, stored


def epo(**options):
    return make_method("epo", options)


def advised(name="r", outcome="win", actions="abcd", **options):
    item = rollout(name, None, outcome, actions=actions, **options)
    steps = [
        replace(step, advice=(Advice(role="reasoner", text=f"Aim {number}."),))
        for number, step in enumerate(item.steps)
    ]
    return replace(item, steps=tuple(steps))


def weights(item, judged, **options):
    selection = epo(**options).select(
        stored([item], note("judge", item.id, judged, task=TASK)), [TASK], 1
    )
    return {int(text.id.rpartition("@")[2]): text.weight for text in selection.texts}


def test_rollouts_are_played_before_the_judge_is_asked_about_them():
    method = epo(k=2)
    plan = method.plan(TrajectorySet(), [TASK], 1)
    assert (notes_in(plan), [state.count for state in states_in(plan)]) == ([], [2])
    failed = rollout("x", None, "error")
    before = replace(advised("old"), round=1)
    store = TrajectorySet([advised(round=2), failed, before])
    again = method.plan(store, [TASK], 2)
    (asked,) = notes_in(again)
    assert (asked.role, asked.about) == ("judge", "r")
    assert "Step 4\nObservation: o\nAdvice: Aim 3.\nAgent: Action: d" in asked.question
    with pytest.raises(ValueError, match="names step 5 of 4"):
        asked.check("Critical steps: 5")


def test_returns_by_hand():
    # rewards 0, 1, 0, 1: returns 0.5 + 0.125, 1 + 0.25, 0.5, 1, divided by 1.25
    assert weights(advised(), "Critical steps: 2", discount=0.5) == {
        0: 0.5,
        1: 1.0,
        2: 0.4,
        3: 0.8,
    }
    # a lost rollout: rewards 1, 0, 0, 0; turns of return 0 are not trained
    lost = advised(outcome="lose")
    assert weights(lost, "Critical steps: 1", discount=0.5) == {0: 1.0}


def test_a_judge_that_names_none_leaves_the_discounted_outcome():
    expected = {t: pytest.approx(0.99 ** (3 - t)) for t in range(4)}
    assert weights(advised(), "Critical steps: none") == expected
    assert weights(advised(outcome="lose"), "Critical steps: none") == {}


def test_a_skipped_note_counts_and_leaves_the_outcome():
    skipped = note("judge", "r", "prose", task=TASK, problem="it holds no line")
    selection = epo().select(stored([advised()], skipped), [TASK], 1)
    assert selection.counts == {"examples": 0, "judge.skipped": 1, "texts.reasoner": 4}


def test_the_reasoner_alone_is_trained_and_never_on_what_the_actor_wrote():
    selection = epo().select(stored([advised()]), [TASK], 1)
    assert (selection.examples, selection.acts, selection.text_pairs) == ((), (), ())
    last = selection.texts[-1]
    assert (last.role, last.text) == ("reasoner", "Aim 3.")
    assert last.question.endswith(ADVISE)
    assert last.question.count("Advice: ") == 3  # that of earlier turns
    assert not any("Action" in text.text for text in selection.texts)


def test_a_turn_without_advice_is_not_trained():
    item = advised()
    bare = replace(item, steps=(replace(item.steps[0], advice=()), *item.steps[1:]))
    assert set(weights(bare, "Critical steps: 1")) == {1, 2, 3}
