"""Lock files: one writer at a time per directory.

Built on `flock`, which the kernel releases when the process ends, however it ends. The lock file
names its holder for the error message; `filelock`, which makes the same call, does not report it.
"""

from __future__ import annotations

import fcntl
import os
import socket
from io import FileIO
from pathlib import Path

from eef.errors import StoreError
from eef.utils.jsonl import disk_errors


def acquire_lock(path: Path) -> FileIO:
    """Lock a file until it is closed or this process ends.

    StoreError, with the holder, if another process holds the lock; StoreError if the file cannot be
    written.
    """
    with disk_errors(path):
        file = FileIO(path, "a+")
        try:
            _lock(file, path)
        except BaseException:
            file.close()
            raise
    return file


def _lock(file: FileIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().decode(errors="replace").strip() or "another process"
        raise StoreError(
            f"`{path.parent}` is being written by {holder}",
            hint="wait until it ends, or use another directory",
        ) from None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
