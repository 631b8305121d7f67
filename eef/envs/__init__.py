"""Environments by name, and who can play them without a model: `make_env`, `make_expert`.

An environment is imported when it is asked for, so that one which needs more than is installed troubles nobody else.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

from eef.config import nearest
from eef.env import Env
from eef.errors import ConfigError
from eef.policy import Policy

ENVS = {
    "webshop": ("eef.envs.webshop", "WebShop"),
    "toy": ("eef.envs.toy", "ToyEnv"),
}
EXPERTS = {
    "webshop": ("eef.envs.webshop.expert", "make_shop_expert"),
    "toy": ("eef.envs.toy", "make_toy_expert"),
}


def make_env(name: str, options: Mapping[str, Any]) -> Env:
    """The environment of a name with its own settings. ConfigError: no such environment or setting."""
    kind = _find(ENVS, name, "environment")
    known = [key for key in inspect.signature(kind).parameters]
    for key in options:
        if key not in known:
            like = nearest(key, known)
            hint = f"did you mean `{like}`?" if like else f"known here: {', '.join(known)}"
            raise ConfigError(f"`env.{key}` is no setting of {name!r}", hint=hint)
    return cast(Env, kind(**options))


def make_expert(env: Env, preset: str) -> Policy:
    """The scripted expert of an environment (`scripted/<preset>`). ConfigError where it has none."""
    return cast(Policy, _find(EXPERTS, env.name, "scripted expert for")(env, preset))


def _find(table: Mapping[str, tuple[str, str]], name: str, what: str) -> Any:
    if name not in table:
        like = nearest(name, list(table))
        raise ConfigError(
            f"no {what} {name!r}", hint=f"did you mean {like!r}?" if like else f"there are: {', '.join(table)}"
        )
    module, attribute = table[name]
    return getattr(import_module(module), attribute)
