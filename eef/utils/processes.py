"""Child processes that ignore Ctrl-C, exit cleanly on SIGTERM and end with their parent.

Environments in worker processes and methods executed in parallel are such processes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess
from typing import Any

from eef.errors import EefError, EnvError, ReplayMismatch

SPAWN = multiprocessing.get_context("spawn")
"""Neither torch's threads nor a JVM survive a fork."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An EefError in a form that can be sent to the parent process."""

    kind: type[EefError]
    message: str
    hint: str

    @classmethod
    def of(cls, error: EefError) -> Failure:
        kind = EnvError if isinstance(error, ReplayMismatch) else type(error)
        return cls(kind, error.message, error.hint)

    def error(self) -> EefError:
        return self.kind(self.message, hint=self.hint)


def start_process(
    target: Callable[..., None], args: tuple[Any, ...], *, name: str, leaf: bool
) -> SpawnProcess:
    """Start `target(*args)` in a fresh interpreter.

    A `leaf` starts no child processes, and is terminated when this program exits. The caller must
    end any other process.
    """
    resource_tracker.ensure_running()  # started with the first process, it would unblock SIGINT
    process = SPAWN.Process(target=_main, args=(target, args), name=name, daemon=leaf)
    with _without_interrupts():
        try:
            process.start()
        except BaseException:  # the caller would have nothing to end it by
            if process.pid is not None:
                end_process(process, 1.0)
            raise
    return process


def end_process(process: SpawnProcess, timeout: float) -> None:
    """Terminate a process, and kill it if it has not ended after `timeout` seconds."""
    process.terminate()
    process.join(timeout)
    process.kill()
    process.join()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Block Ctrl-C, which reaches every process of a terminal, in processes started within.

    Their parent ends them instead, by SIGTERM, which they unblock. Neither signal interrupts the
    parent in the middle of a start.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _main(target: Callable[..., None], args: tuple[Any, ...]) -> None:
    """Run the target in the child process."""
    _end_with_parent()
    sys.unraisablehook = _leave_later
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, _leave)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    target(*args)


def _end_with_parent() -> None:
    """End this process when its parent ends, even if the parent is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "started by another process"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="watch the parent", daemon=True).start()


def _leave(signum: int, frame: object) -> None:
    """Exit by an exception, so that open files are completed and child processes end."""
    raise SystemExit(128 + signal.SIGTERM)


def _leave_later(ignored: sys.UnraisableHookArgs) -> None:
    """Exit soon if the exception was raised where Python ignores exceptions, as in a finalizer."""
    if isinstance(ignored.exc_value, SystemExit):
        signal.setitimer(signal.ITIMER_REAL, 0.01)  # SIGALRM
    else:
        sys.__unraisablehook__(ignored)
