"""`eef advise`: measure what EEF can gain on a recipe's tasks before training."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from eef.analysis.advice import CALIBRATED_TRIES, advise_on
from eef.analysis.losses import cut_turns, rollouts_of
from eef.analysis.potential import Potential, measure_potential
from eef.cli.console import plain_table, print_err, print_out, stdout_console
from eef.cli.execution import (
    create_pipeline,
    default_directory,
    execute_stages,
    open_pipeline,
    read_recipe,
    refuse_options,
)
from eef.cli.options import Out, Quiet, RecipeOrRun, RecipeOverrides
from eef.config import parse_settings
from eef.errors import ConfigError
from eef.methods.base import Method
from eef.methods.eef import Eef
from eef.methods.rft import Rft
from eef.pipeline.recipe import Recipe
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import BC, EXPERT, Stage
from eef.report.formatting import percent
from eef.utils.jsonl import write_json

TRIES = "rft6"
"""The method that is added if a recipe has none that plays every task from its start."""


def advise(
    source: RecipeOrRun,
    overrides: RecipeOverrides = None,
    out: Out = None,
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="FILE", help="Also write the numbers to a file.", show_default=False
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Measure what EEF can gain, and advise.

    Executes the first stages of a run: the expert's episodes, behavior cloning, and one round of
    exploration by `rft6` and by `eef` (methods the recipe lacks are added). These are stages of the
    run itself, which `eef run` continues. For a run that has them, nothing is played. The
    recommendation follows a rule fitted to the simulations of `docs/when.md`; the output states how
    often the rule was right there.

    Example: `eef advise recipes/demo.toml`
    """
    if source.is_dir():
        refuse_options(source, overrides or (), out)
        run = RunDirectory.open(source)
        tries, branches = find_methods(run)
        stages = first_stages(tries, branches)
        if not all(run.is_done(stage) for stage in stages if stage.kind in ("collect", "explore")):
            pipeline = open_pipeline(source, quiet=quiet)
            pipeline.check()
            execute_stages(pipeline, stages, quiet=quiet)
    else:
        recipe = with_methods(read_recipe(source, overrides))
        pipeline = create_pipeline(out or default_directory(recipe), recipe, quiet=quiet)
        run = pipeline.run
        tries, branches = find_methods(run)
        pipeline.check()
        execute_stages(pipeline, first_stages(tries, branches), quiet=quiet)
    potential = measure_run(run, tries, branches)
    if not potential.tasks:
        raise ConfigError(
            f"`{run.path}` has no rollouts of `{tries}` from the start of a task to measure",
            hint="name another `rft` method in the recipe",
        )
    advice = advise_on(potential)
    if json_file:
        write_json(json_file, {"measured": asdict(potential), "advice": asdict(advice)})
    stdout_console().print(potential_table(potential))
    for line in advice.text():
        print_out(line)
    explored = Stage(tries, 1, "explore")
    data = run.read()
    if cut := cut_turns(data, explored, rollouts_of(data, explored)):
        print_err(
            f"{cut}. Tasks may count as hard, and as opened, only because of this limit: "
            f"{cut.cause.advice} and measure again."
        )
    if potential.tries < CALIBRATED_TRIES:
        print_err(
            f"The rule was calibrated with {CALIBRATED_TRIES} tries per task; this run has "
            f"{potential.tries:.1f}. With fewer tries, more tasks count as hard."
        )
    if not quiet:
        print_err(f"run:  {run.path} (`eef run {run.path}` continues it)")


def with_methods(recipe: Recipe) -> Recipe:
    """The recipe with a method that tries every task from its start, and with `eef`.

    ConfigError if `eef` is missing and its name is that of a variant.
    """
    run = RunDirectory(Path(), recipe)
    missing = [
        name
        for name, measures in ((TRIES, _tries), ("eef", _branches))
        if not any(map(measures, run.methods.values()))
    ]
    if not missing:
        return recipe
    for name in missing:
        if name in recipe.methods:
            raise ConfigError(
                f"`options.{name}` makes `{name}` a variant that `eef advise` cannot measure with",
                hint=f"rename the variant, and add `{name}` to `methods`",
            )
    settings: dict[str, Any] = recipe.model_dump()
    settings["methods"] = (*recipe.methods, *missing)
    return parse_settings(Recipe, settings, source=recipe.name)


def _tries(method: Method[Any]) -> bool:
    return type(method) is Rft


def _branches(method: Method[Any]) -> bool:
    """Whether a method is EEF itself, without roles or groups, and branches from experts."""
    return type(method) is Eef and method.branches and method.options.branch_from == "expert"


def find_methods(run: RunDirectory) -> tuple[str, str]:
    """The names of a run's first RFT and of its first EEF that branches from experts.

    ConfigError if it has none of either.
    """
    found: dict[str, str] = {}
    for name, method in run.methods.items():
        if _tries(method):
            found.setdefault("rft", name)
        elif _branches(method):
            found.setdefault("eef", name)
    for kind, name in (("rft", TRIES), ("eef", "eef")):
        if kind not in found:
            raise ConfigError(
                f"`{run.path}` lacks the method `{name}`, which `eef advise` measures with",
                hint=f"add it: `eef advise RECIPE --out {run.path}`",
            )
    return found["rft"], found["eef"]


def first_stages(tries: str, branches: str) -> list[Stage]:
    """The stages that a measurement needs, in order."""
    return [
        Stage(EXPERT, 0, "collect"),
        Stage(BC, 0, "select"),
        Stage(BC, 0, "train"),
        Stage(tries, 1, "explore"),
        Stage(branches, 1, "explore"),
    ]


def measure_run(run: RunDirectory, tries: str, branches: str) -> Potential:
    """The potential of a run's training tasks, from its first round."""
    starts, inside = run.trajectories(tries), run.trajectories(branches)
    method = run.methods[branches]
    experts = method.options.experts if isinstance(method, Eef) else None
    return measure_potential(starts, inside, starts.tasks(), experts=experts)


def potential_table(potential: Potential) -> Table:
    """The measurements, with counts and shares."""
    table = plain_table("measurement", "count", "share", right=("count", "share"), header=False)

    def share(count: int) -> str:
        return f"{percent(potential.share(count))} %"

    rows = (
        ("tasks tried", f"{potential.tasks:,}", ""),
        ("won by the expert", "", f"{percent(potential.expert_rate)} %"),
        ("the student's win rate from the start", "", f"{percent(potential.student_rate)} %"),
        (
            f"hard: no win in {potential.tries:.1f} tries",
            f"{potential.hard:,}",
            share(potential.hard),
        ),
        ("  won by the expert (taught)", f"{potential.taught:,}", share(potential.taught)),
        ("  lost by the expert", f"{potential.lost:,}", share(potential.lost)),
        (
            "    won by the student from inside the failure (opened)",
            f"{potential.opened:,}",
            share(potential.opened),
        ),
        (
            "the student's win rate from inside failures",
            "",
            f"{percent(potential.branch_rate)} %",
        ),
        (
            "mean steps of an expert's episode, and of a failure",
            f"{potential.length:.1f}",
            f"{potential.failure:.1f}",
        ),
    )
    for row in rows:
        table.add_row(*row)
    return table
