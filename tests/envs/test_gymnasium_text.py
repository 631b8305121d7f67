"""The Gymnasium adapter, on environments of the package itself."""

from __future__ import annotations

import pytest

pytest.importorskip("gymnasium")

from gymnasium import registry

from eef.env import check_env
from eef.envs.registry import make_env
from eef.errors import ConfigError

LAKE = {"id": "FrozenLake-v1", "actions": ["left", "down", "right", "up"], "tasks_per_split": 5}
TAXI = {
    "id": "Taxi-v4" if "Taxi-v4" in registry else "Taxi-v3",
    "actions": ["south", "north", "east", "west", "pickup", "dropoff"],
    "worst_return": -200.0,
    "best_return": 20.0,
    "success_threshold": 0.9,
}


@pytest.mark.parametrize("settings", [LAKE, TAXI])
def test_seeded_chance_keeps_the_protocol(settings):
    env = make_env("gymnasium", settings)
    found = check_env(env, actions=[*settings["actions"], "fly"] * 2)
    assert found.answers > 5
    env.close()


def test_an_episode_is_won():
    dry = {**LAKE, "options": {"is_slippery": False}, "instruction": "Walk to G."}
    env = make_env("gymnasium", dry)
    task = env.tasks("train")[0]
    assert env.reset(task).startswith("Walk to G.\n")
    assert "[S]FFF" in env.reset(task)
    way = ["down", "down", "right", "right", "down", "Right"]
    results = [env.step(action) for action in way]
    assert results[-1].terminated
    assert env.score([result.reward for result in results]) == 1.0
    assert env.step("left").observation == "The episode is over."
    env.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"id": "Lake-v9"}, "`Lake-v9` cannot be created"),
        ({"id": "FrozenLake-v1"}, "`env.actions` has 0 names; `FrozenLake-v1` has 4 discrete"),
        ({**LAKE, "options": {"wet": True}}, "cannot be created"),
        ({**LAKE, "worst_return": 2.0}, "`worst_return` is not below `best_return`"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(ConfigError) as caught:
        make_env("gymnasium", settings)
    assert message in caught.value.message
    assert "\n" not in caught.value.message
