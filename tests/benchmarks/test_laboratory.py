"""The laboratory: its world, its student, equal budgets, and the real methods on it."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.laboratory.student import Actions, Student, chance_at
from benchmarks.laboratory.survey import CARELESS, SHOP, measure, random_setting, survey
from benchmarks.laboratory.trial import METHODS, Explorer, Start, run_trial
from benchmarks.laboratory.world import (
    DETOUR,
    FATAL,
    Place,
    Setting,
    World,
    action_of,
    advance,
    play,
)
from eef.methods.registry import make_method
from eef.trajectory import StateRef, TrajectorySet

SMALL = Setting(tasks=12, length=4, slack=3, rare_skills=2, rate=0.05)

random_settings = st.integers(0, 10_000).map(lambda seed: random_setting(random.Random(seed)))


@settings(max_examples=25, deadline=None)
@given(random_settings, st.integers(0, 99))
def test_a_world_has_the_structure_of_its_setting(setting, seed):
    world = World.make(setting, seed)
    rare = world.contexts >= setting.common_skills
    needy = rare.any(axis=1)
    assert needy.sum() == round(setting.needs * setting.tasks)
    assert set(rare.sum(axis=1)) <= {0, setting.rare_per_task}
    assert not rare[:, -1].any(), "something always follows a rare decision"
    shared = np.bincount(
        world.contexts[rare] - setting.common_skills, minlength=setting.rare_skills
    )
    assert shared.max() - shared.min() <= 1
    assert (World.make(setting, seed).offsets == world.offsets).all()


@settings(max_examples=25, deadline=None)
@given(random_settings, st.integers(0, 99))
def test_an_episode_is_its_actions_replayed(setting, seed):
    world = World.make(setting, seed)
    for task in range(5):
        steps, won, ended = world.expert_episode(task)
        places = [Place()]
        for step in steps:
            at = DETOUR if places[-1].detour else places[-1].decision
            assert step.observation == str(at)
            places.append(advance(places[-1], action_of(step)))
        assert ended == (places[-1].decision == setting.length)
        assert len(steps) <= setting.step_limit
        assert ended or len(steps) == setting.step_limit
        assert won == (ended and all(action_of(step) != FATAL for step in steps))


def test_the_gradient_is_that_of_finite_differences():
    start = Start.make(SMALL, 1)
    generator = np.random.default_rng(0)
    actions = Actions(
        generator.integers(0, 12, 50),
        generator.integers(-1, 4, 50),
        generator.integers(0, 4, 50),
        generator.random(50),
    )
    logits = generator.normal(0, 1, start.student.logits.shape)
    gradient = Student(start.world, logits).gradient(actions)
    for index in np.ndindex(logits.shape):
        moved = [logits.copy(), logits.copy()]
        moved[0][index] += 1e-5
        moved[1][index] -= 1e-5
        one, other = (Student(start.world, each).loss(actions) for each in moved)
        assert gradient[index] == pytest.approx((one - other) / 2e-5, abs=1e-8)


def test_training_lowers_the_loss_and_nothing_to_train_on_changes_nothing():
    start = Start.make(SMALL, 1)
    example = Actions(np.array([0, 0]), np.array([0, DETOUR]), np.array([0, 0]), np.ones(2))
    trained = start.student.train([example], 0)
    assert trained.loss(example) < start.student.loss(example)
    assert (start.student.train([], 0).logits == start.student.logits).all()
    again = start.student.train([example], 0)
    assert (again.logits == trained.logits).all()


def test_chances_to_win_are_those_of_many_rollouts():
    start = Start.make(SMALL, 3)
    tables = start.student.tables()
    for task, place, left in ((0, Place(), 7), (1, Place(2), 3), (2, Place(1, True), 5)):
        generator = random.Random(task)
        rows = tables[task]
        wins = sum(
            play(lambda at, _, rows=rows: rows[at], place, left, 4, 1, generator)[1]
            for _ in range(4000)
        )
        exact = chance_at(start.student.win_chances(task), place, left)
        assert wins / 4000 == pytest.approx(exact, abs=4 * np.sqrt(0.25 / 4000))
    assert chance_at(start.student.win_chances(0), Place(2, False, True), 5) == 0.0


@pytest.mark.parametrize("name", [name for name in METHODS if name != "sft_all"])
def test_every_method_plays_the_same_number_of_rollouts(name):
    start = Start.make(SMALL, 0)
    outcome = run_trial(start, name, measure_labels=True)
    assert outcome.rollouts == SMALL.rounds * SMALL.rollouts * SMALL.tasks
    assert len(outcome.won) == 200
    false = {key: count for key, count in outcome.labels.items() if key.endswith(".false")}
    assert all(count <= outcome.labels[key.removesuffix(".false")] for key, count in false.items())


def test_equal_steps_are_equal_up_to_one_chunk():
    start = Start.make(SMALL, 0)
    budget = 300
    for name in ("rft6", "cap1", "eef"):
        steps = run_trial(start, name, steps_per_round=budget).steps
        assert SMALL.rounds * budget <= steps <= SMALL.rounds * (budget + 10 * SMALL.step_limit)


def test_without_states_eef_is_one_win_per_task():
    start = Start.make(replace(CARELESS, tasks=30), 5)
    plain = run_trial(start, "cap1")
    none = run_trial(start, "eef", options={"M": 0})
    assert (none.won == plain.won).all()
    assert (none.unsolved, none.steps) == (plain.unsolved, plain.steps)


def test_a_state_is_where_the_actions_before_it_lead():
    start = Start.make(SMALL, 2)
    trajectories = TrajectorySet(start.expert)
    explorer = Explorer(start.world, trajectories)
    explorer.explore(make_method("eef"), start.tasks, 1, start.student, None)
    branches = [item for item in trajectories if item.start]
    assert branches
    for item in branches:
        place = explorer.place(item.start)
        at = DETOUR if place.detour else place.decision
        assert not item.steps or item.steps[0].observation == str(at)
        assert item.length <= SMALL.step_limit
        assert not (item.success and place.doomed), "nothing wins after a fatal action"
    assert explorer.place(StateRef(branches[0].id, 0)) == Place()


def test_failures_pay_in_the_careless_regime_and_not_if_one_skill_decides_all():
    """The two ends of the maps, small enough for a test."""
    pays, not_pays = (
        survey([replace(setting, tasks=60)], range(6), ("cap1", "eef"))[0]
        for setting in (
            replace(CARELESS, rare=0.001),
            replace(SHOP, rare_skills=1, rare=0.05, expert_after=0.05, rate=0.05),
        )
    )

    def lead(row):
        one, other = row["win_rates"]["eef"], row["win_rates"]["cap1"]
        return sum(a - b for a, b in zip(one, other, strict=True)) / len(one)

    assert lead(pays) > 0.04 > 0.02 > lead(not_pays)
    assert pays["measured"]["opened"] > 10 > not_pays["measured"]["opened"]
    assert pays["unsolved"]["eef"] < pays["unsolved"]["cap1"] - 5


def test_what_is_known_of_the_world_agrees_with_what_a_user_can_measure():
    potential, known = measure(Start.make(CARELESS, 0))
    assert potential.tasks == CARELESS.tasks
    assert potential.hard == potential.taught + potential.lost
    assert potential.opened <= potential.lost
    assert known["known_taught"] + known["known_shown"] <= 0.6 * CARELESS.tasks
