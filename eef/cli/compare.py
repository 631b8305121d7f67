"""`eef compare`: compare methods over several seeds."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from time import monotonic
from typing import Annotated

import typer
from rich.table import Table

from eef.analysis.aggregate import Aggregate
from eef.analysis.aggregation import aggregate_trials
from eef.analysis.trial import Trial, trials_of
from eef.cli.console import duration, handle_interrupt, plain_table, print_err, stdout_console
from eef.cli.execution import (
    CONTINUES,
    create_pipeline,
    default_directory,
    execute_all,
    read_recipe,
    write_report,
)
from eef.cli.options import Jobs, Quiet, RayAddress, RecipeOverrides, RecipePath
from eef.config import parse_settings, unknown_name
from eef.errors import ConfigError, EefError
from eef.methods.registry import make_method
from eef.pipeline.pipeline import Pipeline
from eef.pipeline.recipe import Recipe
from eef.pipeline.run_directory import RunDirectory, is_run
from eef.pipeline.stages import BC
from eef.pipeline.status import wait_for_records
from eef.pipeline.trials import TrialResources, TrialTask, execute_trials
from eef.report.formatting import display_name, percent, points, reward
from eef.utils.cluster import join
from eef.utils.jsonl import disk_errors, write_json
from eef.utils.locks import await_lock


def compare(
    recipe: RecipePath,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="The directory of the runs, one per seed.  [default: runs/NAME_OF_RECIPE-seeds]",
            show_default=False,
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Methods to compare.  [default: those of the recipe]",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Number of seeds, counted from the recipe's.")
    ] = 3,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="KIND=N",
            help="Budget of a round, equal for every method: `rollouts=N`, `tokens=N` or "
            "`updates=N`.  [default: the recipe's]",
            show_default=False,
        ),
    ] = None,
    trial: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METHOD@SEED",
            help="Execute only this trial; may be repeated.",
            show_default=False,
        ),
    ] = None,
    overrides: RecipeOverrides = None,
    jobs: Jobs = None,
    address: RayAddress = None,
    trial_cpus: Annotated[
        float, typer.Option(min=0.01, help="With `--ray`: CPUs that each trial reserves.")
    ] = 1.0,
    trial_gpus: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="With `--ray`: GPUs that each trial reserves.  [default: 1 if there are any]",
            show_default=False,
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Compare methods over several seeds.

    A trial is one method with one seed. Each seed is a run, in which all methods share the expert
    data, the behavior cloning and the budget. Finished trials are never repeated, so a study can be
    spread over several commands with `--trial eef@3`, at the same time and on several machines that
    share a disk: the first trial of a seed executes the shared stages, the others wait for it.
    With `--ray`, trials run as tasks of a Ray cluster; a trial whose node dies is started again.
    Prints win rates and paired tests of the trials so far; `eef report DIR` writes the full report.

    Example: `eef compare recipes/demo.toml --methods rft6,eef --seeds 3 --budget rollouts=720 --out
    runs/demo-seeds`
    """
    settings = read_recipe(recipe, overrides)
    names = tuple(name.strip() for name in methods.split(",")) if methods else settings.methods
    default = default_directory(settings)
    directory = out or default.with_name(f"{default.name}-seeds")
    numbers = range(settings.seed, settings.seed + seeds)
    chosen = _choose_trials(trial, names, numbers)
    recipes = {
        directory / f"seed{seed}": with_budget(with_seed(settings, seed, names), budget)
        for seed in numbers
    }
    missing = {
        path: tuple(name for name in names if (name, each.seed) in chosen)
        for path, each in recipes.items()
    }
    failed: list[tuple[TrialTask, EefError]] = []
    with handle_interrupt(CONTINUES):
        if address is not None:
            tasks = [
                TrialTask(path, each, name)
                for path, each in recipes.items()
                for name in missing[path]
            ]
            resources = TrialResources(cpus=trial_cpus, gpus=trial_gpus)
            failed = _execute_on_ray(address, tasks, resources, jobs, quiet=quiet)
        for path, each in recipes.items():
            if (missing[path] and address is None) or is_run(path):
                pipeline = create_pipeline(path, each, quiet=quiet, shared=True)
                if address is None and missing[path]:
                    _execute_trials(pipeline, missing[path], jobs, quiet=quiet)
                    _report(path)
    _conclude(directory, recipes)
    if failed:
        raise _summary_of(failed)


def _report(path: Path) -> None:
    """Write the report of a seed, with the trials of other processes that have ended."""
    with await_lock(path / "recipe.lock"):
        write_report(RunDirectory.open(path).read())


def _conclude(directory: Path, recipes: Iterable[Path]) -> None:
    """Write and print the numbers of all trials so far, those of other processes among them."""
    with disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    with await_lock(directory / "seeds.lock"):
        trials: list[Trial] = []
        for path in recipes:
            if is_run(path):
                trials += trials_of(RunDirectory.open(path).read())
        aggregate = aggregate_trials(trials)
        write_json(directory / "seeds.json", aggregate.to_record())
    for table in aggregate_tables(aggregate):
        stdout_console().print(table)


def _execute_on_ray(
    address: str,
    tasks: list[TrialTask],
    resources: TrialResources,
    jobs: int | None,
    *,
    quiet: bool,
) -> list[tuple[TrialTask, EefError]]:
    if jobs is not None:
        raise ConfigError(
            "`--jobs` has no effect with `--ray`: every trial is a task of its own",
            hint="remove one of the two",
        )
    started = monotonic()

    def on_end(task: TrialTask, error: EefError | None) -> None:
        if error is not None:
            print_err(f"{task} failed: {error.message}")
        elif not quiet:
            print_err(f"{task} done ({duration(monotonic() - started)})")

    failed = execute_trials(join(address), tasks, resources, on_note=print_err, on_end=on_end)
    broken = {task.directory for task, _ in failed}
    for path in dict.fromkeys(task.directory for task in tasks):
        if path not in broken or is_run(path):
            run = RunDirectory.open(path)
            for stage in run.stages:
                if run.is_done(stage):
                    wait_for_records(run, stage)
            _report(path)
    return failed


def _summary_of(failed: list[tuple[TrialTask, EefError]]) -> EefError:
    """The error of trials that failed: the first one's, with the number of the others."""
    (task, error), *others = failed
    more = f" ({len(others)} more failed, see above)" if others else ""
    hint = error.hint or f"the same command repeats only {task}"
    return type(error)(f"{task}: {error.message}{more}", hint=hint)


def with_budget(recipe: Recipe, budget: str | None) -> Recipe:
    """The recipe with `rollouts=N`, `tokens=N` or `updates=N` as the budget of a round.

    ConfigError if `budget` has another form, or if a method overrides it in another unit.
    """
    if budget is None:
        return recipe
    kind, _, number = budget.partition("=")
    if kind not in ("rollouts", "tokens", "updates") or not number.isdecimal() or int(number) < 1:
        raise ConfigError(
            f"`--budget` is {budget!r}; expected `rollouts=N`, `tokens=N` or `updates=N`",
            hint="for example `--budget rollouts=720`",
        )
    for method in recipe.methods:
        own = recipe.overrides.get(method, {})
        units = own.get("budget", {}).items()
        other = [f"budget.{unit}" for unit, value in units if value and unit != kind]
        if kind == "updates" and "updates" in own.get("train", {}):
            other.append("train.updates")
        if other:
            raise ConfigError(
                f"`--budget` is {budget!r}, but `overrides.{method}.{other[0]}` is set as well",
                hint=f"omit `{method}` from `--methods`, or change its override",
            )
    settings = recipe.model_dump()
    settings["budget"] = {kind: int(number)} if kind != "updates" else {}
    if kind == "updates":
        settings["train"] |= {"updates": int(number), "epochs": None}
    return parse_settings(Recipe, settings, source=recipe.name)


def with_seed(recipe: Recipe, seed: int, methods: tuple[str, ...]) -> Recipe:
    """The recipe with another seed, also for training, and with some of its methods."""
    settings = recipe.model_dump()
    settings["train"]["seed"] += seed - settings["seed"]
    settings |= {"seed": seed, "methods": methods}
    kept = {*methods, BC}
    for group in ("options", "overrides"):
        settings[group] = {name: table for name, table in settings[group].items() if name in kept}
    left_out = {name for name in recipe.methods if name not in kept}
    unused = _roles_of(recipe, left_out) - _roles_of(recipe, kept)
    settings["roles"] = {
        role: table for role, table in settings["roles"].items() if role not in unused
    }
    return parse_settings(Recipe, settings, source=recipe.name)


def _roles_of(recipe: Recipe, methods: Iterable[str]) -> set[str]:
    """The roles that some methods ask."""
    made = (make_method(name, recipe.options.get(name)) for name in methods)
    return {role for method in made for role in method.roles}


def aggregate_tables(aggregate: Aggregate) -> tuple[Table, Table]:
    """A table of methods with their numbers over seeds, and one of pairs with their differences."""
    return _methods_table(aggregate), _pairs_table(aggregate)


def _choose_trials(
    requested: list[str] | None, methods: tuple[str, ...], seeds: range
) -> set[tuple[str, int]]:
    """The (method, seed) to execute, by default all. ConfigError for one that does not exist."""
    every = {(name, seed) for name in methods for seed in seeds}
    if not requested:
        return every
    chosen = set()
    for item in requested:
        name, _, seed = item.rpartition("@")
        if name and name not in methods:
            raise unknown_name("method", name, methods)
        if not seed.isdecimal() or (name, int(seed)) not in every:
            raise ConfigError(
                f"`--trial` is {item!r}; expected METHOD@SEED",
                hint=f"seeds of this study: {seeds.start} to {seeds.stop - 1}",
            )
        chosen.add((name, int(seed)))
    return chosen


def _execute_trials(
    pipeline: Pipeline, methods: tuple[str, ...], jobs: int | None, *, quiet: bool
) -> None:
    run = pipeline.run
    if not quiet:
        print_err(f"seed {run.recipe.seed}, {', '.join(methods)}: {run.path}")
    execute_all(pipeline, jobs, quiet=quiet, only=methods, shared=True)


def _methods_table(aggregate: Aggregate) -> Table:
    seeds = [f"seed {seed}" for seed in aggregate.seeds]
    numbers = ("mean", "± sd", *seeds, "mean reward")
    table = plain_table("method", *numbers, right=numbers, title="win rate %")
    for item in aggregate.methods:
        table.add_row(
            display_name(item.name),
            percent(item.mean),
            percent(item.deviation),
            *(percent(rate) for rate in item.win_rates),
            reward(item.mean_reward),
        )
    return table


def _pairs_table(aggregate: Aggregate) -> Table:
    title = "\nwins on the same tasks, pooled over seeds (exact sign-flip test)"
    numbers = ("difference [95 %]", "seeds", "p", "p (Holm)")
    table = plain_table("pair", *numbers, right=numbers, title=title)
    for pair in aggregate.pairs:
        low, high = pair.over_tasks.interval
        table.add_row(
            f"{display_name(pair.first)} – {display_name(pair.second)}",
            f"{points(pair.over_tasks.mean)} [{points(low)}, {points(high)}]",
            str(len(pair.seeds)),
            f"{pair.p_value:.3f}",
            f"{pair.p_adjusted:.3f}",
        )
    return table
