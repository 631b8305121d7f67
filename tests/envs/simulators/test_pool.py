"""The pool: episodes in workers are the same as in this process, even if workers die."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace

import pytest

from eef.env import StepResult
from eef.env_check import check_env
from eef.envs.scienceworld import ScienceWorld, ScienceWorldSettings
from eef.envs.simulators import worker as worker_module
from eef.envs.textworld_express import TextWorldExpress, TextWorldSettings
from eef.errors import ConfigError, EnvDied, EnvError
from eef.policy import ScriptedPolicy
from eef.react import format_completion
from eef.rollouts.into_store import play_into_store
from eef.rollouts.specs import rollout_specs
from eef.rollouts.store import Store
from eef.selection import PlannedState
from eef.trajectory import Author, StateRef
from eef.utils.progress import ignore_progress
from eef.utils.seeds import derive_seed
from tests.fakes.counting import CountingEnv
from tests.fakes.toy_rollouts import parameters
from tests.fakes.worlds import children, footprint, halt, memory, needs_java


@pytest.fixture(scope="module")
def shared():
    env = CountingEnv(workers=2)
    yield env
    env.close()


@pytest.fixture
def env(shared):
    """A clone whose episode has counted to 7."""
    clone = shared.clone()
    clone.reset(shared.tasks("train")[0])
    clone.step("7")
    yield clone
    clone.close()


def test_it_keeps_the_protocol(shared):
    assert len(check_env(shared, actions=["1", "20", "no number", "100", "1"]).passed) > 10


def test_episodes_go_to_the_worker_with_the_fewest(shared):
    clones = [shared.clone() for _ in range(6)]
    for clone in clones:
        clone.reset(shared.tasks("train")[1])
    held = [len(worker.slots) for worker in shared.pool.workers]
    assert sum(held) >= 6
    assert abs(held[0] - held[1]) <= 1
    for clone in clones:
        clone.close()
    assert sum(len(worker.slots) for worker in shared.pool.workers) == sum(held) - 6


def test_episodes_started_at_once_are_spread_over_workers():
    env = CountingEnv(workers=4)
    clones, task = [env.clone() for _ in range(32)], env.tasks("train")[0]
    with ThreadPoolExecutor(32) as threads:
        for _ in range(2):
            list(threads.map(lambda clone: clone.reset(task), clones))
            held = [len(worker.slots) for worker in env.pool.workers]
            assert sum(held) == 32
            assert max(held) - min(held) <= 2
    env.close()


def test_gold_paths_are_generated_by_all_workers_at_once():
    env = CountingEnv(workers=3)
    given = []
    for worker in env.pool.workers:
        worker.gold_actions = lambda spec, worker=worker: (
            given.append(worker),
            time.sleep(0.2),
            ["1"],
        )[2]
    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(env.pool.gold_actions, range(3))) == [["1"]] * 3
    assert len(set(given)) == 3
    env.close()


def test_a_worker_that_failed_to_start_can_start_later(monkeypatch):
    env = CountingEnv()
    with monkeypatch.context() as patch:
        patch.setattr(worker_module, "start_process", lambda *args, **kwargs: os.close(-1))
        with pytest.raises(EnvError, match="cannot start worker 0 of counting"):
            env.reset(env.tasks("train")[0])
    assert env.reset(env.tasks("train")[0]) == "at 0"
    env.close()


def test_an_episode_survives_its_worker(env):
    deaths = env.pool.restarts
    for worker in env.pool.workers:
        if worker.pid is not None:
            os.kill(worker.pid, signal.SIGKILL)
            worker._process.join()
    assert env.step("3") == StepResult("at 10", 0.03, False)
    assert env.pool.restarts > deaths


def test_an_action_that_kills_a_worker_once_is_retried_in_another(env, tmp_path):
    before = env._slot._worker
    assert env.step(f"die {tmp_path / 'once'}") == StepResult("at 7", 0.0, False)
    assert env._slot._worker is not before
    assert env.step("1").observation == "at 8"


def test_an_action_that_kills_two_workers_fails_only_its_episode(shared, env):
    other = shared.clone()
    other.reset(shared.tasks("train")[2])
    other.step("5")
    with pytest.raises(EnvDied, match=r"^worker \d of counting ended$"):
        env.step("die")
    assert other.step("5").observation == "at 20"
    other.close()


def test_a_hung_worker_is_ended(monkeypatch):
    monkeypatch.setattr(worker_module, "_MARGIN", 0.0)
    env = CountingEnv(timeout=0.5)
    env.reset(env.tasks("train")[0])
    pid = env.pool.workers[0].pid
    with pytest.raises(EnvDied, match="did not answer in 0 s"):
        env.step("hang")
    assert env.pool.restarts == 2
    assert not os.path.exists(f"/proc/{pid}"), "ended and reaped"
    env.close()


def test_a_failed_episode_does_not_affect_its_worker(env):
    deaths = env.pool.restarts
    with pytest.raises(EnvError, match="it broke"):
        env.step("break")
    assert env.step("1").observation == "at 8"
    assert env.pool.restarts == deaths


def test_an_episode_that_does_not_repeat_is_not_continued(env):
    env.step("moody")
    os.kill(env._slot._worker.pid, signal.SIGKILL)
    env._slot._worker._process.join()
    with pytest.raises(EnvError, match="did not repeat"):
        env.step("1")


def test_a_simulator_that_cannot_be_created_is_a_config_error(tmp_path):
    env = CountingEnv(refuses=True)
    with pytest.raises(ConfigError, match="no counting here") as caught:
        env.reset(env.tasks("train")[0])
    assert caught.value.hint == "count elsewhere"
    with pytest.raises(ConfigError, match="no counting here"):
        play_all(env, tmp_path / "store")


def test_no_process_is_left():
    env = CountingEnv(workers=2)
    clones = [env.clone() for _ in range(2)]
    for clone in clones:
        clone.reset(env.tasks("train")[0])
    pids = [worker.pid for worker in env.pool.workers]
    env.close()
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    assert clones[0].step("1").observation == "at 1", "and it starts again when it is asked"
    env.close()


# --- exploration ----------------------------------------------------------------------------------

ACTIONS = (
    "look around",
    "inventory",
    "open fridge",
    "move north",
    "move south",
    "move east",
    "take coin",
    "wait",
)


def restless(conversation, seed):
    """A student that takes random actions."""
    return format_completion("", ACTIONS[derive_seed(seed, len(conversation)) % len(ACTIONS)])


def counter(conversation, seed):
    return format_completion("", str(seed % 40))


def play_all(env, directory, script=counter, *, on_progress=ignore_progress):
    """The stored rollouts from the start of each task and from inside them, without seconds."""
    known = {task.id: task for task in env.tasks("train").head(6)}
    policy = ScriptedPolicy(Author("student", "student"), script)
    chosen = parameters(step_limit=8, batch_size=5)
    with Store.open(directory) as store:
        plan = [PlannedState(task, None, 2) for task in known]
        specs = rollout_specs(plan, known, owner="eef", round=1, seed=0)
        play_into_store(specs, store, env, policy, chosen, on_progress=on_progress)
        inside = [
            PlannedState(item.task, item.state, 1)
            for item in (_inside(each) for each in list(store.trajectories))
            if item is not None
        ]
        specs = rollout_specs(inside, known, owner="eef", round=2, seed=0)
        play_into_store(specs, store, env, policy, chosen, on_progress=on_progress)
        return [
            replace(each, usage=replace(each.usage, seconds=0.0)) for each in store.trajectories
        ]


def _inside(trajectory):
    if trajectory.length < 3:
        return None
    return PlannedState(trajectory.task, StateRef(trajectory.id, 2), 1)


def test_two_workers_play_the_same_as_one(tmp_path):
    played = []
    for workers in (1, 2):
        env = CountingEnv(workers=workers)
        played.append(play_all(env, tmp_path / str(workers)))
        env.close()
    assert sorted(played[0], key=lambda each: each.id) == sorted(
        played[1], key=lambda each: each.id
    )
    assert {each.status for each in played[0]} <= {"terminated", "truncated"}
    assert any(each.start for each in played[0])


@needs_java
@pytest.mark.long
def test_killing_jvms_while_exploring_changes_nothing(tmp_path):
    """JVMs and workers are killed repeatedly; the store is the same as without."""
    env = TextWorldExpress(TextWorldSettings(games=("coin", "mapreader"), workers=2))
    calm = play_all(env, tmp_path / "calm", restless)
    stop, killed, stored = threading.Event(), [], []

    def harass():
        while not stop.wait(0.05):
            worker = env.pool.workers[len(killed) % 2]
            over = not killed or (
                env.pool.restarts >= len(killed) and len(stored) >= killed[-1] + 3
            )
            if worker.slots and over:  # so that no request dies twice
                jvms = children(worker.pid)
                kill(jvms[0] if len(killed) % 3 else worker.pid)
                killed.append(len(stored))

    thread = threading.Thread(target=harass)
    thread.start()
    try:
        harassed = play_all(env, tmp_path / "harassed", restless, on_progress=stored.append)
    finally:
        stop.set()
        thread.join()
    assert sorted(harassed, key=lambda each: each.id) == sorted(calm, key=lambda each: each.id)
    assert len(killed) > 1
    assert env.pool.restarts >= len(killed) - 1
    env.close()
    assert footprint()["zombies"] == 0


@needs_java
def test_a_hung_jvm_is_killed_and_its_episode_continues_in_another():
    env = TextWorldExpress(TextWorldSettings(games="coin", workers=2, timeout=5.0))
    env.reset(env.tasks("train")[0])
    seen = env.step("look around")
    jvm = children(env._slot._worker.pid)[0]
    halt(jvm)
    assert env.step("look around") == seen
    assert env.worker_restarts == 1
    assert not os.path.exists(f"/proc/{jvm}"), "ended and reaped"
    env.close()


def kill(pid):
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.long
@needs_java
def test_two_thousand_episodes_leak_nothing():
    """Memory of JVM and worker, processes, files and ports stay constant.

    Every 250 episodes the JVM of the other worker is killed.
    """
    env = ScienceWorld(
        ScienceWorldSettings(
            tasks=("find-plant", "lifespan-longest-lived", "identify-life-stages-2"),
            workers=2,
            memory=256,
        )
    )
    tasks = list(env.tasks("train"))
    env.reset(tasks[0])
    env.close()
    before, seen = footprint(), []
    clones = [env.clone() for _ in range(4)]
    for number in range(1, 2001):
        clone = clones[number % 4]
        clone.reset(tasks[number % len(tasks)])
        for action in ("look around", "go to kitchen", "look around", "open cupboard"):
            clone.step(action)
        if number % 250 == 125:
            kill(children(env.pool.workers[1].pid)[0])
        if number % 250 == 0:
            worker = env.pool.workers[0].pid
            seen.append((memory(children(worker)[0]), memory(worker), footprint()))
            print(number, *seen[-1])
    assert env.worker_restarts == 8
    env.close()
    (jvm, python, held), (jvm_last, python_last, held_last) = seen[1], seen[-1]
    assert jvm_last < min(600, jvm + 60)
    assert python_last < python + 20
    assert held_last == held
    assert footprint() == before
