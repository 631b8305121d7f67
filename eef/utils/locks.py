"""Lock files: one writer at a time per directory."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from typing import TextIO

from eef.errors import StoreError


def acquire_lock(path: Path) -> TextIO:
    """The lock file, held until it is closed or its process ends. StoreError naming the process that holds it."""
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise StoreError(
            f"`{path.parent}` is being written by {holder}",
            hint="wait until it has ended, or give this run another directory",
        ) from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file
