"""Keys of servers: read from environment variables, which recipes name; never written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from eef.errors import ConfigError

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Hosts that are this machine."""


def read_key(variable: str, urls: Iterable[str], *, hint: str) -> str | None:
    """The key in an environment variable; None if there is none.

    ConfigError if a server on another machine would get none. `hint` is its way out.
    """
    key = os.environ.get(variable, "").strip() or None
    for url in urls:
        if key is None and urlsplit(url).hostname not in LOOPBACK:
            raise ConfigError(
                f"no key for the server at {url}: the environment variable `{variable}` is not set",
                hint=hint,
            )
    return key


def check_key_name(variable: str) -> None:
    """ValueError if a setting holds something else than the name of a variable."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):
        raise ValueError(
            "`key` is not the name of an environment variable; never put the key itself here"
        )
