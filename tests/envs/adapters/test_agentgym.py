"""The adapter of AgentGym's API, against the server of `eef env serve` and one like AgentGym's."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from eef.env_check import check_env
from eef.envs.registry import make_env
from eef.envs.toy import ToyEnv, ToySettings, make_toy_expert
from eef.errors import ConfigError, EnvError
from eef.policy import GREEDY
from eef.rollouts.runner import RolloutParameters, play
from eef.rollouts.specs import RolloutSpec
from eef.trajectory import Author, StateRef, TrajectorySet
from tests.fakes.env_server import listening, sessions_of
from tests.fakes.served import serving

TOY = {"rules": ToyEnv().prompt, "tasks_per_split": 10, "first_train": 10, "success_threshold": 1.0}


@pytest.fixture(scope="module")
def server():
    with listening(sessions_of(ToyEnv(ToySettings(tasks_per_split=10)))) as client:
        yield str(client.base_url)


def test_an_environment_behind_our_own_server_keeps_the_protocol(server):
    env = make_env("agentgym", {"url": server, **TOY})
    expert = make_toy_expert(env, "flawless")
    found = check_env(env, actions=["right", "open", "take red"], expert=expert, episodes=1)
    assert found.wins >= 3
    env.close()


def test_rollouts_branch_from_states_behind_a_server(server):
    env = make_env("agentgym", {"url": server, **TOY})
    expert = make_toy_expert(env, "flawless")
    parameters = RolloutParameters(sampling=GREEDY, step_limit=20)

    def played(specs, known=()):
        return list(
            play(
                specs,
                env=env,
                policy=expert,
                trajectories=TrajectorySet(known),
                parameters=parameters,
            )
        )

    tasks = env.tasks("train").head(3)
    origins = [
        replace(item, author=Author("expert", "e"))
        for item in played([RolloutSpec(task.id, task, None, 0, 0) for task in tasks])
    ]
    assert all(item.success for item in origins)
    specs = [RolloutSpec(f"b{task.id}", task, StateRef(task.id, 2), 0, 1) for task in tasks]
    assert all(item.success for item in played(specs, origins))


def test_a_server_that_names_its_fields_otherwise_and_returns_totals():
    seen = []

    def answer(path, headers, body):
        fields = json.loads(body or b"{}")
        seen.append((path, fields))
        results = {
            "/": "ok",
            "/create": {"id": 7},
            "/reset": {"observation": "A maze.", "reward": 0.0, "done": False},
            "/step": {"observation": "Deeper.", "reward": 0.25 * len(seen), "done": len(seen) > 5},
            "/close": {"closed": True},
        }
        return 200, {}, json.dumps(results[path]).encode()

    fields = {"session_field": "id", "task_field": "data_idx", "reward": "total"}
    with serving(answer) as (base, _):
        env = make_env("agentgym", {"url": base, **fields})
        task = env.tasks("test")[3]
        assert env.reset(task) == "A maze."
        rewards = [env.step("go").reward for _ in range(3)]
        assert rewards == [1.0, 0.25, 0.25]
        assert seen[2] == ("/reset", {"id": 7, "data_idx": 3})
        assert env.step("again").terminated
        env.close()


def test_a_missing_or_failing_server_is_one_line(server):
    with pytest.raises(ConfigError, match=r"no answer from http://127\.0\.0\.1:9/") as caught:
        make_env("agentgym", {"url": "http://127.0.0.1:9"})
    assert "eef env serve" in caught.value.hint
    with pytest.raises(ConfigError, match="`url` is not an address"):
        make_env("agentgym", {"url": "file:///etc/passwd"})
    with pytest.raises(ConfigError, match="the splits of 100 tasks overlap"):
        make_env("agentgym", {"url": server, "first_train": 50})
    env = make_env("agentgym", {"url": server})
    with pytest.raises(EnvError, match=r"returned 422: .*no task"):
        env.reset(replace(env.tasks("train")[0], index=10**6))
    env.close()
