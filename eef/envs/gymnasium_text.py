"""Gymnasium environments whose state can be read as text (extra `gym`).

The observation is the environment's own if that is a text, and otherwise its rendering as text
(`render_mode="ansi"`). An action is a text, or the name of a discrete action. Each task is a seed,
so that an episode with chance in it is a function of the task and the actions.

Gymnasium's own FrozenLake, CliffWalking and Taxi are played like this:

    [env]
    name = "gymnasium"
    id = "FrozenLake-v1"
    actions = ["left", "down", "right", "up"]
    instruction = "Walk from S to G over frozen tiles (F). The red tile is yours. H is a hole."
"""

from __future__ import annotations

import re
from typing import Any, Self

from pydantic import Field, JsonValue

from eef.env import AFTER_END, StepResult
from eef.envs.foreign import ForeignEnv, ForeignSettings, described, react_rules
from eef.envs.spec import EnvSpec
from eef.errors import ConfigError
from eef.task import Task
from eef.utils.extras import missing_package

_COLOR = re.compile(r"\x1b\[(?P<code>\d+)m(?P<text>.*?)\x1b\[0m", re.S)
_COLOR_CODE = re.compile(r"\x1b\[[\d;]*m")


class GymnasiumSettings(ForeignSettings):
    """Settings of `gymnasium`."""

    id: str
    """Id of the environment, such as `FrozenLake-v1`; with `package:id`, the package is imported
    first."""

    options: dict[str, JsonValue] = Field(default={})
    """Arguments of the environment, for example `{ is_slippery = false }`."""

    actions: tuple[str, ...] = Field(default=(), strict=False)
    """Names of its discrete actions, in order; unset if its actions are texts."""


class GymnasiumText(ForeignEnv):
    """One Gymnasium environment. ConfigError if it cannot be created or has no text."""

    name = "gymnasium"

    def __init__(self, settings: GymnasiumSettings) -> None:
        super().__init__(settings)
        self._settings = settings
        self._game: Any = None
        self._over = False
        self._make()
        self.prompt = react_rules(", ".join(f"`{name}`" for name in settings.actions))

    def reset(self, task: Task) -> str:
        observation, _ = self._make().reset(seed=task.index)
        self._over = False
        return self._opened(self._text(observation))

    def step(self, action: str) -> StepResult:
        if self._over:
            return AFTER_END
        names = [name.lower() for name in self._settings.actions]
        taken: Any = action
        if names:
            if action.strip().lower() not in names:
                known = ", ".join(self._settings.actions)
                return StepResult(f"Unknown action. The actions are: {known}.", 0.0, False)
            first = getattr(self._make().action_space, "start", 0)  # of a discrete space
            taken = names.index(action.strip().lower()) + int(first)
        observation, reward, terminated, truncated, _ = self._make().step(taken)
        self._over = bool(terminated or truncated)
        return StepResult(self._text(observation), float(reward), self._over)

    def clone(self) -> Self:
        other = super().clone()
        other._game = None
        return other

    def fingerprint(self) -> dict[str, Any]:
        import gymnasium

        return {
            "env": self.name,
            **described(self._settings),
            "gymnasium": gymnasium.__version__,
        }

    def close(self) -> None:
        if self._game is not None:
            self._game.close()
            self._game = None

    def _make(self) -> Any:
        """The game, created when it is first needed: a clone has one of its own."""
        if self._game is not None:
            return self._game
        try:
            import gymnasium
        except ImportError as error:
            raise missing_package("gymnasium", "the environment `gymnasium`") from error
        options: dict[str, Any] = {"render_mode": "ansi", **self._settings.options}
        try:
            self._game = gymnasium.make(self._settings.id, **options)
        except Exception as error:  # an environment can raise anything
            reason = " ".join(_COLOR_CODE.sub("", str(error)).split())
            raise ConfigError(
                f"environment 'gymnasium': `{self._settings.id}` cannot be created: {reason}",
                hint="check `env.id` and `env.options`; it needs `render_mode` `ansi`, or "
                "observations that are texts",
            ) from error
        count = getattr(self._game.action_space, "n", None)
        if (count or 0) != len(self._settings.actions):
            raise ConfigError(
                f"environment 'gymnasium': `env.actions` has {len(self._settings.actions)} names; "
                f"`{self._settings.id}` has {count or 'no'} discrete actions",
                hint="name each of them in order" if count else "remove `env.actions`",
            )
        return self._game

    def _text(self, observation: Any) -> str:
        if isinstance(observation, str):
            return observation
        shown = self._make().render()
        text = shown if isinstance(shown, str) else str(observation)
        return _COLOR.sub(lambda found: f"[{found['text']}]", text).strip("\n")

    def _goal(self, index: int) -> str:
        return f"{self._settings.instruction or self._settings.id} (seed {index})"


SPEC = EnvSpec(
    settings=GymnasiumSettings,
    make=GymnasiumText,
    describe=lambda fingerprint: str(fingerprint["id"]),
)
