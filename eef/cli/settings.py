"""`eef settings`: list every setting with its default."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import typer
from rich.text import Text

from eef.cli.console import plain_table, print_err, stdout_console
from eef.config import SettingRow, most_similar, settings_table
from eef.envs import registry as envs
from eef.envs.registry import ENVIRONMENTS, env_spec
from eef.errors import ConfigError
from eef.methods import registry as methods
from eef.methods.registry import METHODS, method_class
from eef.pipeline.recipe import Recipe
from eef.plugins import Plugins
from eef.policies.settings import RoleSettings


def settings(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="Only this group (`train`), setting (`train.updates`, `updates`), method or "
            "environment.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """List every setting with its default.

    Lists the settings of a recipe, the options of each method (`options.<method>`) and the settings
    of each environment (`env`), those of installed plugins included. Write them into a recipe, or
    override one with `--set`.

    Example: `eef settings`

    Example: `eef settings train`
    """
    known = [*METHODS, *_working(methods.PLUGINS)], [*ENVIRONMENTS, *_working(envs.PLUGINS)]
    found = [
        (title, chosen)
        for title, rows in sections(*known)
        if (chosen := [row for row in rows if name is None or name in _names(title, row)])
    ]
    if name is not None and not found:
        every = dict.fromkeys(
            each for title, rows in sections(*known) for row in rows for each in _names(title, row)
        )
        similar = most_similar(name, list(every))
        hint = f"did you mean {similar!r}?" if similar else "`eef settings` lists all of them"
        raise ConfigError(f"unknown setting or group {name!r}", hint=hint)
    for title, rows in found:
        _print_table(title, rows)


def _names(title: str, row: SettingRow) -> Iterator[str]:
    """Everything that a setting is found by: its key, its last word, its groups, its owner.

    >>> list(_names("method eef", SettingRow("options.eef.M", "integer", "5", "")))
    ['options', 'options.eef', 'options.eef.M', 'M', 'method eef', 'eef']
    """
    parts = row.key.split(".")
    for count in range(1, len(parts) + 1):
        yield ".".join(parts[:count])
    yield from (parts[-1], title, title.rpartition(" ")[2])


def sections(
    method_names: Iterable[str] = METHODS, env_names: Iterable[str] = ENVIRONMENTS
) -> Iterator[tuple[str, list[SettingRow]]]:
    """The settings of a recipe, of methods and of environments, as (title, rows)."""
    yield "recipe", settings_table(Recipe)
    yield "role", settings_table(RoleSettings, "roles.<name>.")
    for name in method_names:
        yield f"method {name}", settings_table(method_class(name).Options, f"options.{name}.")
    for name in env_names:
        yield f"environment {name}", settings_table(env_spec(name).settings, "env.")


def _working(plugins: Plugins[Any]) -> Iterator[str]:
    """The names of the installed plugins that can be used; the others are reported."""
    for plugin, problem in plugins.problems():
        if problem is None:
            yield plugin.name
        else:
            print_err(f"warning: {problem.message}")
            print_err(f"hint: {problem.hint}")


def _print_table(title: str, rows: list[SettingRow]) -> None:
    table = plain_table(title=f"\n{title}")
    table.add_column("setting", no_wrap=True)
    table.add_column("default")
    table.add_column("meaning", ratio=1)
    for row in rows:
        meaning = " ".join(row.description.split())
        table.add_row(Text(row.key, style="bold"), Text(row.default), Text(meaning))
    stdout_console().print(table)
