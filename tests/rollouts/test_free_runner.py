"""FreeRunner: plays what the lockstep runner plays, in any order, bounded, resumable."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from itertools import pairwise
from time import perf_counter

import pytest

from eef.envs.toy import ToyEnv
from eef.errors import ModelError
from eef.policy import Completion, ScriptedPolicy
from eef.rollouts.free_runner import FreeRunner, in_session_order, session_of
from eef.rollouts.into_store import play_into_store
from eef.rollouts.specs import RolloutSpec, rollout_specs
from eef.rollouts.store import Store, read_trajectories
from eef.selection import PlannedState
from eef.trajectory import StateRef, TrajectorySet
from tests.fakes.toy_rollouts import (
    STUDENT,
    WithoutSnapshot,
    expert_trajectories,
    parameters,
    run,
    specs_from_start,
)

EXPERTS = expert_trajectories(4)
TASKS = {task.id: task for task in ToyEnv().tasks("train")}
PLAN = [
    *(PlannedState(each.task, None, 1) for each in EXPERTS),
    *(PlannedState(each.task, StateRef(each.id, t), 2) for each in EXPERTS for t in (3, 1)),
]
SPECS = rollout_specs(PLAN, TASKS, owner="eef", round=1, seed=3)


class Served(ScriptedPolicy):
    """A student that answers after a while, in any order."""

    def __init__(self, fails=lambda conversation, seed: None):
        self.author, self.fails = STUDENT.author, fails
        self.active = self.most = self.asked = 0
        self.sessions, self.chance, self.disconnected = [], random.Random(0), 0

    async def complete(self, conversation, seed, sampling, session):
        self.asked += 1
        self.sessions.append(session)
        self.active += 1
        self.most = max(self.most, self.active)
        await asyncio.sleep(self.chance.random() / 1000)
        self.active -= 1
        self.fails(conversation, seed)
        (completion,) = STUDENT.act([conversation], [seed], sampling)
        return replace(completion, generated_tokens=2)

    async def disconnect(self):
        self.disconnected += 1


def timeless(trajectories):
    return {
        each.id: replace(each, usage=replace(each.usage, seconds=0, generated_tokens=0))
        for each in trajectories
    }


def play_freely(specs, *, env=None, policy=None, in_flight=5):
    chosen = parameters(in_flight=in_flight)
    with FreeRunner(env or ToyEnv(), policy or Served(), TrajectorySet(EXPERTS), chosen) as runner:
        return list(runner.play(specs))


@pytest.mark.parametrize("in_flight", [1, 3, 64])
@pytest.mark.parametrize("env", [ToyEnv, WithoutSnapshot])
def test_it_plays_what_the_lockstep_runner_plays(in_flight, env):
    policy = Served()
    played = play_freely(SPECS, env=env(), policy=policy, in_flight=in_flight)
    expected = timeless(run(SPECS, env(), trajectories=EXPERTS))
    found = timeless(played)
    if env is ToyEnv:  # which rollout of a state replays it, and which restores it, may differ
        expected, found = (
            {
                name: replace(each, usage=replace(each.usage, replayed_steps=0))
                for name, each in items.items()
            }
            for items in (expected, found)
        )
    assert found == expected
    assert policy.most == min(in_flight, len(SPECS))
    assert sum(each.usage.seconds for each in played) > 0


class Concurrent(ToyEnv):
    concurrent = True


def test_a_concurrent_environment_is_stepped_in_threads():
    assert timeless(play_freely(SPECS, env=Concurrent())).keys() == {each.id for each in SPECS}


def test_the_seconds_of_rollouts_add_up_to_the_time_taken():
    started = perf_counter()
    played = play_freely(SPECS)
    assert sum(each.usage.seconds for each in played) <= perf_counter() - started


def test_states_of_one_episode_are_launched_together_shorter_prefixes_first():
    trajectories = TrajectorySet(EXPERTS)
    mixed = [SPECS[index] for index in random.Random(1).sample(range(len(SPECS)), len(SPECS))]
    ordered = in_session_order(mixed, trajectories)
    assert sorted(each.id for each in ordered) == sorted(each.id for each in SPECS)
    sessions = [session_of(each, trajectories) for each in ordered]
    assert len([1 for a, b in pairwise(sessions) if a != b]) == (len(set(sessions)) - 1)
    for session in set(sessions):
        prefixes = [
            spec.state.t if spec.state else 0
            for spec in ordered
            if session_of(spec, trajectories) == session
        ]
        assert prefixes == sorted(prefixes)


def test_a_branch_of_a_branch_belongs_to_the_session_of_the_expert():
    branch = replace(EXPERTS[0], id="b", start=StateRef(EXPERTS[0].id, 1), author=STUDENT.author)
    trajectories = TrajectorySet([*EXPERTS, branch])
    spec = RolloutSpec("x", TASKS[branch.task], StateRef("b", 2), 0, 1)
    assert session_of(spec, trajectories) == EXPERTS[0].id
    assert session_of(replace(spec, state=None), trajectories) == branch.task


def test_a_request_that_raises_fails_its_rollout_alone():
    def fails(conversation, seed):
        if len(conversation) == 4 and seed % 3 == 0:
            raise ZeroDivisionError

    played = play_freely(SPECS, policy=Served(fails))
    errors = [each.error for each in played if each.status == "error"]
    assert 0 < len(errors) < len(SPECS)
    assert set(errors) == {"policy: ZeroDivisionError"}


@pytest.mark.parametrize("error", [ModelError("no server"), KeyboardInterrupt()])
def test_an_error_of_this_package_ends_everything_and_what_ended_before_is_kept(tmp_path, error):
    asked = 0

    def fails(conversation, seed):
        nonlocal asked
        asked += 1
        if asked == 30:
            raise error

    with Store.open(tmp_path, base=EXPERTS) as store, pytest.raises(type(error)):
        play_into_store(SPECS, store, ToyEnv(), Served(fails), parameters(in_flight=3))
    kept = {each.id for each in read_trajectories(tmp_path, base=EXPERTS) if each.by_student}
    assert 0 < len(kept) < len(SPECS)
    again = Served()
    with Store.open(tmp_path, base=EXPERTS) as store:
        play_into_store(SPECS, store, ToyEnv(), again, parameters(in_flight=3))
    stored = [each for each in read_trajectories(tmp_path, base=EXPERTS) if each.by_student]
    assert {each.id for each in stored} == {each.id for each in SPECS}
    turns = {each.id: len(each.steps) for each in stored}
    assert again.asked == sum(turns[name] for name in turns if name not in kept)
    assert again.disconnected == 1


def test_a_failed_rollout_gets_a_second_attempt(tmp_path):
    failed = set()

    def fails(conversation, seed):
        if len(conversation) == 2 and len(failed) < 3:
            failed.add(seed)
            raise ZeroDivisionError

    specs = specs_from_start(ToyEnv(), 6)
    with Store.open(tmp_path) as store:
        play_into_store(specs, store, ToyEnv(), Served(fails), parameters())
        second = [each for each in store.trajectories if each.id.endswith("~1")]
    assert len(second) == 3
    assert all(each.status != "error" for each in second)


def test_a_completion_that_declines_or_overflows_ends_its_rollout():
    class Full(Served):
        async def complete(self, conversation, seed, sampling, session):
            return Completion(text="", finish="overflow")

    played = play_freely(SPECS[:2], policy=Full())
    assert {each.error_kind for each in played} == {"context_overflow"}
