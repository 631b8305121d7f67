"""`eef settings`: list every setting with its default."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from eef.cli.console import stdout_console
from eef.config import SettingRow, settings_table
from eef.envs.registry import ENVIRONMENTS, env_spec
from eef.methods.registry import METHODS, method_class
from eef.pipeline.recipe import Recipe


def settings() -> None:
    """List every setting with its default.

    Lists the settings of a recipe, the options of each method (`options.<method>`) and the settings
    of each environment (`env`). Write them into a recipe, or override one with `--set`.

    Example: `eef settings`
    """
    for title, rows in sections():
        _print_table(title, rows)


def sections() -> Iterator[tuple[str, list[SettingRow]]]:
    """The settings of a recipe, of every method and of every environment, as (title, rows)."""
    yield "recipe", settings_table(Recipe)
    for name in METHODS:
        yield f"method {name}", settings_table(method_class(name).Options, f"options.{name}.")
    for name in ENVIRONMENTS:
        yield f"environment {name}", settings_table(env_spec(name).settings, "env.")


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
