"""Seeds: the command that carries a recipe out with several seeds and compares its methods over all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from eef.analysis.aggregate import Aggregate, aggregate_trials
from eef.analysis.study import Study, load_study
from eef.analysis.trial import trials_of, write_trial
from eef.cli.console import data, handle_interrupt, put, tell
from eef.cli.display import make_display
from eef.cli.runs import Jobs, Overrides, Quiet, RecipeFile, create_run, read_recipe, write_report
from eef.config import parse_settings
from eef.errors import ConfigError
from eef.pipeline.parallel import threads_of
from eef.pipeline.pipeline import Pipeline
from eef.pipeline.recipe import Recipe
from eef.pipeline.stages import BC, EXPERT
from eef.report.formatting import display_name, percent, points, reward
from eef.report.study_page import study_markdown, study_page
from eef.utils.compute import process_settings
from eef.utils.jsonl import disk_errors, write_json, write_text


def compare(
    recipe: RecipeFile,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="A run directory for each seed goes in here; `runs/<name>-seeds` when left out.",
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Methods to compare; the recipe's when left out."),
    ] = None,
    seeds: Annotated[
        int, typer.Option(min=1, help="Number of seeds, counted from the recipe's.")
    ] = 3,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="KIND=N",
            help="What a round of each method may take: `rollouts=N`, `tokens=N` or `updates=N`.",
        ),
    ] = None,
    piece: Annotated[
        list[str] | None,
        typer.Option(metavar="METHOD@SEED", help="Carry out this piece alone (may be repeated)."),
    ] = None,
    overrides: Overrides = None,
    jobs: Jobs = None,
    quiet: Quiet = False,
) -> None:
    """Carry out a recipe with several seeds and compare its methods over all of them, at equal budget.

    A piece is one method with one seed; `--piece eef@3` carries out that one (and, once a seed, the experts and
    behaviour cloning). What is done is picked up and never done again; tables show what there is.

    Example: `eef compare recipes/demo.toml --methods rft6,eef --seeds 3 --budget rollouts=720 --out runs/demo-seeds`
    """
    settings = with_budget(read_recipe(recipe, overrides), budget)
    names = tuple(name.strip() for name in methods.split(",")) if methods else settings.methods
    directory = out or Path("runs") / f"{settings.name}-seeds"
    numbers = range(settings.seed, settings.seed + seeds)
    wanted = _pieces(piece, names, numbers)
    runs = []
    with handle_interrupt("stopped; the same command continues"):
        for seed in numbers:
            chosen = tuple(name for name in names if (name, seed) in wanted)
            if not chosen and not (directory / f"seed{seed}" / "recipe.json").exists():
                continue
            found = create_run(
                directory / f"seed{seed}", with_seed(settings, seed, names), quiet=quiet
            )
            runs.append(found)
            if chosen:
                _carry_out_pieces(found, chosen, jobs, quiet=quiet)
    together = aggregate_trials(piece for found in runs for piece in trials_of(found.run.read()))
    write_json(directory / "seeds.json", together.to_record())
    for table in seeds_tables(together):
        data().print(table)


def results(
    directories: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR…",
            show_default=False,
            help="Directories of `eef compare`, or of pieces that this command has kept.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Where `docs/results.md` and `.html` and `results/` go."),
    ] = Path(),
) -> None:
    """Write the results of comparisons, finished or not: a document, a page, a summary, and each piece in few numbers.

    The pieces (`results/pieces/<budget>/<method>@<seed>.json`) are all that a later `eef results` needs; so a study may
    be carried out on several machines. Of a piece that is in two directories the later one counts.

    Example: `eef results results/pieces runs/study-rollouts runs/study-tokens`
    """
    study = load_study(directories)
    pieces = out / "results" / "pieces"
    commands = [*_commands(study), f"eef results {pieces.relative_to(out)}"]
    texts = {
        out / "docs" / "results.md": study_markdown(study, commands),
        out / "docs" / "results.html": study_page(study, commands),
    }
    for path, text in texts.items():
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    for piece in study.trials:
        write_trial(pieces, piece)
    summary = out / "results" / "study.json"
    write_json(summary, study.to_record())
    for name in (*texts, summary):
        put(str(name))


def _commands(study: Study) -> list[str]:
    """The commands that carry out the finished pieces of a study again: one for all methods with the same seeds."""
    first, name = min(piece.seed for piece in study.trials), study.trials[0].study
    lines = []
    for kind, over in study.aggregates.items():
        size = f" --budget {kind}={study.budgets[kind]}" if study.budgets[kind] else ""
        with_seeds: dict[tuple[int, ...], list[str]] = {}
        for item in over.methods:
            seeds = tuple(seed for seed in over.seeds if over.rates_in(item, [seed]))
            if seeds and item.name not in (EXPERT, BC):
                with_seeds.setdefault(seeds, []).append(item.name)
        for seeds, methods in with_seeds.items():
            given = f"--methods {','.join(methods)} --seeds {seeds[-1] - first + 1}{size}"
            gaps = len(seeds) < seeds[-1] - first + 1
            pieces = (
                [f" --piece {method}@{seed}" for method in methods for seed in seeds]
                if gaps
                else []
            )
            lines.append(
                f"eef compare recipes/{name}.toml {given} --out runs/{name}-{kind}{''.join(pieces)}"
            )
    return lines


def _carry_out_pieces(
    found: Pipeline, methods: tuple[str, ...], jobs: int | None, *, quiet: bool
) -> None:
    if not quiet:
        tell(f"seed {found.run.recipe.seed}, {', '.join(methods)}: {found.run.path}")
    with (
        process_settings(threads_of(found.run.recipe, 1)),
        make_display(found.run, quiet=quiet) as display,
    ):
        found.execute_all(display.hear, jobs=jobs or found.run.recipe.jobs, only=methods)
    write_report(found.run)


def _pieces(asked: list[str] | None, names: tuple[str, ...], seeds: range) -> set[tuple[str, int]]:
    """The (method, seed) to be carried out: all when none is asked for. ConfigError for one that is none."""
    every = {(name, seed) for name in names for seed in seeds}
    if not asked:
        return every
    chosen = set()
    for item in asked:
        name, _, seed = item.rpartition("@")
        if not seed.isdecimal() or (name, int(seed)) not in every:
            known = f"methods {', '.join(names)}; seeds {seeds.start} to {seeds.stop - 1}"
            raise ConfigError(
                f"`--piece {item}` is no piece of this comparison", hint=f"METHOD@SEED with {known}"
            )
        chosen.add((name, int(seed)))
    return chosen


def with_budget(recipe: Recipe, budget: str | None) -> Recipe:
    """The same recipe with `rollouts=N`, `tokens=N` or `updates=N` for a round of each method (ConfigError)."""
    if budget is None:
        return recipe
    kind, _, number = budget.partition("=")
    if kind not in ("rollouts", "tokens", "updates") or not number.isdecimal() or int(number) < 1:
        raise ConfigError(
            f"`--budget {budget}` is no budget",
            hint="`rollouts=720`, `tokens=107000` or `updates=26`",
        )
    settings = recipe.model_dump()
    settings["budget"] = {kind: int(number)} if kind != "updates" else {}
    if kind == "updates":
        settings["train"] |= {"updates": int(number), "epochs": None}
    return parse_settings(Recipe, settings, source=recipe.name)


def with_seed(recipe: Recipe, seed: int, methods: tuple[str, ...]) -> Recipe:
    """The same recipe with another seed, also for its training, and with some of its methods."""
    settings = recipe.model_dump()
    settings["train"]["seed"] += seed - settings["seed"]
    settings |= {"seed": seed, "methods": methods}
    kept = {*methods, BC}
    settings["options"] = {
        name: options for name, options in settings["options"].items() if name in kept
    }
    return parse_settings(Recipe, settings, source=recipe.name)


def seeds_tables(together: Aggregate) -> tuple[Table, Table]:
    """Methods by their numbers over seeds, and pairs of methods by their difference."""
    methods = Table(
        box=None, pad_edge=False, padding=(0, 3, 0, 0), title="win rate %", title_justify="left"
    )
    for column in (
        "method",
        "mean",
        "± sd",
        *(f"seed {seed}" for seed in together.seeds),
        "mean reward",
    ):
        methods.add_column(column, justify="left" if column == "method" else "right")
    for item in together.methods:
        seeds = [percent(rate) for rate in item.win_rates]
        mean, deviation = percent(item.mean), percent(item.deviation)
        methods.add_row(display_name(item.name), mean, deviation, *seeds, reward(item.mean_reward))
    pairs = Table(
        box=None,
        pad_edge=False,
        padding=(0, 3, 0, 0),
        title_justify="left",
        title="\nwins on the same tasks, all seeds of a task together (exact sign-flip test)",
    )
    for column in ("pair", "difference [95 %]", "seeds", "p", "p (Holm)"):
        pairs.add_column(column, justify="left" if column == "pair" else "right")
    for pair in together.pairs:
        low, high = pair.over_tasks.interval
        pairs.add_row(
            f"{display_name(pair.first)} – {display_name(pair.second)}",
            f"{points(pair.over_tasks.mean)} [{points(low)}, {points(high)}]",
            str(len(pair.seeds)),
            f"{pair.p_value:.3f}",
            f"{pair.p_adjusted:.3f}",
        )
    return methods, pairs
