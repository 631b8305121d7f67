"""Console: where words go – data to stdout, all else to stderr – and how a mistake or an interruption is told."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from eef.errors import EefError

_LOG_WIDTH = 140


class Terminated(KeyboardInterrupt):
    """SIGTERM came; told as Ctrl-C is."""


class Verbs(TyperGroup):
    """The commands, with one end for all: a user's mistake is a line and a hint, an interruption a line, a bug a
    traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with handle_interrupt("stopped"):
                return super().invoke(ctx)
        except EefError as error:
            tell(f"error: {error.message}")
            if error.hint:
                tell(f"hint: {error.hint}")
            raise typer.Exit(error.exit_status) from None


@contextmanager
def handle_interrupt(words: str) -> Iterator[None]:
    """End the program with one line where it is interrupted: status 130 for Ctrl-C, 143 for SIGTERM."""
    try:
        yield
    except KeyboardInterrupt as stop:
        tell(words)
        raise typer.Exit(
            128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)
        ) from None


def install_signal_handlers() -> None:
    """Make SIGTERM an exception, so that files are left whole and worker processes are ended."""

    def stop(signum: int, frame: object) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, stop)


def notes() -> Console:
    """Progress, hints and all that is no data."""
    return _console(stderr=True)


def data() -> Console:
    """What was asked for; safe to pipe."""
    return _console(stderr=False)


def _console(*, stderr: bool) -> Console:
    """Where there is no terminal to fit into, tables are as wide as a log can bear."""
    console = Console(stderr=stderr, highlight=False)
    return (
        console
        if console.is_terminal
        else Console(stderr=stderr, highlight=False, width=_LOG_WIDTH)
    )


def tell(words: str) -> None:
    """One line on stderr, as it is: not wrapped, no markup."""
    notes().print(words, markup=False, soft_wrap=True)


def put(words: str) -> None:
    """One line on stdout, as it is."""
    data().print(words, markup=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> [duration(seconds) for seconds in (0.24, 42.4, 200.0, 4000.0)]
    ['0.2 s', '42 s', '3 min 20 s', '1 h 7 min']
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes_left = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes_left} min" if minutes >= 60 else f"{minutes} min {rest} s"
