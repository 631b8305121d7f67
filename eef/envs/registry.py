"""Environments by name: `make_env`, `make_expert`, `prepare_env`.

A module is imported when its environment is first used: missing dependencies of one environment
do not affect the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from eef.config import Settings, describe_problems, unknown_name
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

GROUPS = {
    "webshop": {"synthetic": ("eef.envs.webshop.synthetic", "SyntheticSettings")},
}


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
    return env_spec(name).make(**_fitting_all(name, options))


def prepare_env(name: str, options: Mapping[str, Any], on_progress: OnProgress) -> None:
    """Do the slow work that is needed once before `make_env` (WebShop: index large official files).

    `on_progress` is not called if there is nothing to do. Raises what `make_env` raises.
    """
    fitting = _fitting_all(name, options)
    prepare = env_spec(name).prepare
    if prepare is not None:
        prepare(fitting, on_progress)


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


def setting_groups(name: str) -> dict[str, type[Settings]]:
    """The nested groups of an environment's settings by key: `synthetic` of `webshop`."""
    return {
        key: getattr(import_module(module), kind)
        for key, (module, kind) in GROUPS.get(name, {}).items()
    }


def _fitting_all(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """An environment's settings, each as its type."""
    kind: Any = env_spec(name).make
    types = {key: hint for key, hint in get_type_hints(kind.__init__).items() if key != "return"}
    return {key: _fitting(name, key, value, types) for key, value in options.items()}


def _fitting(name: str, key: str, value: Any, types: Mapping[str, Any]) -> Any:
    """The value of a setting as its type (a list where a tuple is declared becomes one)."""
    if key not in types:
        raise unknown_name("setting", f"env.{key}", [f"env.{known}" for known in types])
    try:
        return TypeAdapter(types[key]).validate_python(value)
    except ValidationError as error:
        raise ConfigError(f"`env.{key}` is {describe_problems(error.errors())}") from None
