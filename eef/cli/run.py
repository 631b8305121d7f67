"""`eef run`: execute a recipe, or continue a run."""

from __future__ import annotations

from time import monotonic

from eef.analysis.diagnosis import diagnose
from eef.analysis.results import Results
from eef.cli.console import (
    duration,
    handle_interrupt,
    print_err,
    print_findings,
    print_out,
    stderr_console,
)
from eef.cli.execution import (
    create_pipeline,
    default_directory,
    execute_all,
    open_pipeline,
    read_recipe,
    refuse_options,
    write_report,
)
from eef.cli.options import (
    Jobs,
    Out,
    Quiet,
    Ranks,
    RayAddress,
    RecipeOrRun,
    RecipeOverrides,
    with_ranks,
)
from eef.errors import ConfigError, MethodError
from eef.pipeline.pipeline import Pipeline
from eef.pipeline.recipe import Recipe
from eef.report.run_table import results_table
from eef.report.summary import headline, verdict
from eef.utils.cluster import join


def run(
    source: RecipeOrRun,
    overrides: RecipeOverrides = None,
    out: Out = None,
    jobs: Jobs = None,
    ranks: Ranks = None,
    address: RayAddress = None,
    quiet: Quiet = False,
) -> None:
    """Execute a recipe, or continue a run.

    A run collects expert trajectories, clones the expert's behavior, takes every method through its
    rounds and writes `results.json` and `report.html`. It can be stopped at any time: the same
    command, or `eef run DIR`, continues it, and the numbers are those of an uninterrupted run.
    `--ray` names the Ray cluster that `env.placement`, `rollouts.placement` and
    `rollouts.server.placement` refer to. Prints the path of `results.json`.

    Example: `eef run recipes/demo.toml --out runs/demo --set seed=1`
    """
    started = monotonic()
    overrides = with_ranks(overrides, ranks)
    if source.is_dir():
        refuse_options(source, overrides or (), out)
        pipeline = open_pipeline(source, quiet=quiet, overrides=overrides)
    else:
        recipe = read_recipe(source, overrides)
        pipeline = create_pipeline(out or default_directory(recipe), recipe, quiet=quiet)
    directory = pipeline.run.path
    if address is not None:
        _join(address, pipeline.run.recipe)
    with handle_interrupt(f"stopped; `eef run {directory}` continues"):
        try:
            execute_all(pipeline, jobs, quiet=quiet)
        except MethodError:  # nothing to explore or to train on
            print_findings(diagnose(pipeline.run.read()))
            raise
        results = write_report(pipeline.run.read())
    if not quiet:
        _print_conclusion(pipeline, results, monotonic() - started)
    print_out(str(directory / "results.json"))


def _join(address: str, recipe: Recipe) -> None:
    """Join a Ray cluster. ConfigError if the recipe places nothing in it."""
    server = recipe.rollouts.server
    places = (recipe.env.options.get("placement"), recipe.rollouts.placement, server.placement)
    if "ray" not in places:
        raise ConfigError(
            "`--ray` has no effect: the recipe places nothing in a Ray cluster",
            hint='for example `--set env.placement="ray"`; `eef compare --ray` needs no such '
            "setting",
        )
    join(address)


def _print_conclusion(pipeline: Pipeline, results: Results, seconds: float) -> None:
    directory = pipeline.run.path
    console = stderr_console()
    console.print()
    console.print(results_table(results))
    console.print()
    for sentence in (headline(results), verdict(results)):
        console.print(sentence, markup=False)
    print_findings(diagnose(pipeline.run.read()))
    print_err(f"report:  {directory / 'report.html'}")
    print_err(f"run:     {directory} (inspect it with `eef show {directory}`)")
    print_err(f"time:    {duration(seconds)}")
