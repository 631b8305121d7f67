"""The method `cgi`: who criticizes when, and what is trained of a won rollout."""

from __future__ import annotations

from dataclasses import replace

from eef.methods.registry import make_method
from eef.note import Advice
from eef.rendering import weighted_conversation
from eef.roles import CRITICIZE
from eef.trajectory import TrajectorySet
from tests.fakes.grids import TASK, expert, rollout

GOLD = expert("gold", actions="xyz", win=True)


def cgi(**options):
    return make_method("cgi", options)


def criticized(name, outcome, role="critic", round=2):
    item = rollout(name, None, outcome, actions="abc", round=round)
    steps = [
        replace(
            step,
            advice=tuple(
                Advice(role=role, text=f"Critique {t}{number}.", candidate=f"Action: c{t}{number}")
                for number in range(2)
            ),
        )
        for t, step in enumerate(item.steps)
    ]
    return replace(item, steps=tuple(steps))


def test_the_teacher_criticizes_first_then_the_critic_and_always_at_test_time():
    method = cgi(teacher_rounds=2, candidates=3)
    names = [method.acting(round, at_test=False).role for round in (1, 2, 3)]
    assert names == ["teacher", "teacher", "critic"]
    assert {method.acting(round, at_test=True).role for round in (1, 2, 3)} == {"critic"}
    assert method.acting(1, at_test=False).candidates == 3
    assert method.roles["critic"].trained == "base"


def test_the_critic_imitates_the_critiques_of_won_rollouts_and_never_sees_the_gold_path():
    won, lost = (criticized(name, name, role="teacher", round=1) for name in ("win", "lose"))
    selection = cgi().select(TrajectorySet([GOLD, won, lost]), [TASK], 1)
    assert selection.examples == ()
    assert {text.evidence for text in selection.texts} == {("win",)}
    assert len(selection.texts) == 6
    third = selection.texts[2]
    assert (third.role, third.text) == ("critic", "Critique 10.")
    assert "The agent proposes:\nAction: c10" in third.question
    assert third.question.endswith(CRITICIZE)
    for text in selection.texts:
        assert not any(f"Action: {action}" in text.question for action in "xyz")
        assert "Critique" not in text.question


def test_without_a_won_rollout_there_is_nothing_to_teach():
    lost = criticized("lose", "lose", role="teacher", round=1)
    selection = cgi().select(TrajectorySet([lost]), [TASK], 1)
    assert (selection.examples, selection.texts) == ((), ())
    assert selection.counts == {"examples": 0}


def test_the_student_imitates_wins_as_paths_and_turn_by_turn_with_their_critiques():
    won, lost = criticized("win", "win"), criticized("lose", "lose")
    earlier = criticized("early", "win", round=1)
    store = TrajectorySet([GOLD, won, lost, earlier])
    selection = cgi().select(store, [TASK], 2)
    assert selection.texts == ()
    paths = [each for each in selection.examples if each.advice == "none"]
    assert [each.trajectory for each in paths] == ["gold", "win"]
    refined = [each for each in selection.examples if each.advice == "last"]
    assert [(each.trajectory, each.weights) for each in refined] == [
        ("win", (1.0, 0.0, 0.0)),
        ("win", (0.0, 1.0, 0.0)),
        ("win", (0.0, 0.0, 1.0)),
    ]
    assert selection.counts["examples.refined"] == 3


def test_an_example_of_a_turn_holds_exactly_its_own_critiques():
    store = TrajectorySet([criticized("win", "win")])
    for example in cgi().select(store, [TASK], 2).examples:
        conversation, weights = weighted_conversation(example, store, "Walk.")
        shown = [each["content"] for each in conversation if "Critique" in each["content"]]
        if example.advice == "none":
            assert shown == []
        else:
            t = len(weights) - 1
            assert len(shown) == 1
            assert [f"Critique {t}{number}." in shown[0] for number in range(2)] == [True, True]
            assert conversation[-2]["content"] == shown[0]


def test_a_turn_without_critiques_is_not_refined():
    won = criticized("win", "win")
    bare = replace(won, steps=tuple(replace(step, advice=()) for step in won.steps))
    assert [each.advice for each in cgi().select(TrajectorySet([bare]), [TASK], 2).examples] == [
        "none"
    ]
