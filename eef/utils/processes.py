"""Process: one that this program starts – it never hears Ctrl-C, leaves at SIGTERM as an exception does, and ends with
its parent. Beside the way of the data: environments in worker processes and methods side by side stand on it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
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
    """An error of a user's kind in a process, on its way to the parent."""

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
    """Start `target(*args)` in a fresh interpreter. A `leaf` starts no such process itself, and is ended when this
    program leaves by whatever way; others the caller must end."""
    resource_tracker.ensure_running()  # started with the first process, it would let the interrupts through again
    process = SPAWN.Process(target=_carry_out, args=(target, args), name=name, daemon=leaf)
    with _without_interrupts():
        process.start()
    return process


def end_process(process: SpawnProcess, timeout: float) -> None:
    """Ask a process to end, and make it end after `timeout` seconds."""
    process.terminate()
    process.join(timeout)
    process.kill()
    process.join()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C reaches every process of a terminal. A process started within this never hears it: its parent ends it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _carry_out(target: Callable[..., None], args: tuple[Any, ...]) -> None:
    """What such a process does."""
    _end_with_parent()
    signal.signal(signal.SIGTERM, _leave)
    target(*args)


def _end_with_parent() -> None:
    """Have this process end when its parent does, even where that was killed and could say nothing."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "started by another process"

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="watch the parent", daemon=True).start()


def _leave(signum: int, frame: object) -> None:
    """End as an exception does, so that files are left whole and what was started is ended."""
    raise SystemExit(128 + signum)
