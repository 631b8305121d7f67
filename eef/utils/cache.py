"""Cache: the directory of files that environments can rebuild (indexes, gold paths)."""

from __future__ import annotations

import os
from pathlib import Path


def cache_directory() -> Path:
    """`$EEF_CACHE`, or `eef` in the user's cache directory (`$XDG_CACHE_HOME` or `~/.cache`)."""
    own = os.environ.get("EEF_CACHE")
    return (
        Path(own)
        if own
        else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "eef"
    )
