"""The command line: one subcommand a verb. The only place that prints, parses arguments and exits.

`runs` carries recipes out, `views` looks into them, `tools` is the rest; `display` shows how a run goes; `console`
says where words go and how a program ends.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer

from eef import __version__
from eef.cli import exports, imports, indexes, noise, runs, seeds, servers, tools, views
from eef.cli.console import Verbs, install_signal_handlers, put

GROUPS: dict[str, dict[str, Callable[..., Any]]] = {
    "Carry out": {"run": runs.run, "resume": runs.resume, "compare": seeds.compare},
    "One stage at a time": {
        "collect": runs.collect,
        "explore": runs.explore,
        "select": runs.select,
        "train": runs.train,
        "evaluate": runs.evaluate,
    },
    "Data and models, in and out": {
        "import": imports.import_files,
        "export": exports.export,
        "merge": exports.merge,
        "push": exports.push,
    },
    "Look": {
        "show": views.show,
        "report": runs.report,
        "results": seeds.results,
        "label-noise": noise.label_noise,
        "settings": tools.settings,
        "formats": tools.formats,
    },
    "Tools": {
        "index": indexes.index,
        "gold": tools.gold,
        "serve-env": servers.serve_env,
        "check-env": tools.check_env,
        "make-base": tools.make_base,
        "doctor": tools.doctor,
    },
}


def main() -> None:
    """The program `eef`."""
    install_signal_handlers()
    make_app()(prog_name="eef")


def make_app() -> typer.Typer:
    """The commands by name."""
    app = typer.Typer(
        cls=Verbs,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_eef)
    for panel, commands in GROUPS.items():
        for name, command in commands.items():
            app.command(name, rich_help_panel=panel)(command)
    return app


def _print_version(asked: bool) -> None:
    if asked:
        put(f"eef {__version__}")
        raise typer.Exit


def _eef(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Tune LLM agents from expert trajectories, the failed ones included.

    Begin with `make demo`, or `eef run recipes/demo.toml --out runs/demo`.
    """


__all__ = ["main", "make_app"]
