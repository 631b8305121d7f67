"""Views: the command that looks into a run – as a whole, at a task, a trajectory or a training example."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from eef.analysis.results import read_results
from eef.cli.console import data, duration, tell
from eef.cli.figures import figures
from eef.cli.lookup import find_examples, find_trajectories, places
from eef.cli.paths import show_one
from eef.cli.runs import Directory
from eef.errors import StoreError
from eef.pipeline.ledger import LEDGER_FILE, Ledger
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import EXPERT, Stage
from eef.report.formatting import NONE, reward
from eef.report.run_table import results_table
from eef.trajectory import Trajectory


def show(
    directory: Directory,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[TRAJECTORY|EXAMPLE|TASK]", help="Id of what to look at.", show_default=False
        ),
    ] = None,
    mask: Annotated[
        bool, typer.Option("--mask", help="Print an example's tokens, coloured by loss weight.")
    ] = False,
    full: Annotated[bool, typer.Option("--full", help="Print observations to their end.")] = False,
    method: Annotated[
        str | None, typer.Option(help="Look in this method alone.", show_default=False)
    ] = None,
    round: Annotated[
        int | None, typer.Option(help="Look in this round alone.", show_default=False)
    ] = None,
) -> None:
    """Look into a run: an overview, or a task, a trajectory, a training example by its id.

    A path is shown step by step: who made it, what it was labelled, its reward or loss weight. With `--mask` a
    training example is shown as the tokens the model learns from: green is trained, dim is context.

    Example: `eef show runs/demo webshop/12`
    """
    run = RunDirectory.open(directory)
    if name is None:
        _show_overview(run)
        return
    found = list(find_examples(run, name, method, round)) or list(
        find_trajectories(run, name, method, round)
    )
    if found:
        show_one(run, found, name, mask=mask, full=full)
    else:
        _show_task(run, name, method, round)


# --- the whole run -------------------------------------------------------------------------------------------------


def _show_overview(run: RunDirectory) -> None:
    console, recipe, results = data(), run.recipe, read_results(run.read())
    console.print(
        f"{recipe.name}: {recipe.env.name}, seed {recipe.seed}, {recipe.rounds} rounds",
        markup=False,
    )
    console.print(
        f"experts {', '.join(recipe.expert.names)}; student {recipe.model.name}\n", markup=False
    )
    console.print(_stages_table(run))
    console.print()
    console.print(results_table(results))
    first = next(iter(run.trajectories(EXPERT)), None)
    if first is not None:
        tell(f"\nhint: `eef show {run.path} {first.task}` shows all that was played of a task")


def _stages_table(run: RunDirectory) -> Table:
    """A row for each stage that is done, and how many are not."""
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for column in ("stage", "came to", "time"):
        table.add_column(column)
    for stage in run.stages:
        if run.is_done(stage):
            table.add_row(str(stage), Text(figures(run, stage)), _time(run, stage))
    undone = sum(not run.is_done(stage) for stage in run.stages)
    if undone:
        table.add_row(f"{undone} more", "not done yet", "")
    return table


def _time(run: RunDirectory, stage: Stage) -> str:
    path = run.path / stage.method / LEDGER_FILE
    entries = Ledger(path).entries if path.is_file() else {}
    cost = entries.get(Stage(stage.method, stage.round, stage.kind))
    return NONE if cost is None else duration(cost.seconds)


# --- a task --------------------------------------------------------------------------------------------------------


def _show_task(run: RunDirectory, task: str, method: str | None, round: int | None) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for column in ("trajectory", "author", "round", "start", "steps", "ended", "reward"):
        table.add_column(
            column, justify="right" if column in ("round", "steps", "reward") else "left"
        )
    seen: set[tuple[str, str]] = set()
    for place in places(run, method, round):
        for item in place.trajectories.of_task(task):
            if (item.id, str(item.author)) not in seen and round in (None, item.round):
                seen.add((item.id, str(item.author)))
                table.add_row(*_task_row(item), style="green" if item.success else None)
    if not seen:
        raise StoreError(
            f"`{run.path}` holds no trajectory, example or task {task!r}",
            hint=f"`eef show {run.path}` gives an overview, `eef show {run.path} TASK` the ids of a task",
        )
    data().print(table)


def _task_row(item: Trajectory) -> tuple[str | Text, ...]:
    start = str(item.start) if item.start else "the task's start"
    ended = (str(len(item.steps)), item.status, reward(item.reward))
    return Text(item.id), str(item.author), str(item.round), Text(start), *ended
