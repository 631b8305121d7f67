"""Environments by name: `make_env`, `make_expert`, `prepare_env`.

A module is imported when its environment is first used: missing dependencies of one environment
do not affect the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from eef.config import Settings, parse_settings, unknown_name
from eef.env import Env
from eef.envs.spec import EnvSpec
from eef.errors import ConfigError
from eef.policy import Policy
from eef.utils.progress import OnProgress

ENVIRONMENTS = {
    "webshop": "eef.envs.webshop.spec",
    "scienceworld": "eef.envs.scienceworld.spec",
    "textworld-express": "eef.envs.textworld_express",
    "toy": "eef.envs.toy",
}
"""Name → module whose `SPEC` is the environment's `EnvSpec`."""


def env_spec(name: str) -> EnvSpec:
    """The `EnvSpec` of an environment. Raises ConfigError for an unknown name."""
    if name not in ENVIRONMENTS:
        raise unknown_name("environment", name, ENVIRONMENTS)
    spec = import_module(ENVIRONMENTS[name]).SPEC
    assert isinstance(spec, EnvSpec), f"{ENVIRONMENTS[name]}.SPEC is not an EnvSpec"
    return spec


def make_env(name: str, options: Mapping[str, Any]) -> Env:
    """Create an environment from its own settings.

    Raises ConfigError for an unknown environment, an unknown setting or a value of the wrong type.
    """
    return env_spec(name).make(_settings(name, options))


def prepare_env(name: str, options: Mapping[str, Any], on_progress: OnProgress) -> None:
    """Do the slow work that is needed once before `make_env` (WebShop: index large official files).

    `on_progress` is not called if there is nothing to do. Raises what `make_env` raises.
    """
    settings, prepare = _settings(name, options), env_spec(name).prepare
    if prepare is not None:
        prepare(settings, on_progress)


def make_expert(env: Env, preset: str) -> Policy:
    """Create the scripted expert `scripted/<preset>` of an environment.

    Raises ConfigError if the environment has no scripted expert, EnvError for an unknown preset.
    """
    make = env_spec(env.name).make_expert
    if make is None:
        raise ConfigError(
            f"environment {env.name!r} has no scripted expert",
            hint="use an `hf/`, `openai/` or `file/` expert",
        )
    return make(env, preset)


def _settings(name: str, options: Mapping[str, Any]) -> Settings:
    return parse_settings(env_spec(name).settings, options, source=f"environment {name!r}")
