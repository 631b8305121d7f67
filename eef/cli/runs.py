"""Runs: the commands that carry out a recipe, whole or stage by stage."""

from __future__ import annotations

import json
from pathlib import Path
from time import monotonic
from typing import Annotated, Any

import typer

from eef.analysis.results import Results, read_results
from eef.cli.console import duration, handle_interrupt, notes, put, tell
from eef.cli.display import make_display
from eef.cli.indexes import prepare
from eef.config import apply_override
from eef.errors import ConfigError
from eef.pipeline.context import RunContext
from eef.pipeline.experts import estimate_api_cost
from eef.pipeline.parallel import threads_of
from eef.pipeline.pipeline import Pipeline
from eef.pipeline.recipe import Recipe, load_recipe
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import EXPERT, Stage, StageKind
from eef.report.run_page import write_page
from eef.report.run_table import results_table
from eef.report.summary import headline, verdict
from eef.utils.compute import process_settings
from eef.utils.jsonl import write_json

Directory = Annotated[
    Path, typer.Argument(metavar="DIR", help="A run directory.", show_default=False)
]
RecipeFile = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE", help="A recipe: a `.toml`, `.yaml` or `.json` file.", show_default=False
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Lay a setting over the recipe, e.g. `train.updates=50`."
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(min=1, help="Methods worked on side by side; the recipe's `jobs` when left out."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress and no table.")]
Method = Annotated[str | None, typer.Option(help="This method alone.", show_default=False)]
Round = Annotated[
    int | None,
    typer.Option(
        min=0, help="This round alone; each method's next one when left out.", show_default=False
    ),
]


def run(
    recipe: RecipeFile,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="The run directory; `runs/<name of the recipe>` when left out."
        ),
    ] = None,
    jobs: Jobs = None,
    quiet: Quiet = False,
) -> None:
    """Carry out a recipe: experts, behaviour cloning, then every method's rounds, and a report.

    On a directory that was begun with the same recipe it goes on where that stopped.

    Example: `eef run recipes/demo.toml --out runs/demo --set seed=1`
    """
    settings = read_recipe(recipe, overrides)
    _whole(create_run(out or Path("runs") / settings.name, settings, quiet=quiet), jobs, quiet)


def resume(directory: Directory, jobs: Jobs = None, quiet: Quiet = False) -> None:
    """Go on with a run that was interrupted; its numbers are those of an uninterrupted one.

    Example: `eef resume runs/demo`
    """
    _whole(_open_run(directory, quiet=quiet), jobs, quiet)


def collect(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="DIR|RECIPE",
            help="A run directory, or a recipe to begin one.",
            show_default=False,
        ),
    ],
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="With a recipe: the run directory to begin.", show_default=False
        ),
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="EXPERT",
            help="With a recipe: who plays, e.g. `openai/gpt-4.1`.",
            show_default=False,
        ),
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Server of an `openai/…` expert, with its `/v1`.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Say what an `openai/…` expert would take, and ask it nothing."
        ),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Let the experts play the training tasks; with a recipe, begin a run by that.

    An `openai/MODEL` expert is any OpenAI-compatible server. Its key is read from the environment (`OPENAI_API_KEY`, or
    what `expert.api.key` names) and written nowhere. `expert.api.max_requests`, `max_tokens` and `max_cost` bound what
    it may take. Every answer is kept: the same command goes on where it stopped, and asks nothing twice.

    Example: `eef collect recipes/demo.toml --policy openai/MODEL --base-url http://127.0.0.1:8000/v1 --out runs/mine`
    """
    chosen = [
        *(overrides or ()),
        *([f"expert.names=[{json.dumps(policy)}]"] if policy else ()),
        *([f"expert.api.base_url={json.dumps(base_url)}"] if base_url else ()),
    ]
    if source.is_dir() and (out or chosen):
        raise ConfigError(
            f"`{source}` is a run directory: `--out`, `--set`, `--policy` and `--base-url` have no effect",
            hint="leave them out",
        )
    if dry_run:
        _tell_estimate(
            RunDirectory.open(source).recipe if source.is_dir() else read_recipe(source, chosen)
        )
        return
    if source.is_dir():
        found = _open_run(source, quiet=quiet)
    else:
        settings = read_recipe(source, chosen)
        found = create_run(out or Path("runs") / settings.name, settings, quiet=quiet)
    _stages(found, [Stage(EXPERT, 0, "collect")], quiet)


def _tell_estimate(recipe: Recipe) -> None:
    """What the `openai/…` experts of a recipe would take."""
    models = [name for name in recipe.expert.names if name.startswith("openai/")]
    if not models:
        raise ConfigError(
            "`--dry-run` is for `openai/…` experts, and the recipe names none",
            hint="see `--policy`",
        )
    context = RunContext(RunDirectory(Path("runs") / recipe.name, recipe))
    likely, most = estimate_api_cost(context)
    for name in models:
        put(
            f"{name}: {most.tasks:,} tasks, up to {context.step_limit} turns each; nothing was asked"
        )
        for words, each in (("likely", likely), ("at most", most)):
            cost = f", cost {each.cost:,.2f}" if each.cost else ""
            put(
                f"{words:<8} {each.requests:,} requests, {each.prompt_tokens:,} prompt tokens, "
                f"{each.completion_tokens:,} completion tokens{cost}"
            )
    tell(likely.basis)


def explore(
    directory: Directory, method: Method = None, round: Round = None, quiet: Quiet = False
) -> None:
    """Let the student of the round before play what a method plans.

    Example: `eef explore runs/demo --method eef --round 1`
    """
    _by_hand(directory, "explore", method, round, quiet)


def select(
    directory: Directory, method: Method = None, round: Round = None, quiet: Quiet = False
) -> None:
    """Choose what a method trains on from what was played.

    Example: `eef select runs/demo --method eef --round 1`
    """
    _by_hand(directory, "select", method, round, quiet)


def train(
    directory: Directory, method: Method = None, round: Round = None, quiet: Quiet = False
) -> None:
    """Train the student of a round on what was selected.

    Example: `eef train runs/demo --method bc`
    """
    _by_hand(directory, "train", method, round, quiet)


def evaluate(
    directory: Directory, method: Method = None, round: Round = None, quiet: Quiet = False
) -> None:
    """Play the test tasks with the student of a round (`--method expert`: with the expert).

    Example: `eef evaluate runs/demo --method eef --round 1`
    """
    _by_hand(directory, "evaluate", method, round, quiet)


def report(directory: Directory) -> None:
    """Write `results.json` and `report.html` of a run anew, as far as it is.

    Example: `eef report runs/demo`
    """
    found = Pipeline.open(directory)
    write_report(found.run)
    put(str(found.run.path / "report.html"))


def read_recipe(path: Path, overrides: list[str] | None) -> Recipe:
    """A recipe with its overrides. ConfigError where the file is not there, or is a run."""
    if path.is_dir():
        raise ConfigError(
            f"`{path}` is a directory, not a recipe",
            hint=f"is it a run? `eef resume {path}` goes on",
        )
    if not path.exists():
        raise ConfigError(
            f"there is no recipe `{path}`", hint="`eef settings` shows what one can hold"
        )
    return load_recipe(path, overrides or ())


def as_table(overrides: list[str] | None) -> dict[str, Any]:
    """Overrides as the table they make."""
    table: dict[str, Any] = {}
    for override in overrides or ():
        apply_override(table, override)
    return table


def create_run(directory: Path, recipe: Recipe, *, quiet: bool) -> Pipeline:
    """Begin a run, or enter one of an equal recipe, once its environment is prepared."""
    with handle_interrupt("stopped; the same command continues"):
        prepare(recipe, quiet=quiet)
    return Pipeline.create(directory, recipe)


def _open_run(directory: Path, *, quiet: bool) -> Pipeline:
    """Enter a run that was begun, once its environment is prepared."""
    found = Pipeline.open(directory)
    with handle_interrupt("stopped; the same command continues"):
        prepare(found.run.recipe, quiet=quiet)
    return found


def carry_out_run(found: Pipeline, jobs: int | None, *, quiet: bool) -> None:
    """Carry out all stages of a run, and show how it goes."""
    with (
        process_settings(threads_of(found.run.recipe, 1)),
        make_display(found.run, quiet=quiet) as display,
    ):
        found.execute_all(display.hear, jobs=jobs or found.run.recipe.jobs)


def write_report(run: RunDirectory) -> Results:
    """Write results and page of a run."""
    data = run.read()
    results = read_results(data)
    write_json(run.path / "results.json", results.to_record())
    write_page(data, results, run.path / "report.html")
    return results


def _whole(found: Pipeline, jobs: int | None, quiet: bool) -> None:
    """A run to its end: all stages, results, report, table."""
    begun = monotonic()
    with handle_interrupt(f"stopped; `eef resume {found.run.path}` continues"):
        carry_out_run(found, jobs, quiet=quiet)
        results = write_report(found.run)
    if not quiet:
        _conclude(found, results, monotonic() - begun)
    put(str(found.run.path / "results.json"))


def _conclude(found: Pipeline, results: Results, seconds: float) -> None:
    console = notes()
    console.print()
    console.print(results_table(results))
    console.print()
    for words in (headline(results), verdict(results)):
        console.print(words, markup=False)
    tell(f"report:  {found.run.path / 'report.html'}")
    tell(f"run:     {found.run.path} (`eef show {found.run.path}` looks inside)")
    tell(f"time:    {duration(seconds)}")


def _by_hand(
    directory: Path, kind: StageKind, method: str | None, round: int | None, quiet: bool
) -> None:
    found = _open_run(directory, quiet=quiet)
    _stages(found, _chosen(found, kind, method, round), quiet)


def _chosen(found: Pipeline, kind: StageKind, method: str | None, round: int | None) -> list[Stage]:
    """The stages of a kind that were asked for; without a round, each method's first that is not done.

    ConfigError where the run has no such stage.
    """
    of_kind = [stage for stage in found.run.stages if stage.kind == kind]
    chosen = [
        stage
        for stage in of_kind
        if method in (None, stage.method) and round in (None, stage.round)
    ]
    if not chosen:
        options = {"--method": method, "--round": round}
        asked = " ".join(
            f"{option} {value}" for option, value in options.items() if value is not None
        )
        known = ", ".join(f"`--method {stage.method} --round {stage.round}`" for stage in of_kind)
        raise ConfigError(
            f"this run has no `{kind}` stage of `{asked}`", hint=f"there are: {known}"
        )
    if round is not None:
        return chosen
    undone = [stage for stage in chosen if not found.run.is_done(stage)]
    return list({stage.method: stage for stage in reversed(undone)}.values())[::-1]


def _stages(found: Pipeline, stages: list[Stage], quiet: bool) -> None:
    begun = [stage for stage in stages if not found.run.is_done(stage)]
    if not begun:
        tell("nothing to do: done already")
    with (
        handle_interrupt("stopped; the same command continues"),
        process_settings(threads_of(found.run.recipe, 1)),
        make_display(found.run, quiet=quiet) as display,
    ):
        for stage in begun:
            found.execute(stage, display.hear)
    put(str(found.run.path))
