"""The Gymnasium adapter, on environments of the package itself."""

from __future__ import annotations

import pytest

pytest.importorskip("gymnasium")

import gymnasium
from gymnasium import registry

from eef.env_check import check_env
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


class Line(gymnasium.Env):
    """Actions from -1 to 1; the observation is where they have led."""

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012
    action_space = gymnasium.spaces.Discrete(3, start=-1)
    observation_space = gymnasium.spaces.Text(8)

    def __init__(self, render_mode=None):
        self.render_mode, self.place = render_mode, 0

    def render(self):
        return str(self.place)

    def reset(self, *, seed=None, options=None):
        self.place = 0
        return "0", {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.place += int(action)
        return str(self.place), 0.0, False, False, {}


def test_actions_that_do_not_start_at_zero():
    gymnasium.register("Line-v0", entry_point=Line)
    env = make_env("gymnasium", {"id": "Line-v0", "actions": ["left", "stay", "right"]})
    env.reset(env.tasks("train")[0])
    ways = ["right", "right", "stay", "left"]
    assert [env.step(way).observation for way in ways] == ["1", "2", "2", "1"]
    env.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"id": "Lake-v9"}, "`Lake-v9` cannot be created"),
        ({"id": "FrozenLake-v1"}, "`env.actions` has 0 names; `FrozenLake-v1` has 4 discrete"),
        ({**LAKE, "options": {"wet": True}}, "cannot be created"),
        ({**LAKE, "worst_return": 2.0}, "expected less than `best_return`"),
    ],
)
def test_mistakes(settings, message):
    with pytest.raises(ConfigError) as caught:
        make_env("gymnasium", settings)
    assert message in caught.value.message
    assert "\n" not in caught.value.message
