"""Environments by name, and who can play them without a model: `make_env`, `make_expert`; `prepare_env` does
beforehand what takes long.

An environment is imported when it is asked for, so that one which needs more than is installed troubles nobody else.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast, get_type_hints

from pydantic import TypeAdapter, ValidationError

from eef.config import Settings, nearest, suggestion
from eef.env import Env
from eef.errors import ConfigError
from eef.policy import Policy
from eef.utils.progress import OnProgress

ENVS = {
    "webshop": ("eef.envs.webshop", "WebShop"),
    "scienceworld": ("eef.envs.scienceworld", "ScienceWorld"),
    "textworld-express": ("eef.envs.textworld_express", "TextWorldExpress"),
    "toy": ("eef.envs.toy", "ToyEnv"),
}
EXPERTS = {
    "webshop": ("eef.envs.webshop.expert", "make_shop_expert"),
    "scienceworld": ("eef.envs.simulators.gold_paths", "make_gold_expert"),
    "textworld-express": ("eef.envs.simulators.gold_paths", "make_gold_expert"),
    "toy": ("eef.envs.toy", "make_toy_expert"),
}
PREPARATIONS = {
    "webshop": ("eef.envs.webshop.shop", "prepare"),
}
GROUPS = {
    "webshop": {"synthetic": ("eef.envs.webshop.synthetic", "SyntheticSettings")},
}


def make_env(name: str, options: Mapping[str, Any]) -> Env:
    """The environment of a name with its own settings. ConfigError: no such environment or
    setting, or a value of another type."""
    return cast(Env, _find(ENVS, name, "environment")(**_fitting_all(name, options)))


def prepare_env(name: str, options: Mapping[str, Any], on_progress: OnProgress) -> None:
    """Do what the environment needs done once before it is first made (WebShop: the index of large official files).

    `on_progress` is not called if there is nothing to do. Raises what `make_env` raises.
    """
    fitting = _fitting_all(name, options)
    if name in PREPARATIONS:
        _find(PREPARATIONS, name, "preparation of")(fitting, on_progress)


def make_expert(env: Env, preset: str) -> Policy:
    """The scripted expert of an environment (`scripted/<preset>`). ConfigError where it has none."""
    return cast(Policy, _find(EXPERTS, env.name, "scripted expert for")(env, preset))


def setting_groups(name: str) -> dict[str, type[Settings]]:
    """The groups inside an environment's own settings, by the key they stand under: `synthetic` of `webshop`."""
    return {
        key: getattr(import_module(module), kind)
        for key, (module, kind) in GROUPS.get(name, {}).items()
    }


def _fitting_all(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """An environment's settings, each as its type."""
    kind = _find(ENVS, name, "environment")
    types = {key: hint for key, hint in get_type_hints(kind.__init__).items() if key != "return"}
    return {key: _fitting(name, key, value, types) for key, value in options.items()}


def _fitting(name: str, key: str, value: Any, types: Mapping[str, Any]) -> Any:
    """The value of a setting as its type (a list where a tuple is declared becomes one)."""
    if key not in types:
        like = nearest(key, list(types))
        hint = f"did you mean `{like}`?" if like else f"known here: {', '.join(types)}"
        raise ConfigError(f"`env.{key}` is no setting of {name!r}", hint=hint)
    try:
        return TypeAdapter(types[key]).validate_python(value)
    except ValidationError as error:
        message = error.errors()[0]["msg"]
        raise ConfigError(f"`env.{key}` is {value!r}: {message[0].lower()}{message[1:]}") from None


def _find(table: Mapping[str, tuple[str, str]], name: str, what: str) -> Any:
    if name not in table:
        raise ConfigError(f"no {what} {name!r}", hint=suggestion(name, table))
    module, attribute = table[name]
    return getattr(import_module(module), attribute)
