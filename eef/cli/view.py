"""`eef view`: browse every trajectory of a run."""

from __future__ import annotations

import os
import webbrowser
from contextlib import closing
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from eef.cli.console import handle_interrupt, print_err, print_out
from eef.cli.progress import show_bars
from eef.errors import ConfigError
from eef.utils.extras import require_package


def view(
    directories: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR…",
            help="Run directories, or directories of `eef compare`.",
            show_default=False,
        ),
    ],
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port on this machine; 0 is any free port.")
    ] = 0,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Only print the address; open no browser.")
    ] = False,
    static: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT",
            help="Write the pages as files that open without a server.",
            show_default=False,
        ),
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(help="With `--static`: only this task; may be repeated.", show_default=False),
    ] = None,
    filter: Annotated[
        str | None,
        typer.Option(
            help="With `--static`: only the tasks of this filter: `never`, `newly`, `one`, "
            "`expert-failed`, `recovery`, `errors`, `overflows`, `unverified`, `train` or `test`.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Browse every trajectory of a run.

    Serves the pages on this machine only, below a random key, and follows a run that is being
    executed. Nothing is written into the run: the search index is in the cache directory
    (`EEF_CACHE`). From another machine, forward the port: `ssh -L PORT:127.0.0.1:PORT HOST`.
    Prints the address; Ctrl-C stops the server.

    With `--static`, writes the same pages as files, of the whole run, of some tasks or of a filter,
    and prints the path of the first. Filters, sorting, search and comparing work there too.

    Example: `eef view runs/demo`

    Example: `eef view runs/demo --static pages --filter never`
    """
    require_package("jinja2", "`eef view`")
    require_package("starlette", "`eef view`", extra="view")
    from eef.viewer.library import open_library
    from eef.viewer.server import serve
    from eef.viewer.static import choose_tasks, write_site

    if static is None and (task or filter):
        raise ConfigError(
            "`--task` and `--filter` have no effect without `--static`",
            hint="the pages of the server have filters of their own",
        )
    library = open_library(directories)
    with closing(library), handle_interrupt("stopped"):
        for run in library.runs:
            with show_bars() as on_progress:
                run.refresh(on_progress)

        if static is not None:
            for run in library.runs:
                run.static, run.only = True, choose_tasks(run, task or (), filter)
            with show_bars() as on_progress:
                print_out(str(write_site(library, static, on_progress)))
            return

        def ready(address: str, once: str) -> None:
            print_out(address)
            if os.environ.get("SSH_CONNECTION"):
                number = urlsplit(address).port
                print_err(
                    f"hint: in a terminal on your own machine: `ssh -N -L "
                    f"{number}:127.0.0.1:{number} HOST`, then open the address there"
                )
            elif not no_browser:
                webbrowser.open(once)  # all users see the command line of a browser
            print_err("Ctrl-C stops the server")

        serve(library, port=port, ready=ready)
