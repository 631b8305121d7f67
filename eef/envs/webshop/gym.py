"""WebShop as a Gymnasium environment, for agents written against Gymnasium.

Importing this module registers it as `eef/WebShop-v0`.

    import gymnasium
    import eef.envs.webshop.gym

    env = gymnasium.make("eef/WebShop-v0", data="webshop/data", goals="human")
    page, info = env.reset(seed=0)                      # or options={"task": 301}
    page, reward, terminated, truncated, info = env.step("search[slim fit shirt]")
"""

from __future__ import annotations

import string
from typing import Any

import gymnasium
from gymnasium.spaces import Text

from eef.envs.registry import make_env
from eef.envs.webshop import WebShop
from eef.envs.webshop.settings import STEP_LIMIT
from eef.errors import ConfigError, EnvError

ID = "eef/WebShop-v0"
LONGEST_SAMPLE = 80


class AnyText(Text):
    """The space of all strings. Samples are printable ASCII of at most 80 characters."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(LONGEST_SAMPLE, min_length=0, charset=string.printable, seed=seed)

    def contains(self, x: Any) -> bool:
        return isinstance(x, str)

    def __repr__(self) -> str:
        return "AnyText()"


class GymShop(gymnasium.Env[str, str]):
    """A shopping episode. Observations are pages; actions are `search[words]` and `click[label]`.

    `settings` are those of the environment `webshop`, except `step_limit`: Gymnasium truncates an
    episode after `max_episode_steps` (10 by default). `reset` draws a task of `split` by its seed,
    or uses the goal index `options["task"]`. Buying terminates the episode; nothing else is
    rewarded. `info` holds:

        task                        id of the task (`webshop/301`)
        instruction                 the task's instruction
        has_search_bar, clickables  the actions available on the page
        reward_parts                the parts of the reward; {} until something is bought

    Raises ConfigError, DataError and EnvError as `make_env` does; EnvError for an unknown goal.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 (a class attribute in Gymnasium's API)
        "render_modes": ["ansi"],
        "render_fps": 1,
    }

    def __init__(
        self, *, split: str = "train", render_mode: str | None = None, **settings: Any
    ) -> None:
        if "step_limit" in settings:
            raise ConfigError(
                f"{ID}: `step_limit` has no effect here", hint="set `max_episode_steps` instead"
            )
        if render_mode not in (None, "ansi"):
            raise ConfigError(f"{ID}: `render_mode` is {render_mode!r}; expected 'ansi' or None")
        env = make_env("webshop", settings)
        assert isinstance(env, WebShop)
        self.render_mode = render_mode
        self.action_space, self.observation_space = AnyText(), AnyText()
        self._env, self._goals = env, env.splits.get(split, ())
        if not self._goals:
            raise EnvError(
                f"{ID}: no tasks in split {split!r}", hint=f"known splits: {', '.join(env.splits)}"
            )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self._task = self._env.task(self._wanted(options or {}))
        return self._env.reset(self._task), self._info()

    def _wanted(self, options: dict[str, Any]) -> int:
        """The requested goal index, or a random one."""
        for key in options:
            if key != "task":
                raise EnvError(
                    f"{ID}: unknown reset option {key!r}", hint="known options: task (a goal index)"
                )
        wanted = options.get("task")
        if wanted is None:
            return self._goals[int(self.np_random.integers(len(self._goals)))]
        try:
            return int(wanted.__index__())
        except AttributeError:
            raise EnvError(f"{ID}: `task` is {wanted!r}; expected a goal index") from None

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        result = self._env.step(action)
        return result.observation, float(result.reward), result.terminated, False, self._info()

    def _info(self) -> dict[str, Any]:
        bought = self._env.session.view == "done"
        return {
            "task": self._task.id,
            "instruction": self._task.instruction,
            **self._env.available(),
            "reward_parts": self._env.reward_parts() if bought else {},
        }

    def render(self) -> str | None:
        """The current page; None unless `render_mode` is "ansi"."""
        return self._env.observation if self.render_mode == "ansi" else None

    def close(self) -> None:
        self._env.close()


gymnasium.register(ID, entry_point="eef.envs.webshop.gym:GymShop", max_episode_steps=STEP_LIMIT)
