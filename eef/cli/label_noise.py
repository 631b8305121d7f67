"""`eef label-noise`: measure how often a method's labels are wrong."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from eef.analysis.label_noise import LabelNoise, measure_noise
from eef.cli.console import handle_interrupt, plain_table, stdout_console
from eef.cli.execution import CONTINUES
from eef.cli.options import RunPath
from eef.cli.progress import show_bars
from eef.cli.stage import choose_stages
from eef.methods.labels import LabelRule
from eef.pipeline.parallel import threads_of
from eef.pipeline.pipeline import Pipeline
from eef.pipeline.run_directory import RunDirectory
from eef.report.formatting import percent
from eef.utils.compute import process_settings

SIZES = (1, 2, 3, 5, 7, 9)
"""Numbers of rollouts per state for which error rates are shown."""


def label_noise(
    directory: RunPath,
    method: Annotated[str, typer.Option(help="The method whose labels are measured.")] = "eef",
    round: Annotated[int, typer.Option(min=1, help="The round that explored the states.")] = 1,
    trajectories: Annotated[
        int, typer.Option(min=1, help="Number of failed expert trajectories, drawn at random.")
    ] = 20,
    rollouts: Annotated[int, typer.Option(min=3, help="Rollouts from each state.")] = 20,
) -> None:
    """Measure how often labels are wrong.

    Many rollouts are played from states that a round explored. The majority outcome is taken as the
    true label, and the table shows how often 1, 2, 3 … rollouts give another label. Rollouts are
    stored; the same command continues an interrupted measurement.

    Example: `eef label-noise runs/demo --method eef --trajectories 20 --rollouts 20`
    """
    run = RunDirectory.open(directory)
    (stage,) = choose_stages(run, "explore", method, round)
    run.require(stage)
    with (
        handle_interrupt(CONTINUES),
        process_settings(threads_of(run.recipe, 1)),
        show_bars() as on_progress,
    ):
        noise = measure_noise(
            Pipeline(run),
            method,
            round,
            trajectories=trajectories,
            rollouts=rollouts,
            on_progress=on_progress,
        )
    stdout_console().print(noise_table(noise))


def noise_table(noise: LabelNoise) -> Table:
    """Wrong labels in percent, by rollouts per state and label rule."""
    parts = ("states", "segments", "beneficial", "harmful")
    rules: tuple[LabelRule, ...] = ("any", "majority")
    columns = ("rollouts per state", *(f"{part}, {rule}" for part in parts for rule in rules))
    title = f"wrong labels %, {len(noise.states)} states of round {noise.round}"
    table = plain_table(*columns, right=columns, title=title)
    most = min(state.rollouts for state in noise.states)
    for size in (size for size in SIZES if size <= most):
        rates = [noise.false_rates(size, rule) for rule in rules]
        table.add_row(
            str(size), *(percent(getattr(rate, part)) for part in parts for rate in rates)
        )
    return table
