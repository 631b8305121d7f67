"""The adapter of OpenEnv servers, against a server made with OpenEnv's own package."""

from __future__ import annotations

import random
import threading

import pytest

pytest.importorskip("openenv.core.generic_client")
pytest.importorskip("uvicorn")

import uvicorn
from openenv.core.env_server.http_server import create_fastapi_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State

from eef.env_check import check_env
from eef.envs.registry import make_env
from eef.errors import ConfigError
from eef.utils.sockets import listen

pytestmark = pytest.mark.filterwarnings("ignore")


class Guess(Action):
    number: int


class Hint(Observation):
    text: str = ""


class Numbers(Environment):
    """Guess a number from 1 to 20."""

    SUPPORTS_CONCURRENT_SESSIONS = True

    def reset(self, seed=None, episode_id=None, **options):
        self._number = random.Random(seed).randint(1, options.get("most", 20))
        return Hint(text="Guess a number.")

    def step(self, action, timeout_s=None, **options):
        found = action.number == self._number
        text = "Right." if found else "higher" if action.number < self._number else "lower"
        return Hint(text=text, done=found, reward=1.0 if found else 0.0)

    @property
    def state(self):
        return State()


@pytest.fixture(scope="module")
def server():
    app = create_fastapi_app(Numbers, Guess, Hint, max_concurrent_envs=16)
    with listen("127.0.0.1", 0) as listener:
        config = uvicorn.Config(app, log_level="error", lifespan="on")
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        running.should_exit = True
        thread.join(10)


def test_it_keeps_the_protocol_with_a_tool_or_with_texts(server):
    env = make_env("openenv", {"url": server, "observation_field": "text", "instruction": "Guess."})
    assert [each.name for each in env.tools] == ["act"]
    guesses = [f'act[{{"number": {number}}}]' for number in range(1, 21)]
    found = check_env(env, actions=guesses, episodes=1)
    assert found.wins >= 3
    env.reset(env.tasks("train")[0])
    assert env.step("act[{}]").observation == "Format error: `act`: 'number' is a required property"
    env.close()
    env = make_env("openenv", {"url": server, "action_field": "number"})
    assert env.tools == ()
    assert '"text": "Guess a number."' in env.reset(env.tasks("train")[0])
    env.close()


def test_mistakes_are_one_line(server):
    with pytest.raises(ConfigError, match=r"no schema from http://127\.0\.0\.1:9/schema"):
        make_env("openenv", {"url": "http://127.0.0.1:9"})
    with pytest.raises(ConfigError, match="actions have no field 'word'") as caught:
        make_env("openenv", {"url": server, "action_field": "word"})
    assert "number" in caught.value.hint
    env = make_env("openenv", {"url": server, "observation_field": "words"})
    with pytest.raises(ConfigError, match="observations have no field 'words'"):
        env.reset(env.tasks("train")[0])
    env.close()
