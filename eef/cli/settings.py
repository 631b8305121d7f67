"""`eef settings`: list every setting with its default."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from rich.table import Table
from rich.text import Text

from eef.cli.console import print_out, stdout_console
from eef.config import SettingRow, settings_table
from eef.envs.registry import ENVIRONMENTS, env_spec, setting_groups
from eef.methods.registry import METHODS, method_class
from eef.pipeline.recipe import Recipe


def settings() -> None:
    """List every setting with its default.

    Lists the settings of a recipe, the options of each method (`options.<method>`) and the settings
    of each environment (`env`). Write them into a recipe, or override one with `--set`.

    Example: `eef settings`
    """
    for title, rows in recipe_sections():
        _print_table(title, rows)
    for name in ENVIRONMENTS:
        print_out(f"\nenvironment {name}\n{describe_env(name)}")
        for title, rows in env_sections(name):
            _print_table(title, rows)


def recipe_sections() -> Iterator[tuple[str, list[SettingRow]]]:
    """The settings of a recipe and the options of every method, as (title, rows)."""
    yield "recipe", settings_table(Recipe)
    for name in METHODS:
        yield f"method {name}", settings_table(method_class(name).Options, f"options.{name}.")


def env_sections(name: str) -> Iterator[tuple[str, list[SettingRow]]]:
    """The groups of settings inside an environment's own."""
    for key, group in setting_groups(name).items():
        yield f"environment {name}: {key}", settings_table(group, f"env.{key}.")


def describe_env(name: str) -> str:
    """An environment's own settings with their defaults, and its docstring."""
    kind: Any = env_spec(name).make
    parameters = inspect.signature(kind).parameters.values()
    defaults = [f"env.{parameter.name} = {parameter.default!r}" for parameter in parameters]
    return "\n".join([*defaults, "", inspect.getdoc(kind) or ""])


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
