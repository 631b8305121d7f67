"""Environments behind an OpenEnv server (extra `openenv`): a WebSocket session per episode.

An action is a JSON object of the server's schema. If it has one field that matters, `action_field`
names it, and actions are plain texts. Otherwise agents call the tool `act`, whose parameters are
the schema. Each task is a seed, which `reset` is given.

    [env]
    name = "openenv"
    url = "http://127.0.0.1:8000"
    action_field = "message"
    observation_field = "echoed_message"
"""

from __future__ import annotations

import json
import urllib.request
from contextlib import suppress
from typing import Any, Self

from pydantic import Field, JsonValue, model_validator

from eef.config import check_address
from eef.env import AFTER_END, StepResult, ToolEnv
from eef.envs.foreign import ForeignEnv, ForeignSettings, described, react_rules
from eef.envs.spec import EnvSpec
from eef.errors import ConfigError, EnvError
from eef.task import Task
from eef.tools import Tool
from eef.utils.extras import require_package


class OpenEnvSettings(ForeignSettings):
    """Settings of `openenv`."""

    url: str
    """Address of the server, such as `http://127.0.0.1:8000`."""

    action_field: str = ""
    """Field of an action that receives the text; if unset, agents call the tool `act`."""

    observation_field: str = ""
    """Field of an observation that is shown; by default all of it, as JSON."""

    options: dict[str, JsonValue] = Field(default={})
    """Further arguments of `reset`, for example a level."""

    timeout: float = Field(default=60.0, gt=0)
    """Seconds after which an action fails its rollout."""

    @model_validator(mode="after")
    def _has_an_address(self) -> OpenEnvSettings:
        check_address("url", self.url)
        if "seed" in self.options:
            raise ValueError("`options` holds `seed`: the seed of an episode is its task's index")
        return self


class OpenEnv(ForeignEnv, ToolEnv):
    """A session at a server. ConfigError if no OpenEnv server answers when it is created."""

    name = "openenv"
    concurrent = True

    def __init__(self, settings: OpenEnvSettings) -> None:
        require_package("openenv", "the environment `openenv`")
        super().__init__(settings)
        self._settings = settings
        self._client: Any = None
        self._over = False
        schema = self._schema()
        if not settings.action_field:
            self.tools = (Tool("act", "Act in the environment.", _parameters(schema)),)
            self.rules = settings.instruction

    @property
    def prompt(self) -> str:  # type: ignore[override]
        return react_rules() if self._settings.action_field else super().prompt

    def reset(self, task: Task) -> str:
        result = self._ask("reset", seed=task.index, **self._settings.options)
        self._over = bool(result.done)
        return self._opened(self._shown(result.observation))

    def step(self, action: str) -> StepResult:
        if self._over:
            return AFTER_END
        field = self._settings.action_field
        return self.call(field, {field: action}) if field else super().step(action)

    def call(self, name: str, arguments: dict[str, Any]) -> StepResult:
        result = self._ask("step", arguments)
        self._over = bool(result.done)
        return StepResult(self._shown(result.observation), float(result.reward or 0.0), self._over)

    def clone(self) -> Self:
        other = super().clone()
        other._client = None
        return other

    def fingerprint(self) -> dict[str, Any]:
        return {"env": self.name, **described(self._settings, without=("url", "timeout"))}

    def close(self) -> None:
        if self._client is not None:
            with suppress(Exception):
                self._client.close()
            self._client = None

    def _ask(self, what: str, *arguments: Any, **options: Any) -> Any:
        from openenv.core.generic_client import GenericEnvClient

        try:
            if self._client is None:
                client = GenericEnvClient(
                    base_url=self._settings.url, message_timeout_s=self._settings.timeout
                )
                self._client = client.sync()
                self._client.connect()
            return getattr(self._client, what)(*arguments, **options)
        except Exception as error:  # the client raises its own, websockets' and asyncio's
            self.close()
            reason = str(error) or type(error).__name__
            raise EnvError(f"{self._settings.url}: `{what}` failed: {reason}") from error

    def _shown(self, observation: Any) -> str:
        field = self._settings.observation_field
        if field:
            if not isinstance(observation, dict) or field not in observation:
                known = ", ".join(observation) if isinstance(observation, dict) else "no fields"
                raise ConfigError(
                    f"environment 'openenv': observations have no field {field!r}",
                    hint=f"set `env.observation_field` to one of: {known}",
                )
            value = observation[field]
            return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        return json.dumps(observation, ensure_ascii=False, sort_keys=True)

    def _schema(self) -> dict[str, Any]:
        """The JSON schema of actions. ConfigError if the server does not state it."""
        url = f"{self._settings.url.rstrip('/')}/schema"
        try:
            with urllib.request.urlopen(url, timeout=self._settings.timeout) as response:  # noqa: S310
                schema = json.loads(response.read())["action"]
            if not isinstance(schema, dict):
                raise ValueError(f"`action` is {schema!r}; expected an object")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"environment 'openenv': no schema from {url}: {getattr(error, 'reason', error)}",
                hint="start the OpenEnv server, or check `env.url`",
            ) from None
        field = self._settings.action_field
        known = dict(schema.get("properties", {}))
        if field and field not in known:
            raise ConfigError(
                f"environment 'openenv': actions have no field {field!r}",
                hint=f"set `env.action_field` to one of: {', '.join(known)}",
            )
        return schema


def _parameters(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of actions without the metadata that every action may have."""
    known = schema.get("properties", {})
    kept = {name: each for name, each in known.items() if name != "metadata"}
    return {**schema, "type": "object", "properties": kept}


SPEC = EnvSpec(
    settings=OpenEnvSettings,
    make=OpenEnv,  # type: ignore[arg-type]  # its prompt is a property
    describe=lambda fingerprint: str(fingerprint.get("instruction") or "OpenEnv server"),
)
