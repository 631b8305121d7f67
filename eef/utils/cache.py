"""Cache: where what environments can make again is kept. Their indexes and gold paths lie there."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """`$EEF_CACHE`, else `eef` in the user's cache directory (`$XDG_CACHE_HOME`, else `~/.cache`)."""
    own = os.environ.get("EEF_CACHE")
    return (
        Path(own)
        if own
        else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eef"
    )
