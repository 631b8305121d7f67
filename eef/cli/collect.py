"""`eef collect`: collect expert trajectories."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from eef.cli.console import print_err, print_out
from eef.cli.execution import (
    create_pipeline,
    default_directory,
    execute_stages,
    open_pipeline,
    read_recipe,
    recipe_of,
    refuse_options,
)
from eef.cli.options import Out, Quiet, RecipeOrRun, RecipeOverrides
from eef.errors import ConfigError
from eef.pipeline.context import RunContext
from eef.pipeline.cost_estimate import Estimate
from eef.pipeline.experts import estimate_api_cost
from eef.pipeline.recipe import Recipe
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import COLLECT
from eef.policies.settings import ApiSettings


def collect(
    source: RecipeOrRun,
    overrides: RecipeOverrides = None,
    out: Out = None,
    policy: Annotated[
        str | None,
        typer.Option(
            metavar="EXPERT",
            help="The expert, e.g. `openai/gpt-4.1`; sets `expert.names` of the recipe.",
            show_default=False,
        ),
    ] = None,
    base_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="The server of an `openai/…` expert, including `/v1`.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Estimate requests and cost of an `openai/…` expert; send nothing."
        ),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Collect expert trajectories on the training tasks.

    This is the first stage of a run. Given a recipe, it creates the run; `eef run DIR` then
    continues. Prints the run directory.

    An `openai/MODEL` expert is a model behind any OpenAI-compatible server. Its key is read from
    the environment (`OPENAI_API_KEY`, or the variable that `expert.api.key` names) and never
    written. `expert.api.max_requests`, `max_tokens` and `max_cost` limit the cost. Every response
    is stored: the same command continues an interrupted collection and repeats no request. The
    settings of `expert.api` may change in a run that has started: `eef collect DIR --set
    expert.api.max_requests=500` raises a spent budget and continues.

    Example: `eef collect recipes/demo.toml --policy openai/MODEL --base-url
    http://127.0.0.1:8000/v1 --out runs/mine`
    """
    expert = [
        *([f"expert.names=[{json.dumps(policy)}]"] if policy else ()),
        *([f"expert.api.base_url={json.dumps(base_url)}"] if base_url else ()),
    ]
    changes = [*(overrides or ()), *expert]
    if source.is_dir():
        refuse_options(source, changes, out)
    recipe = recipe_of(source, changes) if source.is_dir() else read_recipe(source, changes)
    if dry_run:
        _print_estimate(recipe)
        return
    if source.is_dir():
        pipeline = open_pipeline(source, quiet=quiet, overrides=changes)
    else:
        pipeline = create_pipeline(out or default_directory(recipe), recipe, quiet=quiet)
    execute_stages(pipeline, [COLLECT], quiet=quiet)
    print_out(str(pipeline.run.path))


def _print_estimate(recipe: Recipe) -> None:
    """Requests, tokens and cost of the `openai/…` experts of a recipe."""
    models = [name for name in recipe.expert.names if name.startswith("openai/")]
    if not models:
        raise ConfigError(
            "`--dry-run` has no effect: the recipe names no `openai/…` expert",
            hint="name one with `--policy openai/MODEL`",
        )
    context = RunContext(RunDirectory(default_directory(recipe), recipe))
    estimates = {name: estimate_api_cost(context, name) for name in models}
    for name, (likely, highest) in estimates.items():
        print_out(
            f"{name}: {highest.tasks:,} tasks, up to {context.step_limit} turns each; "
            "no request was sent"
        )
        for label, estimate in (("likely", likely), ("at most", highest)):
            cost = f", cost {estimate.cost:,.2f}" if estimate.cost else ""
            print_out(
                f"{label:<8} {estimate.requests:,} requests, {estimate.prompt_tokens:,} prompt "
                f"tokens, {estimate.completion_tokens:,} completion tokens{cost}"
            )
    print_err(estimates[models[0]][0].basis)
    api = recipe.expert.api or ApiSettings()
    if not api.prompt_price and not api.completion_price:
        print_err("cost unknown: set `expert.api.prompt_price` and `expert.api.completion_price`")
    for warning in _budget_warnings(api, [likely for likely, _ in estimates.values()]):
        print_err(f"warning: {warning}")


def _budget_warnings(budget: ApiSettings, likely: Sequence[Estimate]) -> Iterator[str]:
    """The limits that the likely use of all models exceeds."""
    for unit, count in (
        ("requests", sum(each.requests for each in likely)),
        ("tokens", sum(each.prompt_tokens + each.completion_tokens for each in likely)),
        ("cost", sum(each.cost for each in likely)),
    ):
        limit = getattr(budget, f"max_{unit}")
        if limit is not None and count > limit:
            likely_use = f"{count:,.2f}" if unit == "cost" else f"{count:,}"
            yield (
                f"the budget will probably not suffice: likely {unit} {likely_use}, "
                f"`expert.api.max_{unit}` is {limit:,}"
            )
