"""Methods by name. A method is `plan` (states to play on from) and `select` (what to train on), both pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from eef.config import nearest
from eef.errors import ConfigError
from eef.methods.atlas import Atlas
from eef.methods.base import Method
from eef.methods.bc import Bc
from eef.methods.eef import Eef
from eef.methods.eef_dpo import EefDpo
from eef.methods.eto import Eto
from eef.methods.ipr import Ipr
from eef.methods.nat import Nat
from eef.methods.rft import Rft
from eef.methods.sft_all import SftAll

METHODS: dict[str, type[Method]] = {
    "bc": Bc,
    "sft_all": SftAll,
    "nat": Nat,
    "rft": Rft,
    "eto": Eto,
    "ipr": Ipr,
    "atlas": Atlas,
    "eef": Eef,
    "eef+dpo": EefDpo,
}
_NAME = re.compile(r"[A-Za-z0-9_+-]+")


def make_method(name: str, options: Mapping[str, object] | None = None) -> Method:
    """The method of a name with its options; `rft6` is `rft` with k = 6.

    With the option `method` the name is an arm's: `make_method("eef-M3", {"method": "eef", "M": 3})`.
    Raises ConfigError naming the nearest known method or option.
    """
    given = dict(options or {})
    kind = _kind(name, given.pop("method", name))
    numbered = re.fullmatch(r"rft(\d+)", kind)
    if numbered:
        if "k" in given:
            raise ConfigError(
                f"options.{name}: the name `{kind}` sets `k` already", hint="leave `k` out"
            )
        return METHODS["rft"].of(name, {**given, "k": int(numbered[1])})
    if kind not in METHODS:
        like = nearest(kind, list(METHODS))
        arm = f'a name of your own needs `options.{name}.method`, e.g. `method = "eef"`'
        hint = f"did you mean `{like}`?" if like else f"known methods: {', '.join(METHODS)}; {arm}"
        raise ConfigError(f"unknown method `{kind}`", hint=hint)
    return METHODS[kind].of(name, given)


def _kind(name: str, method: object) -> str:
    """The method that an arm's name stands for. An arm is a folder of the run, so its name is a plain word."""
    if not _NAME.fullmatch(name) or name == "expert":
        raise ConfigError(
            f"{name!r} is no name for a method",
            hint="letters, digits, `-`, `_` and `+`; not `expert`",
        )
    if not isinstance(method, str):
        raise ConfigError(f"options.{name}: `method` is {method!r}, not the name of a method")
    if name == "bc" and method != "bc":
        raise ConfigError(
            "options.bc: `method` has no effect: every run begins with behaviour cloning"
        )
    return method
