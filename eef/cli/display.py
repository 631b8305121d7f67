"""Display: what a run shows while it goes. A live picture in a terminal, else a line for each finished stage."""

from __future__ import annotations

from time import monotonic
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from eef.cli.console import duration, notes
from eef.cli.figures import figures
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import BC, EXPERT, Stage, round_methods
from eef.report.formatting import NONE, display_name, percent
from eef.utils.progress import Progress


class Display:
    """Shows nothing. A context in which `hear` is a `OnProgress`."""

    def hear(self, progress: Progress) -> None:
        """Take in how far a stage is."""

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None


class LineDisplay(Display):
    """A line for each finished stage, with its figures and how long it took."""

    def __init__(self, run: RunDirectory, console: Console) -> None:
        self._run = run
        self._console = console
        self._begun: dict[Stage, float] = {}

    def hear(self, progress: Progress) -> None:
        stage = progress.subject
        assert isinstance(stage, Stage)
        begun = self._begun.setdefault(stage, monotonic())
        if progress.finished:
            words = ": ".join(part for part in (str(stage), figures(self._run, stage)) if part)
            line = f"{words} ({duration(monotonic() - begun)})"
            self._console.print(line, markup=False, soft_wrap=True)


class LiveDisplay(LineDisplay):
    """Below these lines a bar for each method under way and a table of what has been evaluated so far."""

    def __init__(self, run: RunDirectory, console: Console) -> None:
        super().__init__(run, console)
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(compact=True),
            console=console,
        )
        self._loading: TaskID | None = self._bars.add_task("loading", total=None, note="")
        self._bar_of: dict[str, TaskID] = {}
        self._stage_of: dict[str, Progress] = {}
        self._live = Live(self._picture(), console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> Display:
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def hear(self, progress: Progress) -> None:
        super().hear(progress)
        self._move(progress)
        if progress.finished:
            self._live.update(self._picture())

    def _move(self, progress: Progress) -> None:
        """Bring the bar of the stage's method to where it is; a new stage begins it anew, and so its time left."""
        stage = progress.subject
        assert isinstance(stage, Stage)
        method = stage.method
        if self._loading is not None:
            self._bars.remove_task(self._loading)
            self._loading = None
        bar = self._bar_of.get(method)
        if bar is None:
            bar = self._bar_of[method] = self._bars.add_task(str(stage), total=None, note="")
        before = self._stage_of.get(method)
        if before is None or before.subject != stage or before.total == 0:
            self._bars.reset(
                bar, total=progress.total or None, completed=progress.done, description=str(stage)
            )
        self._stage_of[method] = progress
        if progress.finished:
            self._bars.update(bar, visible=False)
        else:
            self._bars.update(bar, completed=progress.done, note=progress.note, visible=True)

    def _picture(self) -> Group:
        return Group(self._bars, rounds_table(self._run))


def make_display(run: RunDirectory, *, quiet: bool) -> Display:
    """The display that fits where stderr goes."""
    console = notes()
    if quiet:
        return Display()
    return LiveDisplay(run, console) if console.is_terminal else LineDisplay(run, console)


def rounds_table(run: RunDirectory) -> Table:
    """Win rate in percent of each method after each round, as far as evaluated."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("win rate %")
    rounds = range(run.recipe.rounds + 1)
    for round in rounds:
        table.add_column("start" if round == 0 else f"round {round}", justify="right")
    for method in (EXPERT, BC, *round_methods(run.recipe)):
        table.add_row(display_name(method), *(_win_rate(run, method, round) for round in rounds))
    return table


def _win_rate(run: RunDirectory, method: str, round: int) -> str:
    """Empty where the method has no such round."""
    if (method in (EXPERT, BC)) != (round == 0):
        return ""
    result = run.evaluation(method, round)
    return NONE if result is None else percent(result.success_rate)
