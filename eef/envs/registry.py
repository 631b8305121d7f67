"""Environments by name: `make_env`, `make_expert`, `prepare_env`.

A module is imported when its environment is first used: missing dependencies of one environment
do not affect the others. Environments of other packages are entry points of `eef.environments`, or
are named as `module:object`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from inspect import isclass, signature
from typing import Any, get_args, get_type_hints

from eef.config import Settings, parse_settings
from eef.env import Env
from eef.envs.spec import EnvSpec
from eef.errors import ConfigError
from eef.plugins import Plugins, is_reference
from eef.policy import Policy
from eef.utils.progress import OnProgress

ENVIRONMENTS = {
    "webshop": "eef.envs.webshop.spec",
    "scienceworld": "eef.envs.scienceworld.spec",
    "textworld-express": "eef.envs.textworld_express",
    "workflow": "eef.envs.workflow.env",
    "gymnasium": "eef.envs.gymnasium_text",
    "agentgym": "eef.envs.agentgym",
    "openenv": "eef.envs.openenv",
    "inspect": "eef.envs.inspect_tasks",
    "verifiers": "eef.envs.verifiers",
    "alfworld": "eef.envs.alfworld",
    "toy": "eef.envs.toy",
}
"""Name → module whose `SPEC` is the environment's `EnvSpec`."""


def env_spec(name: str) -> EnvSpec:
    """The `EnvSpec` of an environment. Raises ConfigError if it is unknown or cannot be loaded."""
    return PLUGINS.load(_references.get(name, name))


def report_spec(name: str) -> EnvSpec:
    """The `EnvSpec` of an environment for reports; a plain one if it is not installed here."""
    try:
        return env_spec(name)
    except ConfigError:
        return EnvSpec(settings=Settings, make=_not_installed)


def remember_reference(name: str, reference: str) -> None:
    """Let `name` mean the environment of a `module:object` from now on; task ids start with it."""
    if is_reference(reference):
        _references[name] = reference


def make_env(name: str, options: Mapping[str, Any]) -> Env:
    """Create an environment from its own settings.

    Raises ConfigError for an unknown environment, an unknown setting or a value of the wrong type.
    """
    env = env_spec(name).make(_settings(name, options))
    remember_reference(env.name, name)
    return env


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


def make_role(env: Env, role: str, preset: str) -> Policy:
    """Create the scripted model `scripted/<preset>` of a role in an environment.

    Raises ConfigError if the environment has none, EnvError for an unknown role or preset.
    """
    make = env_spec(env.name).make_role
    if make is None:
        raise ConfigError(
            f"environment {env.name!r} has no scripted roles",
            hint=f'set `roles.{role}.model` to "base", "hf/…" or "openai/…"',
        )
    return make(env, role, preset)


def _settings(name: str, options: Mapping[str, Any]) -> Settings:
    return parse_settings(env_spec(name).settings, options, source=f"environment {name!r}")


def _spec_of(target: Any) -> EnvSpec:
    """The spec that an entry point or reference leads to: itself, or that of an environment class.

    A class that is the `make` of its module's `SPEC` has that one. Any other class has the settings
    that annotate the first parameter of its constructor, or none. ValueError for anything else.
    """
    if isinstance(target, EnvSpec):
        return target
    if not isclass(target) or not callable(getattr(target, "reset", None)):
        raise ValueError("is neither an environment class nor an `EnvSpec`")
    make: Any = target
    spec = getattr(sys.modules[target.__module__], "SPEC", None)
    if isinstance(spec, EnvSpec) and spec.make is target:
        return spec
    parameters = list(signature(target).parameters.values())
    if not parameters:
        return EnvSpec(settings=Settings, make=lambda settings: make())
    hint = get_type_hints(target.__init__).get(parameters[0].name)
    kinds = [each for each in (hint, *get_args(hint)) if isclass(each)]
    settings = next((each for each in kinds if issubclass(each, Settings)), None)
    if settings is None:
        raise ValueError(f"does not annotate its parameter `{parameters[0].name}` with `Settings`")
    return EnvSpec(settings=settings, make=make)


def _not_installed(settings: Settings) -> Env:
    raise AssertionError("the spec of an environment that is not installed is only for reports")


def _own_spec(name: str) -> EnvSpec:
    return _spec_of(import_module(ENVIRONMENTS[name]).SPEC)


PLUGINS = Plugins("environment", "eef.environments", ENVIRONMENTS, _own_spec, _spec_of)
_references: dict[str, str] = {}
