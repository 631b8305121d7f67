"""Indexes: what an environment prepares once and keeps on disk – by a command, or before the first run – with bars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from eef.cli.console import handle_interrupt, notes, put, tell
from eef.envs.registry import prepare_env
from eef.pipeline.recipe import Recipe
from eef.utils.progress import OnProgress, Progress


def index(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="Directory with WebShop's files, or its items file.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where indexes are kept (`env.index`); the cache directory when left out.",
        ),
    ] = None,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build it anew, even if one is there.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare every file with its checksum.")
    ] = False,
) -> None:
    """Index WebShop's official files on disk, so that a shop of a million products opens at once; prints where.

    A run does the same before its first step. What was interrupted goes on where it stopped. The cache directory is
    `$EEF_CACHE`, else `eef` in the user's cache directory.

    Example: `eef index webshop/data`
    """
    from eef.envs.webshop.index import is_large, open_index
    from eef.envs.webshop.official import OfficialFiles

    files = OfficialFiles.find(data)
    with handle_interrupt("stopped; the same command continues"), bars() as progress:
        built = open_index(files, out, rebuild=rebuild, on_progress=progress)
        if verify:
            built.verify(progress)
    tell(f"{len(built.columns.read('record_ends')):,} products")
    if out is None and not is_large(files):
        tell("hint: so small a catalog is read into memory, unless `env.index` names a directory")
    put(str(built.directory))


def prepare(recipe: Recipe, *, quiet: bool) -> None:
    """Do what the recipe's environment needs done once, with bars unless `quiet`."""
    with bars(quiet=quiet) as progress:
        prepare_env(recipe.env.name, recipe.env.options, progress)


@contextmanager
def bars(*, quiet: bool = False) -> Iterator[OnProgress]:
    """A callback that shows a bar for each subject; nothing is shown until it is called."""
    shown = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True),
        console=notes(),
        disable=quiet,
    )
    bar_of: dict[str, TaskID] = {}

    def on_progress(progress: Progress) -> None:
        shown.start()
        subject = str(progress.subject)
        if subject not in bar_of:
            bar_of[subject] = shown.add_task(subject)
        shown.update(bar_of[subject], completed=progress.done, total=progress.total)

    try:
        yield on_progress
    finally:
        if bar_of:
            shown.stop()
