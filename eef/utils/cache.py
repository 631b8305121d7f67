"""Cache: the directory of files that environments can rebuild (indexes, gold paths)."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_directory() -> Path:
    """`$EEF_CACHE`, or `eef` in the user's cache directory (`~/.cache` on Linux)."""
    own = os.environ.get("EEF_CACHE")
    return Path(own) if own else user_cache_path("eef")
