"""Explore: plans become specs; an interruption anywhere changes nothing in the final store."""

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
from eef.rollouts.into_store import play_into_store
from eef.rollouts.specs import last_attempt, rollout_specs
from eef.rollouts.store import Store, read_trajectories
from eef.selection import PlannedState
from eef.trajectory import Author, StateRef
from eef.utils.progress import ignore_progress
from eef.utils.seeds import derive_seed
from tests.fakes.toy_rollouts import STUDENT, WithoutSnapshot, expert_trajectories, parameters

EXPERTS = expert_trajectories(4)
TASKS = {task.id: task for task in ToyEnv().tasks("train")}
PLAN = [
    *(PlannedState(each.task, None, 1) for each in EXPERTS),
    *(PlannedState(each.task, StateRef(each.id, t), 2) for each in EXPERTS for t in (2, 4)),
]
SPECS = rollout_specs(PLAN, TASKS, owner="eef", round=1, seed=3)


class BatchDependent(ScriptedPolicy):
    """A policy whose completions depend on their batch, like those of a model on a GPU."""

    replays = "batch"

    def act(self, conversations, seeds, sampling):
        return super().act(conversations, [seed + len(seeds) for seed in seeds], sampling)


class Unsteady(WithoutSnapshot):
    """Fails whenever the white key is to be taken."""

    def step(self, action):
        if action == "take white":
            raise OSError("dropped")
        return super().step(action)


def act_like_student(conversation, seed):
    return STUDENT.act([conversation], [seed], GREEDY)[0].text


BATCH_DEPENDENT = BatchDependent(Author("student", "batch-dependent"), act_like_student)


class Killed(Exception):
    pass


def run_explore(
    directory, *, policy=STUDENT, env=None, specs=SPECS, batch_size=5, on_progress=ignore_progress
):
    with Store.open(directory) as store:
        for expert in EXPERTS:
            if expert.id not in store.trajectories:
                store.append(expert)
        play_into_store(
            specs,
            store,
            env or WithoutSnapshot(),
            policy,
            parameters(batch_size=batch_size),
            on_progress=on_progress,
        )


def contents(directory, **usage):
    """The trajectories of a store in their order, without the seconds."""
    stored = read_trajectories(directory)
    return [replace(each, usage=replace(each.usage, seconds=0.0, **usage)) for each in stored]


def killer(after):
    """A progress callback that raises once `after` rollouts have been stored."""
    reports = 0

    def on_progress(progress):
        nonlocal reports
        reports += 1
        if reports > after:
            raise Killed

    return on_progress


def test_specs_are_named_by_owner_round_and_state_and_seeded_without_the_owner():
    plan = [PlannedState("toy/43", StateRef("e", 4), 2), PlannedState("toy/43", None, 1)]
    plan.append(PlannedState("toy/43", StateRef("e", 4), 1))
    specs = rollout_specs(plan, TASKS, owner="eef", round=2, seed=9)
    assert [each.id for each in specs] == [
        "eef/round2/e@4#0",
        "eef/round2/e@4#1",
        "eef/round2/toy/43@0#0",
        "eef/round2/e@4#2",
    ]
    assert [each.state for each in specs] == [
        StateRef("e", 4),
        StateRef("e", 4),
        None,
        StateRef("e", 4),
    ]
    assert specs[1].seed == derive_seed(9, "round2/e@4#1")
    assert {each.round for each in specs} == {2}
    assert specs[0].task is TASKS["toy/43"]
    # a state has the same specs in every plan, and the same seeds for every owner
    assert rollout_specs(plan[:1], TASKS, owner="eef", round=2, seed=9) == specs[:2]
    other = rollout_specs(plan, TASKS, owner="rft", round=2, seed=9)
    assert [each.seed for each in other] == [each.seed for each in specs]
    assert not {each.id for each in other} & {each.id for each in specs}
    with pytest.raises(EnvError, match="no task 'toy/1'"):
        rollout_specs([PlannedState("toy/1", None, 1)], TASKS, owner="eef", round=1, seed=0)


def test_every_spec_is_played_and_stored(tmp_path):
    reports = []
    run_explore(tmp_path, env=ToyEnv(), on_progress=reports.append)
    stored = read_trajectories(tmp_path)
    assert {each.id for each in stored} == {each.id for each in (*SPECS, *EXPERTS)}
    assert all(each.status != "error" for each in stored)
    assert [each.done for each in reports] == list(range(len(SPECS) + 1))
    assert {each.total for each in reports} == {len(SPECS)}
    wins = sum(stored[each.id].success for each in SPECS)
    assert reports[-1].note == f"{wins} won"


@pytest.mark.parametrize("replays", ["alone", "batch"])
def test_nothing_that_is_stored_is_played_again(tmp_path, replays):
    def refuse(conversation, seed):
        raise ModelError("asked again")

    run_explore(tmp_path)
    before = contents(tmp_path)
    policy = ScriptedPolicy(STUDENT.author, refuse)
    policy.replays = replays
    reports = []
    run_explore(tmp_path, policy=policy, on_progress=reports.append)
    assert contents(tmp_path) == before
    assert [(each.done, each.total) for each in reports] == [(len(SPECS), len(SPECS))]


def test_progress_follows_the_store(tmp_path):
    stored = []

    def on_progress(progress):
        stored.append(len(read_trajectories(tmp_path)) - len(EXPERTS))
        assert progress.done == stored[-1]

    run_explore(tmp_path, env=ToyEnv(), on_progress=on_progress)
    assert stored == list(range(len(SPECS) + 1))


@settings(max_examples=25)
@given(
    kills=st.lists(st.integers(0, 10), max_size=4),
    policy=st.sampled_from([STUDENT, BATCH_DEPENDENT]),
    env=st.sampled_from([WithoutSnapshot, ToyEnv, Unsteady]),
    batch_size=st.integers(1, 7),
)
def test_interrupted_and_resumed_equals_uninterrupted(kills, policy, env, batch_size):
    with tempfile.TemporaryDirectory() as uninterrupted, tempfile.TemporaryDirectory() as resumed:
        options = {"policy": policy, "batch_size": batch_size}
        run_explore(Path(uninterrupted), env=env(), **options)
        for after in kills:
            try:
                run_explore(Path(resumed), env=env(), on_progress=killer(after), **options)
            except Killed:
                continue
        run_explore(Path(resumed), env=env(), **options)
        # which visit of a state finds a snapshot depends on the interruptions; nothing else does
        usage = {"replayed_steps": 0} if env is ToyEnv else {}
        assert contents(Path(resumed), **usage) == contents(Path(uninterrupted), **usage)


def test_the_batch_matters_to_the_batch_dependent_policy(tmp_path):
    run_explore(tmp_path / "a", policy=BATCH_DEPENDENT, batch_size=2)
    run_explore(tmp_path / "b", policy=BATCH_DEPENDENT, batch_size=3)
    assert sorted(map(repr, contents(tmp_path / "a"))) != sorted(
        map(repr, contents(tmp_path / "b"))
    )


def test_an_interruption_keeps_finished_rollouts(tmp_path):
    turns = []

    def script(conversation, seed):
        turns.append(seed)
        if len(turns) == 40:
            raise KeyboardInterrupt
        return act_like_student(conversation, seed)

    with pytest.raises(KeyboardInterrupt):
        run_explore(tmp_path, policy=ScriptedPolicy(STUDENT.author, script))
    finished = contents(tmp_path)
    assert len(EXPERTS) < len(finished) < len(EXPERTS) + len(SPECS)
    run_explore(tmp_path)
    assert contents(tmp_path)[: len(finished)] == finished
    run_explore(tmp_path / "uninterrupted")
    assert contents(tmp_path) == contents(tmp_path / "uninterrupted")


def test_a_failed_rollout_gets_a_second_attempt_with_another_seed(tmp_path):
    run_explore(tmp_path, env=Unsteady())
    stored = read_trajectories(tmp_path)
    failed = [each.id for each in SPECS if stored[each.id].status == "error"]
    assert failed
    seconds = [stored[f"{name}~1"] for name in failed]
    assert len(stored) == len(EXPERTS) + len(SPECS) + len(seconds)
    assert sum(each.status == "error" for each in seconds) < len(seconds)
    for name, second in zip(failed, seconds, strict=True):
        first = stored[name]
        assert (second.start, second.task, second.round) == (first.start, first.task, 1)
        assert second.seed != first.seed
        assert last_attempt(stored, name) is second


def test_a_replay_mismatch_gets_no_second_attempt(tmp_path):
    class Renamed(ToyEnv):
        def step(self, action):
            result = super().step(action)
            return replace(result, observation=result.observation.replace("Room", "Hall"))

    run_explore(tmp_path, env=Renamed())
    stored = read_trajectories(tmp_path)
    starts = [each for each in PLAN if each.state is not None]
    errors = [each for each in stored if each.status == "error"]
    assert {each.error_kind for each in errors} == {"replay"}
    assert len(errors) == 2 * len(starts)
    assert not [each.id for each in stored if each.id.endswith("~1")]


def test_an_unverified_trajectory_is_not_branched_from(tmp_path):
    unverified = replace(EXPERTS[0], id="imported", replayable=False, source="log.jsonl:3")
    spec = replace(SPECS[-1], state=StateRef("imported", 2))
    with Store.open(tmp_path) as store:
        store.append(unverified)
        with pytest.raises(EnvError, match=r"log\.jsonl:3.* was not verified"):
            play_into_store([spec], store, ToyEnv(), STUDENT, parameters())
        assert len(store.trajectories) == 1
