"""Methods by name. A method is `plan` (states to play on from) and `select` (what to train on), both pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from eef.config import nearest
from eef.errors import ConfigError
from eef.methods.base import Method
from eef.methods.bc import Bc
from eef.methods.eef import Eef
from eef.methods.rft import Rft

METHODS: dict[str, type[Method]] = {"bc": Bc, "rft": Rft, "eef": Eef}


def make_method(name: str, options: Mapping[str, object] | None = None) -> Method:
    """The method of a name with its options; `rft6` is `rft` with k = 6.

    Raises ConfigError naming the nearest known method or option.
    """
    given = dict(options or {})
    numbered = re.fullmatch(r"rft(\d+)", name)
    if numbered:
        if "k" in given:
            raise ConfigError(f"options.{name}: the name `{name}` sets `k` already", hint="leave `k` out")
        return METHODS["rft"].of(name, {**given, "k": int(numbered[1])})
    if name not in METHODS:
        like = nearest(name, list(METHODS))
        hint = f"did you mean `{like}`?" if like else f"known methods: {', '.join(METHODS)}"
        raise ConfigError(f"unknown method `{name}`", hint=hint)
    return METHODS[name].of(name, given)
