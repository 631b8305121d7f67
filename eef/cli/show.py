"""`eef show`: show a run, a task, a trajectory or a training example."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from eef.analysis.diagnosis import diagnose
from eef.analysis.results import read_results
from eef.analysis.role_texts import find_samples
from eef.cli.console import duration, plain_table, print_err, print_findings, stdout_console
from eef.cli.options import MethodName, RunPath, check_method_and_round
from eef.cli.trajectory_view import Item, measured_labels, show_item, show_mask
from eef.errors import ConfigError, StoreError
from eef.pipeline.run_directory import RunData, RunDirectory
from eef.pipeline.stages import EXPERT, Stage
from eef.pipeline.status import StageStatus, read_statuses
from eef.report.formatting import NONE, display_name, reward
from eef.report.run_table import results_table
from eef.report.status import stage_progress, stage_status
from eef.selection import TrainingExample
from eef.trajectory import Trajectory, TrajectorySet


def show(
    directory: RunPath,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="TASK|TRAJECTORY|EXAMPLE", help="The id to show.", show_default=False
        ),
    ] = None,
    mask: Annotated[
        bool,
        typer.Option(
            "--mask",
            help="Print an example's tokens, colored by loss weight; without colors, trained "
            "tokens are in ⟦ ⟧.",
        ),
    ] = False,
    samples: Annotated[
        bool,
        typer.Option(
            "--samples",
            help="Show one trajectory of each method that has roles.",
        ),
    ] = False,
    full: Annotated[
        bool, typer.Option("--full", help="Do not shorten observations and notes.")
    ] = False,
    method: MethodName = None,
    round: Annotated[
        int | None, typer.Option(min=0, help="Only this round.", show_default=False)
    ] = None,
) -> None:
    """Show a run, task, trajectory or example.

    Without a name: the stages of the run and its results so far. A task: all its trajectories, with
    their origins and labels, and the training examples made from them. A trajectory or a training
    example: step by step, with the author, the label, and the reward or
    loss weight of each step. With `--mask`, an example is shown as the tokens that the model learns
    from: green is trained, dim is context. With `--samples`, one trajectory of each method that has
    roles.

    Example: `eef show runs/demo webshop/12`
    """
    run = RunDirectory.open(directory)
    check_method_and_round(run, method, round)
    if samples:
        _show_samples(run.read(), name, method, full=full)
        return
    if name is None:
        _show_overview(run)
        return
    data = run.read()
    item = _find_example(data, name, method, round) or _find_trajectory(data, name)
    if item is None and mask:
        raise _refuse_mask(data, name, method, round)
    if item is None:
        _show_task(data, name, method, round)
    elif mask:
        show_mask(run, data, item)
    else:
        show_item(data, item, full=full)


# The run


def _show_samples(data: RunData, name: str | None, method: str | None, *, full: bool) -> None:
    """One trajectory of each method that asks roles, or of one method."""
    if name is not None:
        raise ConfigError(
            f"`--samples` cannot be combined with {name!r}", hint="remove one of the two"
        )
    found = [each for each in find_samples(data) if method in (None, each.method)]
    if not found:
        raise ConfigError(
            "no role has written anything to show",
            hint="choose a run or a method that has roles (`eef settings role`)",
        )
    for sample in found:
        heading = f"\n{display_name(sample.method)}: {sample.title}"
        stdout_console().print(Text(heading, style="bold underline"), soft_wrap=True)
        item = Item(sample.method, sample.trajectories, sample.trajectory)
        show_item(data, item, full=full)


def _show_overview(run: RunDirectory) -> None:
    console, recipe, data = stdout_console(), run.recipe, run.read()
    results = read_results(data)
    header = f"{recipe.name}: {recipe.env.name}, seed {recipe.seed}, {recipe.rounds} rounds"
    console.print(header, markup=False)
    experts = ", ".join(recipe.expert.names)
    console.print(f"experts {experts}; student {recipe.model.name}\n", markup=False)
    console.print(_stages_table(data, read_statuses(run)))
    console.print()
    console.print(results_table(results))
    print_findings(diagnose(data))
    first = next(iter(data.trajectories(EXPERT)), None)
    if first is not None:
        print_err(f"\nhint: `eef show {run.path} {first.task}` lists the trajectories of a task")


def _stages_table(data: RunData, statuses: list[StageStatus]) -> Table:
    """One row for each stage that is finished or was started, and the number of the others."""
    table = plain_table("stage", "outcome", "time")
    for stage in data.stages:
        if data.is_done(stage):
            table.add_row(str(stage), Text(stage_status(data, stage)), _time(data, stage))
    started = {each.stage: text for each in statuses if (text := stage_progress(each))}
    for stage, progress in started.items():
        table.add_row(str(stage), Text(progress), "")
    missing = len(data.stages) - len(data.done) - len(started)
    if missing:
        table.add_row(f"{missing} more", "not done yet", "")
    return table


def _time(data: RunData, stage: Stage) -> str:
    cost = data.costs(stage.method).get(stage)
    return NONE if cost is None else duration(cost.seconds)


# A task


def _show_task(data: RunData, task: str, method: str | None, round: int | None) -> None:
    """Every trajectory of a task, those of evaluations among them, the labels of the expert's, and
    the examples made from them.
    """
    found: dict[tuple[str, int, str], Trajectory] = {}
    for name, trajectories in _collections(data, method, round):
        for item in trajectories.of_task(task):
            if round in (None, item.round):
                owner = EXPERT if item.by_expert else name
                found[owner, item.round, item.id] = item
    if not found:
        raise _not_found(data, task)
    table = _table("trajectory", "method", "round", "author", "start", "steps", "ended", "reward")
    for (owner, _, _), item in found.items():
        table.add_row(*_task_row(owner, item), style="green" if item.success else None)
    labels = _table("labels of", "method", "round", "segments, from state to state")
    for name, by, number, segments in measured_labels(data, task, method, round):
        labels.add_row(Text(name), by, str(number), segments)
    examples = list(_examples(data, task, method, round))
    listed = _table("example", "method", "round", "trained from state")
    for stage, example in examples:
        listed.add_row(Text(example.id), stage.method, str(stage.round), str(example.state))
    console = stdout_console()
    console.print(table)
    for each in (labels, listed):
        if each.row_count:
            console.print()
            console.print(each)
    if examples:
        stage, example = examples[-1]
        print_err(
            f"\nhint: `eef show {data.path} {example.id} --method {stage.method} "
            f"--round {stage.round} --mask` shows the tokens that are trained"
        )


def _table(*columns: str) -> Table:
    return plain_table(*columns, right=("round", "steps", "reward"))


def _task_row(method: str, item: Trajectory) -> tuple[str | Text, ...]:
    start = str(item.start) if item.start else "the task's start"
    return (
        Text(item.id),
        method,
        str(item.round),
        str(item.author),
        Text(start),
        str(len(item.steps)),
        item.status,
        reward(item.reward),
    )


def _examples(
    data: RunData, task: str, method: str | None, round: int | None
) -> Iterator[tuple[Stage, TrainingExample]]:
    """The training examples made from trajectories of a task, by selection."""
    for stage, example in data.selected_examples(method, round):
        if data.trajectories(stage.method)[example.trajectory].task == task:
            yield stage, example


def _refuse_mask(
    data: RunData, name: str, method: str | None, round: int | None
) -> ConfigError | StoreError:
    """The error for `--mask` with a name that is not an example."""
    known = any(trajectories.of_task(name) for _, trajectories in _collections(data))
    if not known:
        return _not_found(data, name)
    examples = [
        f"`{example.id} --method {stage.method} --round {stage.round}`"
        for stage, example in _examples(data, name, method, round)
    ]
    return ConfigError(
        f"{name!r} is a task; only a training example has a loss mask",
        hint=f"examples made from it: {', '.join(examples) or 'none'}",
    )


# Lookup


def _find_example(data: RunData, name: str, method: str | None, round: int | None) -> Item | None:
    """The training example with an id. ConfigError if several methods or rounds have one."""
    found = [each for each in data.selected_examples(method, round) if each[1].id == name]
    if len(found) > 1:
        options = (f"`--method {stage.method} --round {stage.round}`" for stage, _ in found)
        raise ConfigError(
            f"{len(found)} examples have the id {name!r}", hint=f"add one of: {', '.join(options)}"
        )
    for stage, example in found:
        trajectories = data.trajectories(stage.method)
        return Item(
            stage.method, trajectories, trajectories[example.trajectory], example, stage.round
        )
    return None


def _find_trajectory(data: RunData, name: str) -> Item | None:
    """The trajectory with an id, which is unique in a run."""
    for method, trajectories in _collections(data):
        if name in trajectories:
            return Item(method, trajectories, trajectories[name])
    return None


def _collections(
    data: RunData, method: str | None = None, round: int | None = None
) -> Iterator[tuple[str, TrajectorySet]]:
    """The trajectories of each method (after those of the experts) and of each evaluation."""
    names = dict.fromkeys(stage.method for stage in data.stages)
    for name in names:
        if method in (None, name):
            yield name, data.trajectories(name)
    for stage in data.stages:
        if stage.kind == "evaluate" and stage.is_of(method, round):
            yield stage.method, data.evaluation_rollouts(stage.method, stage.round)


def _not_found(run: RunDirectory | RunData, name: str) -> StoreError:
    return StoreError(
        f"`{run.path}` has no task, trajectory or example {name!r}",
        hint=f"`eef show {run.path}` gives an overview, `eef show {run.path} TASK` lists ids",
    )
