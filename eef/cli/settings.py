"""`eef settings`: list every setting with its default."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich.table import Table
from rich.text import Text

from eef.cli.console import print_err, stdout_console
from eef.config import SettingRow, settings_table
from eef.envs import registry as envs
from eef.envs.registry import ENVIRONMENTS, env_spec
from eef.methods import registry as methods
from eef.methods.registry import METHODS, method_class
from eef.pipeline.recipe import Recipe
from eef.plugins import Plugins


def settings() -> None:
    """List every setting with its default.

    Lists the settings of a recipe, the options of each method (`options.<method>`) and the settings
    of each environment (`env`), those of installed plugins included. Write them into a recipe, or
    override one with `--set`.

    Example: `eef settings`
    """
    known = [*METHODS, *_working(methods.PLUGINS)], [*ENVIRONMENTS, *_working(envs.PLUGINS)]
    for title, rows in sections(*known):
        _print_table(title, rows)


def sections(
    method_names: Iterable[str] = METHODS, env_names: Iterable[str] = ENVIRONMENTS
) -> Iterator[tuple[str, list[SettingRow]]]:
    """The settings of a recipe, of methods and of environments, as (title, rows)."""
    yield "recipe", settings_table(Recipe)
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
    table = Table(
        box=None, pad_edge=False, padding=(0, 3, 0, 0), title=f"\n{title}", title_justify="left"
    )
    table.add_column("setting", no_wrap=True)
    table.add_column("default")
    table.add_column("meaning", ratio=1)
    for row in rows:
        meaning = " ".join(row.description.split())
        table.add_row(Text(row.key, style="bold"), Text(row.default), Text(meaning))
    stdout_console().print(table)
