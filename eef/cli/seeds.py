"""Seeds: the command that carries a recipe out with several seeds and compares its methods over all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from eef.cli.console import data, stoppable, tell
from eef.cli.runs import Jobs, Overrides, Quiet, RecipeFile, carry_out_run, create_run, read_recipe, write_report
from eef.config import Recipe, parse_settings
from eef.jsonfile import write_json
from eef.report.wording import display_name, number, percent, points, reward
from eef.seeds import OverSeeds, gather_seeds


def compare(
    recipe: RecipeFile,
    out: Annotated[
        Path | None, typer.Option(
            metavar="DIR", help="A run directory for each seed goes in here; `runs/<name>-seeds` when left out."
        )
    ] = None,
    methods: Annotated[
        str | None, typer.Option(metavar="A,B", help="Methods to compare; the recipe's when left out.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds, counted from the recipe's.")] = 3,
    overrides: Overrides = None,
    jobs: Jobs = None,
    quiet: Quiet = False,
) -> None:
    """Carry out a recipe with several seeds and compare its methods over all of them.

    Example: `eef compare recipes/demo.toml --methods rft6,eef --seeds 3 --out runs/demo-seeds`
    """
    settings = read_recipe(recipe, overrides)
    names = tuple(name.strip() for name in methods.split(",")) if methods else settings.methods
    directory = out or Path("runs") / f"{settings.name}-seeds"
    runs = []
    with stoppable("stopped; the same command continues"):
        for seed in range(settings.seed, settings.seed + seeds):
            found = create_run(directory / f"seed{seed}", with_seed(settings, seed, names), quiet=quiet)
            if not quiet:
                tell(f"seed {seed}: {found.directory}")
            carry_out_run(found, jobs, quiet=quiet)
            write_report(found)
            runs.append(found)
    together = gather_seeds(runs)
    write_json(directory / "seeds.json", together.to_record())
    for table in seeds_tables(together):
        data().print(table)


def with_seed(recipe: Recipe, seed: int, methods: tuple[str, ...]) -> Recipe:
    """The same recipe with another seed, also for its training, and with some of its methods."""
    settings = recipe.model_dump()
    settings["train"]["seed"] += seed - settings["seed"]
    settings |= {"seed": seed, "methods": methods}
    settings["options"] = {name: options for name, options in settings["options"].items() if name in methods}
    return parse_settings(Recipe, settings, source=recipe.name)


def seeds_tables(together: OverSeeds) -> tuple[Table, Table]:
    """Methods by their numbers over seeds, and pairs of methods by their difference."""
    methods = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), title="win rate %", title_justify="left")
    for column in ("method", "mean", "± sd", *(f"seed {seed}" for seed in together.seeds), "mean reward"):
        methods.add_column(column, justify="left" if column == "method" else "right")
    for item in together.methods:
        seeds = [percent(rate) for rate in item.win_rates]
        mean_reward = sum(item.rewards) / len(item.rewards)
        mean, deviation = percent(item.mean), percent(item.deviation)
        methods.add_row(display_name(item.name), mean, deviation, *seeds, reward(mean_reward))
    pairs = Table(
        box=None, pad_edge=False, padding=(0, 3, 0, 0), title_justify="left",
        title="\nwins on the same tasks and seeds, pooled (exact McNemar test)",
    )
    for column in ("pair", "difference [95 %]", "only first", "only second", "p", "p (Holm)"):
        pairs.add_column(column, justify="left" if column == "pair" else "right")
    for pair in together.pairs:
        low, high = pair.difference.interval
        pairs.add_row(
            f"{display_name(pair.first)} – {display_name(pair.second)}",
            f"{points(pair.difference.mean)} [{points(low)}, {points(high)}]",
            number(pair.pooled.only_first), number(pair.pooled.only_second),
            f"{pair.pooled.p_value:.3f}", f"{pair.p_adjusted:.3f}",
        )
    return methods, pairs
