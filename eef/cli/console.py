"""Console: data goes to stdout, everything else to stderr; interruptions end in one line."""

from __future__ import annotations

import signal
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from eef.analysis.diagnosis import Finding

_LOG_WIDTH = 140


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived. It is handled like Ctrl-C."""


@contextmanager
def handle_interrupt(message: str) -> Iterator[None]:
    """Print a line and exit if the block is interrupted: status 130 for Ctrl-C, 143 for SIGTERM."""
    try:
        yield
    except KeyboardInterrupt as stop:
        print_err(message)
        number = signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT
        raise typer.Exit(128 + number) from None


def install_signal_handlers() -> None:
    """Turn SIGTERM into an exception, so that files stay intact and worker processes are ended."""

    def stop(signum: int, frame: object) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, stop)


def stderr_console() -> Console:
    """The console for progress, hints and everything else that is not data."""
    return _console(stderr=True)


def stdout_console() -> Console:
    """The console for the data a command was asked for; safe to pipe."""
    return _console(stderr=False)


def _console(*, stderr: bool) -> Console:
    """Outside a terminal, tables are `_LOG_WIDTH` wide."""
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False)
    if console.is_terminal:
        return console
    return Console(stderr=stderr, highlight=False, width=_LOG_WIDTH)


def print_err(text: str) -> None:
    """Print one line to stderr, verbatim: not wrapped, no markup."""
    stderr_console().print(text, markup=False, soft_wrap=True)


def print_findings(findings: Iterable[Finding]) -> None:
    """Print what is wrong in a run, and the next step for each, to stderr."""
    for finding in findings:
        print_err(f"warning: {finding}")
        print_err(f"hint: {finding.advice}")


def print_out(text: str) -> None:
    """Print one line to stdout, verbatim."""
    stdout_console().print(text, markup=False, soft_wrap=True)


def plain_table(
    *columns: str, right: Collection[str] = (), title: str | None = None, header: bool = True
) -> Table:
    """A table without lines. The columns `right` are aligned right, the others and the title left.

    Without a header, the names of the columns are not printed.
    """
    from rich.table import Table

    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, 3, 0, 0),
        title=title,
        title_justify="left",
        show_header=header,
    )
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left")
    return table


def duration(seconds: float) -> str:
    """Seconds as text.

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
