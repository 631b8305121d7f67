"""The program `eef`: its commands by name, each imported when it is invoked."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, ClassVar

import typer
from typer.core import TyperGroup

from eef import __version__
from eef.cli.console import handle_interrupt, install_signal_handlers, print_err, print_out
from eef.errors import EefError
from eef.utils.extras import EXTRAS, missing_package

_USAGE_ERROR: Any = typer.BadParameter.__base__  # which typer does not export
_HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}


@dataclass(frozen=True, slots=True)
class Entry:
    """A command: its function, as `module:function`, and the first line of its docstring."""

    function: str
    summary: str

    def load(self) -> Callable[..., Any]:
        module, _, name = self.function.partition(":")
        function: Callable[..., Any] = getattr(import_module(f"eef.cli.{module}"), name)
        return function


PANELS: Mapping[str, Mapping[str, Entry]] = {
    "Train": {
        "run": Entry("run:run", "Execute a recipe, or continue a run."),
        "collect": Entry("collect:collect", "Collect expert trajectories on the training tasks."),
        "stage": Entry("stage:stage", "Execute one stage of a run."),
        "evaluate": Entry("evaluate:evaluate", "Evaluate a model in an environment."),
        "compare": Entry("compare:compare", "Compare methods over several seeds."),
    },
    "Inspect": {
        "advise": Entry("advise:advise", "Measure what EEF can gain, and advise."),
        "status": Entry("status:status", "Print what a run is doing."),
        "show": Entry("show:show", "Show a run, task, trajectory or example."),
        "view": Entry("view:view", "Browse every trajectory of a run."),
        "report": Entry("report:report", "Write the report of a run or study."),
        "label-noise": Entry("label_noise:label_noise", "Measure how often labels are wrong."),
    },
    "Data and models": {
        "play": Entry("play:play_by_hand", "Play an environment by hand, as an expert."),
        "import": Entry("import_:import_files", "Import expert trajectories from other formats."),
        "export": Entry("export:export", "Export training examples for other trainers."),
    },
    "Setup": {
        "settings": Entry("settings:settings", "List every setting with its default."),
        "doctor": Entry("doctor:doctor", "Check what is installed on this machine."),
    },
}
MODEL: Mapping[str, Entry] = {
    "build": Entry("model:build", "Build a small base student from scratch."),
    "merge": Entry("model:merge", "Merge a LoRA adapter into its base."),
    "push": Entry("model:push", "Upload a checkpoint to a model hub."),
}
NEW: Mapping[str, Entry] = {
    "environment": Entry("new:environment", "Write the package of a new environment."),
}
ENV: Mapping[str, Entry] = {
    "check": Entry("env:check", "Check an environment against the protocol."),
    "serve": Entry("env:serve", "Serve an environment over HTTP."),
    "prepare": Entry("env:prepare", "Prepare an environment's data ahead of a run."),
}


class LazyGroup(TyperGroup):
    """A group that imports the module of a command when the command is invoked."""

    entries: ClassVar[Mapping[str, Entry]]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if not ctx.resilient_parsing and args[0] not in self.commands:
            from eef.cli.usage import unknown_command

            raise unknown_command(args[0], list(self.commands))
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None and name in self.entries:
            command = load_command(name, self.entries[name])
        return name, command, rest


class ModelGroup(LazyGroup):
    entries = MODEL


class EnvGroup(LazyGroup):
    entries = ENV


class NewGroup(LazyGroup):
    entries = NEW


class EefGroup(LazyGroup):
    """All commands. An EefError and a mistake on the command line end in one line and a hint, an
    interruption in one line, a bug in a traceback."""

    entries: ClassVar[Mapping[str, Entry]] = {
        name: entry for panel in PANELS.values() for name, entry in panel.items()
    }

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _usage_errors():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        try:
            with handle_interrupt("stopped"), _usage_errors(ctx):
                return super().invoke(ctx)
        except EefError as error:
            raise _exit_with(error) from None
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package not in EXTRAS:
                raise
            command = f"`eef {ctx.invoked_subcommand}`"
            raise _exit_with(missing_package(package, command)) from None


def main() -> None:
    """The program `eef`."""
    install_signal_handlers()
    _silence_libraries()
    make_app()(prog_name="eef")


def make_app() -> typer.Typer:
    """All commands; the module of each is imported when it is invoked."""
    app = _make_group(EefGroup, no_args_is_help=True)
    app.callback()(_eef)
    for panel, entries in PANELS.items():
        _add_placeholders(app, entries, panel)
    groups = (
        ("model", ModelGroup, "Build, merge and push models.", "Data and models"),
        ("env", EnvGroup, "Check, serve and prepare environments.", "Setup"),
        ("new", NewGroup, "Write the package of a new environment.", "Setup"),
    )
    for name, kind, summary, panel in groups:
        group = _make_group(kind, no_args_is_help=True)
        _add_placeholders(group, kind.entries, None)
        app.add_typer(group, name=name, help=summary, rich_help_panel=panel)
    return app


def load_command(name: str, entry: Entry) -> Any:
    """The command of an entry, with its arguments and its help."""
    single = _make_group(TyperGroup)
    single.command(name)(entry.load())
    return typer.main.get_command(single)


def _make_group(kind: type[TyperGroup], *, no_args_is_help: bool = False) -> typer.Typer:
    return typer.Typer(
        cls=kind,
        no_args_is_help=no_args_is_help,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings=_HELP_OPTIONS,
    )


def _add_placeholders(app: typer.Typer, entries: Mapping[str, Entry], panel: str | None) -> None:
    """Commands that have only a name and a summary, which is all that the group's help shows."""
    for name, entry in entries.items():
        app.command(name, help=entry.summary, rich_help_panel=panel)(_placeholder)


def _placeholder() -> None:
    raise AssertionError("`LazyGroup` loads a command before it is invoked")


@contextmanager
def _usage_errors(ctx: Any = None) -> Iterator[None]:
    """Turn a mistake on the command line into an exit with one line and a hint."""
    try:
        yield
    except _USAGE_ERROR as error:
        from eef.cli.usage import usage_error

        words = ("eef", ctx.invoked_subcommand if ctx else None)
        raise _exit_with(usage_error(error, " ".join(filter(None, words)))) from None


def _exit_with(error: EefError) -> typer.Exit:
    print_err(f"error: {error.message}")
    if error.hint:
        print_err(f"hint: {error.hint}")
    return typer.Exit(error.exit_status)


def _silence_libraries() -> None:
    """Keep the warnings of libraries out of the output, here and in worker processes, unless the
    user asks for them (`python -W` or `PYTHONWARNINGS`)."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        os.environ["PYTHONWARNINGS"] = "ignore"


def _print_version(requested: bool) -> None:
    if requested:
        print_out(f"eef {__version__}")
        raise typer.Exit


def _eef(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Tune LLM agents from expert trajectories, including the failed ones.

    Start with `eef run recipes/demo.toml --out runs/demo`, then `eef show runs/demo`.
    """
