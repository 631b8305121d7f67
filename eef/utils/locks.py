"""Lock files: one writer at a time per directory.

Built on `flock`, which the kernel releases when the process ends, however it ends. The lock file
names its holder for the error message; `filelock`, which makes the same call, does not report it.
"""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from typing import TextIO

from eef.errors import StoreError


def acquire_lock(path: Path) -> TextIO:
    """Lock a file until it is closed or this process ends.

    StoreError, with the holder, if another process holds the lock.
    """
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise StoreError(
            f"`{path.parent}` is being written by {holder}",
            hint="wait until it ends, or use another directory",
        ) from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    return file
