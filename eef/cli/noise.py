"""Noise: the command that measures how often a method's labels are false."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from eef.analysis.label_noise import LabelNoise, measure_noise
from eef.cli.console import data, handle_interrupt
from eef.cli.indexes import bars
from eef.cli.runs import Directory
from eef.errors import StoreError
from eef.methods.labels import LabelRule
from eef.pipeline.parallel import threads_of
from eef.pipeline.pipeline import Pipeline
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import Stage
from eef.report.formatting import percent
from eef.utils.compute import process_settings

SIZES = (1, 2, 3, 5, 7, 9)


def label_noise(
    directory: Directory,
    method: Annotated[str, typer.Option(help="The method whose labels are measured.")] = "eef",
    round: Annotated[
        int, typer.Option(min=1, help="The round in which the states were explored.")
    ] = 1,
    trajectories: Annotated[
        int, typer.Option(min=1, help="Failures of the expert, drawn at random.")
    ] = 20,
    rollouts: Annotated[int, typer.Option(min=3, help="Rollouts from each state.")] = 20,
) -> None:
    """Measure how often a state's label is false: play many rollouts from states that a round explored.

    What most of them say is taken as true; the table tells how often 1, 2, 3 … rollouts say something else. What was
    played is kept, and the same command goes on where it was stopped.

    Example: `eef label-noise runs/demo --method eef --trajectories 20 --rollouts 20`
    """
    run = RunDirectory.open(directory)
    if method not in run.methods:
        raise StoreError(
            f"`{directory}` has no method `{method}`",
            hint=f"it has {', '.join(run.recipe.methods)}",
        )
    run.require(Stage(method, round, "explore"))
    with (
        handle_interrupt("stopped; the same command continues"),
        process_settings(threads_of(run.recipe, 1)),
        bars() as on_progress,
    ):
        noise = measure_noise(
            Pipeline(run),
            method,
            round,
            trajectories=trajectories,
            rollouts=rollouts,
            on_progress=on_progress,
        )
    data().print(noise_table(noise))


def noise_table(noise: LabelNoise) -> Table:
    """False labels by rollouts a state and rule."""
    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, 3, 0, 0),
        title_justify="left",
        title=f"false labels %, {len(noise.states)} states of round {noise.round}",
    )
    parts = ("states", "segments", "beneficial", "harmful")
    for column in (
        "rollouts a state",
        *(f"{part}, {rule}" for part in parts for rule in ("any", "majority")),
    ):
        table.add_column(column, justify="right")
    rules: tuple[LabelRule, ...] = ("any", "majority")
    least = min(state.rollouts for state in noise.states)
    for n in (n for n in SIZES if n <= least):
        rates = [noise.false_rates(n, rule) for rule in rules]
        table.add_row(str(n), *(percent(getattr(rate, part)) for part in parts for rate in rates))
    return table
