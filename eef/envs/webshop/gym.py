"""Gym: WebShop in Gymnasium's form, registered as `eef/WebShop-v0` when this module is imported.

Beside the rollouts: who plays is written against Gymnasium.

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
from eef.envs.webshop.env import STEP_LIMIT
from eef.errors import ConfigError, EnvError

ID = "eef/WebShop-v0"
LONGEST_SAMPLE = 80


class AnyText(Text):
    """All texts, of any length and alphabet. What is sampled is printable ASCII of 80 characters at most."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(LONGEST_SAMPLE, min_length=0, charset=string.printable, seed=seed)

    def contains(self, x: Any) -> bool:
        return isinstance(x, str)

    def __repr__(self) -> str:
        return "AnyText()"


class GymShop(gymnasium.Env[str, str]):
    """An episode of shopping: the observation is the page, an action `search[words]` or `click[label]`.

    `settings` are those of the environment `webshop`, but for `step_limit`: an episode is truncated by Gymnasium's own
    `max_episode_steps`, 10 unless `gymnasium.make` is given another. `reset` draws a task of `split` by its seed, or
    takes the goal index `options["task"]`. An episode is terminated by buying, and only that is rewarded. `info` holds

        task                        id of the task (`webshop/301`)
        instruction                 what is asked for
        has_search_bar, clickables  what can be done on the page
        reward_parts                what the reward was made of, {} until something is bought

    Raises ConfigError, DataError, EnvError as `make_env` does, and EnvError for a goal there is not.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012  (Gymnasium's)

    def __init__(
        self, *, split: str = "train", render_mode: str | None = None, **settings: Any
    ) -> None:
        if "step_limit" in settings:
            raise ConfigError(
                f"{ID}: `step_limit` has no effect here", hint="`max_episode_steps` cuts episodes"
            )
        if render_mode not in (None, "ansi"):
            raise ConfigError(f"{ID}: `render_mode` is {render_mode!r}, expected 'ansi' or None")
        env = make_env("webshop", settings)
        assert isinstance(env, WebShop)
        self.render_mode = render_mode
        self.action_space, self.observation_space = AnyText(), AnyText()
        self._env, self._goals = env, env.splits.get(split, ())
        if not self._goals:
            raise EnvError(
                f"{ID}: no tasks in split {split!r}", hint=f"there are {', '.join(env.splits)}"
            )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        self._task = self._env.task(self._wanted(options or {}))
        return self._env.reset(self._task), self._info()

    def _wanted(self, options: dict[str, Any]) -> int:
        """The goal index that is asked for, or one drawn."""
        for key in options:
            if key != "task":
                raise EnvError(
                    f"{ID}: reset knows no option {key!r}", hint="there is `task`, a goal index"
                )
        wanted = options.get("task")
        if wanted is None:
            return self._goals[int(self.np_random.integers(len(self._goals)))]
        try:
            return int(wanted.__index__())
        except AttributeError:
            raise EnvError(f"{ID}: `task` is {wanted!r}, expected a goal index") from None

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
        """The page."""
        return self._env.observation if self.render_mode == "ansi" else None

    def close(self) -> None:
        self._env.close()


gymnasium.register(ID, entry_point="eef.envs.webshop.gym:GymShop", max_episode_steps=STEP_LIMIT)
