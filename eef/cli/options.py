"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eef.config import apply_override, unknown_name
from eef.errors import ConfigError

if TYPE_CHECKING:
    from eef.pipeline.run_directory import RunDirectory

RunPath = Annotated[
    Path, typer.Argument(metavar="DIR", help="A run directory.", show_default=False)
]
RecipePath = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE", help="A recipe: a `.toml`, `.yaml` or `.json` file.", show_default=False
    ),
]
RecipeOrRun = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE|DIR",
        help="A recipe (a `.toml`, `.yaml` or `.json` file), or an existing run directory.",
        show_default=False,
    ),
]
RecipeOverrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a setting of the recipe, e.g. `train.updates=50`; may be repeated.",
    ),
]
EnvOverrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set a setting of the environment, named as in a recipe but without `env.`, e.g. "
        "`data=webshop/data` or `products_per_page=5`; may be repeated.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="The run directory.  [default: runs/NAME_OF_RECIPE]"),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Methods to execute in parallel, each in a process.  [default: the recipe's `jobs`]",
        show_default=False,
    ),
]
Ranks = Annotated[
    int | None,
    typer.Option(
        "--ranks",
        min=1,
        help="Processes that train a student together, from now on.  [default: `train.ranks`]",
        show_default=False,
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        help="A Ray cluster: `auto` (the one this machine belongs to), `local` (this machine) or "
        "HOST:PORT.  [default: none]",
        show_default=False,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress and no table.")]
MethodName = Annotated[
    str | None, typer.Option("--method", help="Only this method.", show_default=False)
]


def with_ranks(overrides: list[str] | None, ranks: int | None) -> list[str] | None:
    """Overrides with those of `--ranks`."""
    return overrides if ranks is None else [*(overrides or ()), f"train.ranks={ranks}"]


def overrides_table(overrides: list[str] | None) -> dict[str, Any]:
    """Overrides as the table they describe.

    >>> overrides_table(["a.b=1", "c=x"])
    {'a': {'b': 1}, 'c': 'x'}
    """
    table: dict[str, Any] = {}
    for override in overrides or ():
        apply_override(table, override)
    return table


def env_options(overrides: list[str] | None) -> dict[str, Any]:
    """Overrides of the settings of an environment. ConfigError if one is written as in a recipe."""
    for override in overrides or ():
        if override.startswith("env."):
            raise ConfigError(
                f"`--set {override}`: only settings of the environment are set here",
                hint=f"leave out `env.`: `--set {override.removeprefix('env.')}`",
            )
    return overrides_table(overrides)


def check_method_and_round(run: RunDirectory, method: str | None, round: int | None) -> None:
    """ConfigError if a run has no such method or round; None stands for all."""
    methods = list(dict.fromkeys(stage.method for stage in run.stages))
    if method is not None and method not in methods:
        raise unknown_name("method", method, methods)
    last = max(run.rounds_of(name) for name in ([method] if method else methods))
    if round is not None and round > last:
        raise ConfigError(f"`{run.path}` has no round {round}", hint=f"its rounds: 0 to {last}")
