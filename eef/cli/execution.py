"""Opening and executing runs: read a recipe, prepare its environment, execute stages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eef.analysis.results import Results, read_results
from eef.cli.console import handle_interrupt, print_err
from eef.cli.progress import make_display, show_bars
from eef.config import apply_override, most_similar, parse_settings
from eef.envs.registry import prepare_env
from eef.errors import ConfigError
from eef.pipeline.checks import FREE_IN_WORDS, is_free
from eef.pipeline.parallel import threads_of
from eef.pipeline.pipeline import Pipeline
from eef.pipeline.recipe import SUFFIXES, Recipe, load_recipe
from eef.pipeline.run_directory import RECIPE_FILE, RunData, RunDirectory
from eef.pipeline.stages import Stage
from eef.pipeline.tracking import check_trackers, tracked
from eef.report.run_page import write_page
from eef.utils.compute import process_settings
from eef.utils.jsonl import disk_errors, write_json

CONTINUES = "stopped; the same command continues"
_RUNS = Path("runs")


def read_recipe(path: Path, overrides: Sequence[str] | None) -> Recipe:
    """A recipe with overrides. ConfigError if there is no such file."""
    if path.is_dir():
        raise ConfigError(
            f"`{path}` is a directory, not a recipe",
            hint="name a `.toml`, `.yaml` or `.json` file",
        )
    if not path.exists():
        raise ConfigError(f"no such file `{path}`", hint=_hint_for_recipe(path))
    return load_recipe(path, overrides or ())


def _hint_for_recipe(path: Path) -> str:
    """The recipe in the same directory that was probably meant, or how a run is created."""
    found = [each for each in sorted(path.parent.glob("*")) if each.suffix in SUFFIXES]
    similar = most_similar(path.name, [each.name for each in found])
    if similar:
        return f"did you mean `{path.with_name(similar)}`?"
    return "recipes are in `recipes/`; `eef run RECIPE --out DIR` creates a run"


def default_directory(recipe: Recipe) -> Path:
    """The run directory of a recipe, relative to the working directory."""
    return _RUNS / recipe.name


def refuse_options(directory: Path, overrides: Sequence[str], out: Path | None) -> None:
    """ConfigError if options that only a new run takes are given for an existing one.

    Overrides of `eef.pipeline.checks.FREE_SETTINGS` are allowed.
    """
    if out is not None or not all(is_free(each.partition("=")[0].strip()) for each in overrides):
        raise ConfigError(
            f"`{directory}` is a run directory, whose recipe is fixed",
            hint=f"remove `--out` and `--set`; only {FREE_IN_WORDS} may change",
        )


def create_pipeline(
    directory: Path, recipe: Recipe, *, quiet: bool, shared: bool = False
) -> Pipeline:
    """Create a run, or open one with an equal recipe, after its environment is prepared.

    If it is `shared`, other processes may do the same at the same time.
    """
    _prepare(recipe, quiet=quiet)
    return Pipeline.create(directory, recipe, shared=shared)


def open_pipeline(
    directory: Path, *, quiet: bool, overrides: Sequence[str] | None = None
) -> Pipeline:
    """Open an existing run after its environment is prepared.

    Overrides change settings that may change during a run (`eef.pipeline.checks.FREE_SETTINGS`).
    """
    if overrides:
        return create_pipeline(directory, recipe_of(directory, overrides), quiet=quiet)
    pipeline = Pipeline.open(directory)
    _prepare(pipeline.run.recipe, quiet=quiet)
    return pipeline


def recipe_of(directory: Path, overrides: Sequence[str] | None) -> Recipe:
    """The recipe of an existing run, with overrides."""
    run = RunDirectory.open(directory)
    settings = run.recipe.model_dump(mode="json")
    for override in overrides or ():
        apply_override(settings, override)
    return parse_settings(Recipe, settings, source=str(run.path / RECIPE_FILE))


def execute_all(
    pipeline: Pipeline,
    jobs: int | None,
    *,
    quiet: bool,
    only: Sequence[str] | None = None,
    shared: bool = False,
) -> None:
    """Execute all stages that are not done; with `only`, those of these methods.

    If the run is `shared`, see `Pipeline.execute_all`.
    """
    with (
        process_settings(threads_of(pipeline.run.recipe, 1)),
        make_display(pipeline.run, quiet=quiet) as display,
    ):
        pipeline.execute_all(display.on_progress, jobs=jobs, only=only, shared=shared)


def execute_stages(pipeline: Pipeline, stages: Sequence[Stage], *, quiet: bool) -> None:
    """Execute those of some stages that are not done."""
    missing = [stage for stage in stages if not pipeline.run.is_done(stage)]
    if not missing:
        print_err("nothing to do: already done")
    with (
        handle_interrupt(CONTINUES),
        process_settings(threads_of(pipeline.run.recipe, 1)),
        make_display(pipeline.run, quiet=quiet) as display,
    ):
        check_trackers(pipeline.run.recipe.track)
        with tracked(pipeline.run, display.on_progress) as report:
            for stage in missing:
                pipeline.execute(stage, report)


def write_report(run: RunData, directory: Path | None = None) -> Results:
    """Write `results.json` and `report.html`, into the run directory by default."""
    target = directory or run.path
    results = read_results(run)
    with disk_errors(target):
        target.mkdir(parents=True, exist_ok=True)
    write_json(target / "results.json", results.to_record())
    write_page(run, results, target / "report.html")
    return results


def _prepare(recipe: Recipe, *, quiet: bool) -> None:
    with handle_interrupt(CONTINUES), show_bars(quiet=quiet) as on_progress:
        prepare_env(recipe.env.name, recipe.env.options, on_progress)
