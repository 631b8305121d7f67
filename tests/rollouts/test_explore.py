"""Explore: plans become launches; killed anywhere and resumed, it leaves what an unbroken one leaves."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eef.envs.toy import ToyEnv
from eef.errors import EnvError, ModelError
from eef.policy import GREEDY, ScriptedPolicy
from eef.rollouts.explore import explore, launches
from eef.rollouts.runner import derive_seed
from eef.rollouts.store import Store, read_trajectories
from eef.selection import PlannedState
from eef.trajectory import Author, StateRef
from tests.fakes.toy_rollouts import STUDENT, WithoutSnapshot, expert_trajectories

EXPERTS = expert_trajectories(4)
TASKS = {task.id: task for task in ToyEnv().tasks("train")}
PLAN = [
    *(PlannedState(each.task, None, 1) for each in EXPERTS),
    *(PlannedState(each.task, StateRef(each.id, t), 2) for each in EXPERTS for t in (2, 4)),
]
LAUNCHES = launches(PLAN, TASKS, round=1, seed=3)


class Swayed(ScriptedPolicy):
    """A policy whose completions depend on the batch they are computed in, as those of a model on a GPU."""

    batch_invariant = False

    def act(self, conversations, seeds, sampling):
        return super().act(conversations, [seed + len(seeds) for seed in seeds], sampling)


class Unsteady(WithoutSnapshot):
    """Breaks whenever the white key is to be taken."""

    def step(self, action):
        if action == "take white":
            raise OSError("dropped")
        return super().step(action)


def as_the_student(conversation, seed):
    return STUDENT.act([conversation], [seed], GREEDY)[0].text


SWAYED = Swayed(Author("student", "swayed"), as_the_student)


class Killed(Exception):
    pass


def explored(directory, *, policy=STUDENT, env=None, plan=LAUNCHES, batch_size=5, progress=None):
    with Store.open(directory) as store:
        for expert in EXPERTS:
            if expert.id not in store.trajectories:
                store.append(expert)
        return explore(
            plan,
            store,
            env or WithoutSnapshot(),
            policy,
            sampling=GREEDY,
            step_limit=10,
            batch_size=batch_size,
            progress=progress,
        )


def contents(directory, **usage):
    """What the store holds, in its order, without the seconds."""
    held = read_trajectories(directory)
    return [replace(each, usage=replace(each.usage, seconds=0.0, **usage)) for each in held]


def killer(after):
    left = [after]

    def progress(trajectory):
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    return progress


def test_launches_are_named_and_seeded_by_round_and_state():
    plan = [PlannedState("toy/43", StateRef("e", 4), 2), PlannedState("toy/43", None, 1)]
    plan.append(PlannedState("toy/43", StateRef("e", 4), 1))
    made = launches(plan, TASKS, round=2, seed=9)
    assert [each.id for each in made] == [
        "round2/e@4#0",
        "round2/e@4#1",
        "round2/toy/43@0#0",
        "round2/e@4#2",
    ]
    assert [each.state for each in made] == [
        StateRef("e", 4),
        StateRef("e", 4),
        None,
        StateRef("e", 4),
    ]
    assert made[1].seed == derive_seed(9, "round2/e@4#1")
    assert {each.round for each in made} == {2}
    assert made[0].task is TASKS["toy/43"]
    # the same state has the same launches in whatever plan it stands
    assert launches(plan[:1], TASKS, round=2, seed=9) == made[:2]
    with pytest.raises(EnvError, match="no task 'toy/1'"):
        launches([PlannedState("toy/1", None, 1)], TASKS, round=1, seed=0)


def test_an_exploration_is_stored_and_counted(tmp_path):
    done = explored(tmp_path, env=ToyEnv())
    assert (done.played, done.skipped, done.errors, done.replay_mismatches) == (
        len(LAUNCHES),
        0,
        0,
        0,
    )
    assert done.seconds > 0
    held = read_trajectories(tmp_path)
    assert {each.id for each in held} == {each.id for each in LAUNCHES} | {
        each.id for each in EXPERTS
    }


@pytest.mark.parametrize("batch_invariant", [True, False])
def test_what_is_complete_is_not_played_again(tmp_path, batch_invariant):
    def refuse(conversation, seed):
        raise ModelError("asked again")

    explored(tmp_path)
    finished = ScriptedPolicy(STUDENT.name, refuse)
    finished.batch_invariant = batch_invariant
    again = explored(tmp_path, policy=finished)
    assert (again.played, again.skipped, again.errors) == (0, len(LAUNCHES), 0)


@settings(max_examples=25)
@given(
    kills=st.lists(st.integers(0, 9), max_size=4),
    policy=st.sampled_from([STUDENT, SWAYED]),
    env=st.sampled_from([WithoutSnapshot, ToyEnv, Unsteady]),
    batch_size=st.integers(1, 7),
)
def test_killed_and_resumed_equals_unbroken(kills, policy, env, batch_size):
    with tempfile.TemporaryDirectory() as unbroken, tempfile.TemporaryDirectory() as resumed:
        options = {"policy": policy, "batch_size": batch_size}
        whole = explored(Path(unbroken), env=env(), **options)
        for after in kills:
            try:
                explored(Path(resumed), env=env(), progress=killer(after), **options)
            except Killed:
                continue
        last = explored(Path(resumed), env=env(), **options)
        # which visit of a state found a snapshot depends on where it was killed; nothing else does
        usage = {"replayed_steps": 0} if env is ToyEnv else {}
        assert contents(Path(resumed), **usage) == contents(Path(unbroken), **usage)
        assert (last.errors, last.replay_mismatches) == (whole.errors, whole.replay_mismatches)


def test_the_batch_matters_to_the_swayed_policy(tmp_path):
    explored(tmp_path / "a", policy=SWAYED, batch_size=2)
    explored(tmp_path / "b", policy=SWAYED, batch_size=3)
    assert sorted(map(repr, contents(tmp_path / "a"))) != sorted(
        map(repr, contents(tmp_path / "b"))
    )


def test_an_interruption_leaves_what_was_finished(tmp_path):
    turns = []

    def script(conversation, seed):
        turns.append(seed)
        if len(turns) == 40:
            raise KeyboardInterrupt
        return as_the_student(conversation, seed)

    with pytest.raises(KeyboardInterrupt):
        explored(tmp_path, policy=ScriptedPolicy(STUDENT.name, script))
    finished = contents(tmp_path)
    assert len(EXPERTS) < len(finished) < len(EXPERTS) + len(LAUNCHES)
    explored(tmp_path)
    assert contents(tmp_path)[: len(finished)] == finished
    explored(tmp_path / "unbroken")
    assert contents(tmp_path) == contents(tmp_path / "unbroken")


def test_what_broke_is_tried_once_more_with_another_seed(tmp_path):
    done = explored(tmp_path, env=Unsteady())
    held = read_trajectories(tmp_path)
    broken = [each.id for each in LAUNCHES if held[each.id].status == "error"]
    assert broken
    seconds = [held[f"{name}~1"] for name in broken]
    assert len(held) == len(EXPERTS) + len(LAUNCHES) + len(seconds)
    assert done.played == len(LAUNCHES) + len(seconds)
    assert done.errors == sum(each.status == "error" for each in seconds) < len(seconds)
    for name, second in zip(broken, seconds, strict=True):
        assert (second.start, second.task, second.round) == (held[name].start, held[name].task, 1)
        assert second.seed != held[name].seed


def test_a_state_that_does_not_come_back_is_counted_and_not_tried_again(tmp_path):
    class Renamed(ToyEnv):
        def step(self, action):
            result = super().step(action)
            return replace(result, observation=result.observation.replace("Room", "Hall"))

    done = explored(tmp_path, env=Renamed())
    held = read_trajectories(tmp_path)
    starts = [each for each in PLAN if each.state is not None]
    assert done.replay_mismatches == len(starts)
    assert done.errors == 0
    assert not [each.id for each in held if each.id.endswith("~1")]
    assert sum(each.status == "error" for each in held) == 2 * len(starts)
