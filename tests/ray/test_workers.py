"""Simulators in actors: the episodes of local workers, whatever process or node dies."""

from __future__ import annotations

import pytest

from eef.env import StepResult
from eef.env_check import check_env
from eef.envs.simulators import ray_worker, worker
from eef.envs.textworld_express import TextWorldExpress, TextWorldSettings
from eef.errors import ClusterError, ConfigError, EnvDied
from eef.policy import ScriptedPolicy
from eef.react import format_completion
from eef.rollouts.into_store import play_into_store
from eef.rollouts.specs import rollout_specs
from eef.rollouts.store import Store
from eef.selection import PlannedState
from eef.trajectory import Author
from eef.utils.progress import ignore_progress
from tests.fakes.counting import CountingEnv
from tests.fakes.faults import timeless
from tests.fakes.toy_rollouts import parameters
from tests.fakes.worlds import needs_java

pytestmark = pytest.mark.ray


@pytest.fixture
def env(two_nodes):
    env = CountingEnv(workers=2, placement="ray")
    yield env
    env.close()


def play(env, directory, *, before_step=lambda count: None):
    """Rollouts of a player that counts up; (records by id without times, restarts)."""
    asked = []

    def write(conversation, seed):
        asked.append(conversation)
        before_step(len(asked))
        return format_completion("on", str(1 + seed % 9))

    policy = ScriptedPolicy(Author("student", "counter"), write)
    tasks = env.tasks("train")
    specs = rollout_specs(
        [PlannedState(task.id, None, 2) for task in tasks],
        {task.id: task for task in tasks},
        owner="x",
        round=1,
        seed=0,
    )
    how = parameters(step_limit=8)
    with Store.open(directory) as store:
        play_into_store(specs, store, env, policy, how, on_progress=ignore_progress)
        return {item.id: timeless(item.to_record()) for item in store.trajectories}


def test_it_keeps_the_protocol(env):
    assert len(check_env(env, actions=["1", "20", "no number", "100", "1"]).passed) > 10


def test_a_node_killed_in_the_middle_leaves_the_same_records(two_nodes, env, tmp_path):
    local = CountingEnv(workers=2)
    expected = play(local, tmp_path / "local")
    local.close()

    def kill(count):
        if count == 60:
            [victim] = list(two_nodes.worker_nodes)
            two_nodes.remove_node(victim, allow_graceful=False)
            two_nodes.add_node(num_cpus=2)

    assert play(env, tmp_path / "ray", before_step=kill) == expected
    assert env.worker_restarts >= 1
    assert all(record["status"] != "error" for record in expected.values())


def test_an_action_that_kills_a_worker_once_is_retried_in_another(env, tmp_path):
    env.reset(env.tasks("train")[0])
    env.step("7")
    assert env.step(f"die {tmp_path / 'once'}") == StepResult("at 7", 0.0, False)
    assert env.step("1").observation == "at 8"


def test_an_action_that_kills_two_workers_fails_its_episode(env):
    env.reset(env.tasks("train")[0])
    with pytest.raises(EnvDied, match=r"worker \d of counting ended"):
        env.step("die")
    assert env.reset(env.tasks("train")[1]) == "at 5"


def test_a_hung_worker_is_ended(two_nodes, monkeypatch):
    monkeypatch.setattr(worker, "_MARGIN", 0.0)
    env = CountingEnv(placement="ray", timeout=0.5)
    env.reset(env.tasks("train")[0])
    with pytest.raises(EnvDied, match="did not answer in 0 s"):
        env.step("hang")
    env.close()


def test_a_simulator_that_cannot_be_created_is_a_config_error(two_nodes):
    env = CountingEnv(placement="ray", refuses=True)
    with pytest.raises(ConfigError, match="no counting here") as caught:
        env.reset(env.tasks("train")[0])
    assert caught.value.hint == "count elsewhere"


def test_a_worker_that_no_node_can_hold_is_one_line(two_nodes):
    env = CountingEnv(placement="ray", cpus=64)
    with pytest.raises(ClusterError, match="needs 64 CPUs, and no node of the Ray cluster"):
        env.reset(env.tasks("train")[0])


def test_a_cluster_without_room_is_one_line(two_nodes, env, monkeypatch):
    monkeypatch.setattr(ray_worker, "START_TIMEOUT", 60.0)
    clones = [env.clone() for _ in range(2)]
    for clone in clones:
        clone.reset(env.tasks("train")[0])
    monkeypatch.setattr(ray_worker, "START_TIMEOUT", 1.0)
    other = CountingEnv(placement="ray")
    with pytest.raises(ClusterError, match=r"no room in the Ray cluster .* 0 of 2 are free") as no:
        other.reset(env.tasks("train")[0])
    assert "lower `env.workers`" in no.value.hint


@needs_java
def test_a_simulator_with_a_jvm_plays_in_actors_as_it_does_here(two_nodes):
    def episode(placement):
        env = TextWorldExpress(TextWorldSettings(games="coin", placement=placement))
        env.reset(env.tasks("train")[0])
        results = [env.step(action) for action in ("look around", "open door to east", "move east")]
        env.close()
        return results

    assert episode("ray") == episode("local")
