"""Progress on the screen: bars for one operation, and the display of a run.

In a terminal a run shows one bar per method and the results so far; anywhere else, one line for
each finished stage.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.table import Table

from eef.cli.console import duration, plain_table, stderr_console
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import BC, EXPERT, Stage, round_methods
from eef.report.formatting import NONE, display_name, percent
from eef.report.status import stage_status
from eef.utils.progress import OnProgress, Progress


@contextmanager
def show_bars(*, quiet: bool = False) -> Iterator[OnProgress]:
    """A callback that shows one bar for each subject; nothing is shown until it is called."""
    bars = _make_bars(stderr_console(), TaskProgressColumn(), disable=quiet)
    bar_of: dict[str, TaskID] = {}

    def update(progress: Progress) -> None:
        subject = str(progress.subject)
        if not bar_of:
            bars.start()
        if subject not in bar_of:
            bar_of[subject] = bars.add_task(subject, note="")
        total = progress.total or None
        bars.update(bar_of[subject], completed=progress.done, total=total, note=progress.note)

    try:
        yield update
    finally:
        if bar_of:
            bars.stop()


class Display:
    """Shows nothing. A context manager whose `on_progress` takes the progress of a run's stages."""

    def on_progress(self, progress: Progress) -> None:
        """Show the progress of a stage."""

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        return None


class LineDisplay(Display):
    """One line for each finished stage: its status and how long it took."""

    def __init__(self, run: RunDirectory, console: Console) -> None:
        self._run = run
        self._console = console
        self._started: dict[Stage, float] = {}

    def on_progress(self, progress: Progress) -> None:
        stage = progress.subject
        assert isinstance(stage, Stage)
        started = self._started.setdefault(stage, monotonic())
        if progress.finished:
            parts = (str(stage), stage_status(self._run, stage))
            line = f"{': '.join(filter(None, parts))} ({duration(monotonic() - started)})"
            self._console.print(line, markup=False, soft_wrap=True)


class LiveDisplay(LineDisplay):
    """These lines, and below them one bar per active method and a table of the results so far."""

    def __init__(self, run: RunDirectory, console: Console) -> None:
        super().__init__(run, console)
        self._bars = _make_bars(console, MofNCompleteColumn())
        self._loading: TaskID | None = self._bars.add_task("loading", total=None, note="")
        self._bar_of: dict[str, TaskID] = {}
        self._last: dict[str, Progress] = {}
        self._live = Live(self._picture(), console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Display:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def on_progress(self, progress: Progress) -> None:
        super().on_progress(progress)
        self._update_bar(progress)
        if progress.finished:
            self._live.update(self._picture())

    def _update_bar(self, progress: Progress) -> None:
        """Update the bar of the stage's method. A new stage resets it and its remaining time."""
        stage = progress.subject
        assert isinstance(stage, Stage)
        method = stage.method
        if self._loading is not None:
            self._bars.remove_task(self._loading)
            self._loading = None
        bar = self._bar_of.get(method)
        if bar is None:
            bar = self._bar_of[method] = self._bars.add_task(str(stage), total=None, note="")
        last = self._last.get(method)
        if last is None or last.subject != stage or last.total == 0:
            total = progress.total or None
            self._bars.reset(bar, total=total, completed=progress.done, description=str(stage))
        self._last[method] = progress
        if progress.finished:
            self._bars.update(bar, visible=False)
        else:
            self._bars.update(bar, completed=progress.done, note=progress.note, visible=True)

    def _picture(self) -> Group:
        return Group(self._bars, win_rates_table(self._run))


def make_display(run: RunDirectory, *, quiet: bool) -> Display:
    """The display that suits stderr: live in a terminal, lines elsewhere, nothing if `quiet`."""
    if quiet:
        return Display()
    console = stderr_console()
    return LiveDisplay(run, console) if console.is_terminal else LineDisplay(run, console)


def win_rates_table(run: RunDirectory) -> Table:
    """Win rate in percent of each method after each round, so far."""
    rounds = sorted({stage.round for stage in run.stages if stage.kind == "evaluate"})
    columns = ["start" if round == 0 else f"round {round}" for round in rounds]
    table = plain_table("win rate %", *columns, right=columns)
    for method in (EXPERT, BC, *round_methods(run.recipe)):
        table.add_row(display_name(method), *(_win_rate(run, method, round) for round in rounds))
    return table


def _win_rate(run: RunDirectory, method: str, round: int) -> str:
    """Empty if the method has no such round."""
    if (method in (EXPERT, BC)) != (round == 0):
        return ""
    result = run.evaluation(method, round)
    return NONE if result is None else percent(result.success_rate)


def _make_bars(console: Console, count: ProgressColumn, *, disable: bool = False) -> Bars:
    return Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        count,
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(compact=True),
        console=console,
        disable=disable,
    )
