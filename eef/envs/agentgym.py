"""Environments behind a server with AgentGym's API: AgentGym's own, and `eef env serve`.

The servers of AgentGym differ in the names of a few fields; the defaults are those of WebShop and
of `eef env serve`. ScienceWorld, BabyAI and TextCraft, for example, are played with

    [env]
    name = "agentgym"
    url = "http://127.0.0.1:36001"
    session_field = "id"
    task_field = "data_idx"
    reward = "total"
"""

from __future__ import annotations

import http.client
import json
import urllib.error
import urllib.request
from contextlib import suppress
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from eef.config import check_address
from eef.env import AFTER_END, StepResult
from eef.envs.foreign import ForeignEnv, ForeignSettings, described, react_rules
from eef.envs.spec import EnvSpec
from eef.errors import ConfigError, EnvError
from eef.task import Task

_LONGEST_WORDS = 300


class AgentGymSettings(ForeignSettings):
    """Settings of `agentgym`."""

    url: str
    """Address of the server, such as `http://127.0.0.1:36001`."""

    session_field: str = "env_idx"
    """Field that names a session: `env_idx`, or `id` at most servers of AgentGym."""

    task_field: str = "session_id"
    """Field of `/reset` that holds the number of a task: `session_id`, `data_idx` or `game`."""

    reward: Literal["gained", "total"] = "gained"
    """Whether a step returns the reward that it gained, or the total so far."""

    seeded: bool = False
    """Whether `/reset` takes the seed of an episode, as that of `eef env serve` does."""

    rules: str = ""
    """Text of the system message: the rules and the format of actions. By default, one sentence
    about ReAct."""

    timeout: float = Field(default=60.0, gt=0)
    """Seconds after which a request fails its rollout."""

    @model_validator(mode="after")
    def _has_an_address(self) -> AgentGymSettings:
        check_address("url", self.url)
        return self


class AgentGym(ForeignEnv):
    """A session at a server. ConfigError if no server answers when it is created."""

    name = "agentgym"
    concurrent = True

    def __init__(self, settings: AgentGymSettings) -> None:
        super().__init__(settings)
        self._settings = settings
        self.seeded = settings.seeded
        self._session: Any = None
        self._total, self._over = 0.0, False
        self.prompt = settings.rules or react_rules()
        try:
            self._request("GET", "/")
        except EnvError as error:
            raise ConfigError(
                f"environment 'agentgym': {error.message}",
                hint="start the server, for example `eef env serve webshop`, or check `env.url`",
            ) from None

    def reset(self, task: Task) -> str:
        if self._session is None:
            created = self._request("POST", "/create", {})
            self._session = created.get("id") if isinstance(created, dict) else created
        fields = {self._settings.task_field: task.index}
        if self.seeded:
            fields["seed"] = task.seed
        answer = self._act("/reset", fields)
        observation = answer[0] if isinstance(answer, list) and answer else _observed(answer)
        self._total, self._over = 0.0, False
        return self._opened(str(observation))

    def step(self, action: str) -> StepResult:
        if self._over:
            return AFTER_END
        answer = self._act("/step", {"action": action})
        try:
            reward, self._over = float(answer["reward"]), bool(answer["done"])
        except (KeyError, TypeError, ValueError):
            raise EnvError(
                f"{self._settings.url}/step: expected `reward` and `done`, got "
                f"{json.dumps(answer)[:_LONGEST_WORDS]}"
            ) from None
        if self._settings.reward == "total":
            reward, self._total = reward - self._total, reward
        return StepResult(str(_observed(answer)), reward, self._over)

    def clone(self) -> Self:
        other = super().clone()
        other._session = None
        return other

    def fingerprint(self) -> dict[str, Any]:
        return {"env": self.name, **described(self._settings, without=("url", "timeout"))}

    def close(self) -> None:
        if self._session is not None:
            with suppress(EnvError):
                self._act("/close", {})
            self._session = None

    def _act(self, path: str, fields: dict[str, Any]) -> Any:
        session = {self._settings.session_field: self._session}
        answer = self._request("POST", path, {**session, **fields})
        failed = isinstance(answer, dict) and "error" in answer
        if failed and not {"state", "observation"} & {*answer}:
            raise EnvError(f"{self._settings.url}{path}: {answer['error']}")
        return answer

    def _request(self, method: str, path: str, fields: dict[str, Any] | None = None) -> Any:
        """The JSON value that the server returns; a text as it is. Raises EnvError."""
        url = self._settings.url.rstrip("/") + path
        request = urllib.request.Request(  # noqa: S310 – the scheme is checked
            url,
            method=method,
            data=None if fields is None else json.dumps(fields).encode(),
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=self._settings.timeout) as response:  # noqa: S310
                body = response.read().decode("utf-8", "replace")
        except urllib.error.HTTPError as error:
            words = " ".join(error.read().decode("utf-8", "replace").split())[:_LONGEST_WORDS]
            raise EnvError(f"{url} returned {error.code}: {words}") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise EnvError(f"no answer from {url}: {reason}") from None
        try:
            return json.loads(body)
        except ValueError:
            return body


def _observed(answer: Any) -> Any:
    """The observation in an answer, whatever its server calls it."""
    if not isinstance(answer, dict):
        return answer
    return answer.get("state", answer.get("observation", ""))


SPEC = EnvSpec(
    settings=AgentGymSettings,
    make=AgentGym,
    describe=lambda fingerprint: str(fingerprint.get("instruction") or "AgentGym server"),
)
