"""Run a command in a process group of its own and end the whole group with the caller.

Executed as a script by `Guarded` with the interpreter of `eef`: `guard.py LOG COMMAND …`. It writes
the id of the group to its output and ends the group when its input closes, which happens however
the caller ends, or when the command itself ends.

The guard is a grandchild of its caller: some callers end with all their children killed, as the
processes of Ray do. The child between them exits with the guard's status.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_SECONDS_TO_END = 15.0
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER


class Guarded:
    """A command under guard, started at once; its output goes to `log`."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str]) -> None:
        self._guard = subprocess.Popen(
            [sys.executable, "-I", __file__, str(log), *command],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C of a terminal does not reach it
        )
        assert self._guard.stdout is not None
        line = self._guard.stdout.readline()
        self._group = int(line) if line.strip() else None

    @property
    def runs(self) -> bool:
        """Whether the command has not ended."""
        return self._guard.poll() is None

    @property
    def status(self) -> int | None:
        """The exit status of the command, 128 + N after signal N; None as long as it runs."""
        return self._guard.poll()

    def end(self) -> None:
        """End the command and everything that it started; returns when they have ended."""
        assert self._guard.stdin is not None
        assert self._guard.stdout is not None
        with suppress(OSError):
            self._guard.stdin.close()
        try:
            self._guard.wait(2 * _SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._guard.kill()
            self._guard.wait()
        self._guard.stdout.close()
        if self._group is not None:  # in case that the guard itself was killed
            _signal_group(self._group, signal.SIGKILL)


def main() -> None:
    """The guard."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if guard := os.fork():
        _, status = os.waitpid(guard, 0)
        os._exit(os.waitstatus_to_exitcode(status) % 256)
    with suppress(OSError, AttributeError):  # Linux: what the command leaves becomes our child
        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    log, *command = sys.argv[1:]
    with open(log, "ab") as output:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_default_signals,
            )
        except OSError as error:
            output.write(f"{error}\n".encode())
            raise SystemExit(127) from None
    print(process.pid, flush=True)
    threading.Thread(target=_end_with_caller, args=(process.pid,), daemon=True).start()
    status = process.wait()
    _end_group(process.pid)
    os._exit(status if status >= 0 else 128 - status)


def _default_signals() -> None:
    """Undo, for the command, that its guard ignores signals."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _end_with_caller(group: int) -> None:
    while os.read(0, 1024):
        pass
    _end_group(group)
    os._exit(0)


def _end_group(group: int) -> None:
    """Terminate a process group, then kill what has not ended."""
    deadline = time.monotonic() + _SECONDS_TO_END
    _signal_group(group, signal.SIGTERM)
    while _signal_group(group, 0) and time.monotonic() < deadline:
        _reap()
        time.sleep(0.05)
    _signal_group(group, signal.SIGKILL)
    for child in _children():
        with suppress(OSError):
            os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + 1.0
    while _children() and time.monotonic() < deadline:
        _reap()
        time.sleep(0.02)


def _signal_group(group: int, number: int) -> bool:
    """Signal a group; False if it has no process left."""
    try:
        os.killpg(group, number)
    except OSError:
        return False
    return True


def _reap() -> None:
    """Collect ended processes, which would otherwise count as members of their group."""
    with suppress(OSError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _children() -> list[int]:
    children = []
    with suppress(OSError):
        for path in Path("/proc/self/task").glob("*/children"):
            children += [int(child) for child in path.read_text().split()]
    return children


if __name__ == "__main__":
    main()
