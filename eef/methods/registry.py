"""Methods by name. A module is imported when its method is first used.

Methods of other packages are entry points of `eef.methods`; an option `method` may also name one as
`module:object`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from inspect import isclass
from typing import Any

from eef.config import most_similar
from eef.errors import ConfigError
from eef.methods.base import Method
from eef.plugins import Plugins, is_reference

METHODS = {
    "bc": "eef.methods.bc",
    "sft_all": "eef.methods.sft_all",
    "nat": "eef.methods.nat",
    "rft": "eef.methods.rft",
    "eto": "eef.methods.eto",
    "ipr": "eef.methods.ipr",
    "atlas": "eef.methods.atlas",
    "mpo": "eef.methods.mpo",
    "epo": "eef.methods.epo",
    "cgi": "eef.methods.cgi",
    "w4s": "eef.methods.w4s",
    "retroact": "eef.methods.retroact",
    "stl": "eef.methods.stl",
    "grpo": "eef.methods.grpo",
    "rloo": "eef.methods.rloo",
    "gigpo": "eef.methods.gigpo",
    "eef": "eef.methods.eef",
    "eef+dpo": "eef.methods.eef_dpo",
    "eef+grpo": "eef.methods.eef_grpo",
    "eef+judge": "eef.methods.eef_judge",
    "eef+planner": "eef.methods.eef_planner",
    "eef+adviser": "eef.methods.eef_adviser",
}
"""Name → module whose `METHOD` is the method's class."""

_VALID_NAME = re.compile(r"[A-Za-z0-9_+-]+")


def method_class(name: str) -> type[Method[Any]]:
    """The class of a method. ConfigError if it is unknown or cannot be loaded."""
    try:
        return PLUGINS.load(name)
    except ConfigError as problem:
        names = PLUGINS.names()
        if is_reference(name) or name in names or most_similar(name, names):
            raise
        variant = 'a variant needs `options.<name>.method`, e.g. `method = "eef"`'
        raise ConfigError(problem.message, hint=f"{problem.hint}; {variant}") from None


def make_method(name: str, options: Mapping[str, object] | None = None) -> Method[Any]:
    """The method of a name, with options.

    `rft<k>` is `rft` with that k. The option `method` makes a variant: a method with other options
    under a name of its own, such as `make_method("eef-M3", {"method": "eef", "M": 3})`.

    ConfigError for an unknown method or option, with the nearest known one.
    """
    given = dict(options or {})
    method = _method_of(name, given.pop("method", name))
    numbered = re.fullmatch(r"rft(\d+)", method)
    if numbered:
        if "k" in given:
            raise ConfigError(
                f"options.{name}: `k` has no effect: the method {method!r} sets it",
                hint="remove `k`",
            )
        method, given = "rft", {**given, "k": int(numbered[1])}
    return method_class(method).create(name, given)


def _method_of(name: str, method: object) -> str:
    """The method that a name stands for: itself, or the option `method` of a variant.

    A name is also a folder of the run, so its characters are restricted.
    """
    if not _VALID_NAME.fullmatch(name) or name == "expert":
        raise ConfigError(
            f"{name!r} is not a valid method name",
            hint="use letters, digits, `-`, `_` and `+`; `expert` is reserved",
        )
    if not isinstance(method, str):
        raise ConfigError(f"options.{name}: `method` is {method!r}; expected the name of a method")
    if name == "bc" and method != "bc":
        raise ConfigError(
            "options.bc: `method` has no effect: every run starts with behavior cloning"
        )
    return method


def _class_of(target: Any) -> type[Method[Any]]:
    """The class itself. ValueError if it is not a method."""
    if not isclass(target) or not issubclass(target, Method):
        raise ValueError("is not a subclass of `eef.methods.base.Method`")
    if missing := sorted(getattr(target, "__abstractmethods__", ())):
        raise ValueError(f"has no {' and no '.join(f'`{name}`' for name in missing)}")
    return target


def _own_class(name: str) -> type[Method[Any]]:
    return _class_of(import_module(METHODS[name]).METHOD)


PLUGINS = Plugins("method", "eef.methods", METHODS, _own_class, _class_of)
