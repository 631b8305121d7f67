"""`eef new`: write a small package to start from."""

from __future__ import annotations

import keyword
import re
import sys
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Annotated

import typer

from eef.cli.console import print_err, print_out
from eef.envs.registry import ENVIRONMENTS
from eef.errors import ConfigError
from eef.utils.jsonl import disk_errors, write_text

_TEMPLATES = files("eef.cli") / "templates" / "environment"
_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")


def environment(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="Name of the environment, e.g. `help-desk`.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The new directory.  [default: NAME]", show_default=False),
    ] = None,
    tools: Annotated[
        bool, typer.Option("--tools", help="Make actions tool calls instead of text.")
    ] = False,
) -> None:
    """Write the package of a new environment.

    The package is outside `eef`: an environment with its settings, scripted experts, a recipe,
    tests that pass as they are, and a `pyproject.toml` that registers it as a plugin. Prints the
    directory.

    Example: `eef new environment help-desk --tools`
    """
    package = _package_of(name)
    directory = out or Path(name)
    if directory.exists():
        raise ConfigError(
            f"`{directory}` already exists", hint="choose another directory: `--out DIR`"
        )
    words = {
        "name": name,
        "dist": f"eef-{name.replace('_', '-')}",
        "package": package,
        "cls": "".join(part.capitalize() for part in re.split("[-_]", name)),
    }
    for path, template in {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        "recipe.toml": "recipe.toml",
        f"{package}/env.py": "env.py",
        f"{package}/expert.py": "expert.py",
        "tests/test_env.py": "test_env.py",
    }.items():
        kind = "tools_" if tools and template != "pyproject.toml" else ""
        text = (_TEMPLATES / f"{kind}{template}.txt").read_text(encoding="utf-8")
        _write(directory / path, Template(text).substitute(words))
    _write(directory / package / "__init__.py", f'"""The environment `{name}` for eef."""\n')
    print_err(f"next: cd {directory} && pip install -e '.[dev]' && pytest")
    print_out(str(directory))


def _package_of(name: str) -> str:
    """The Python package of an environment's name. ConfigError if it cannot be one."""
    package = name.replace("-", "_")
    if not _NAME.fullmatch(name) or keyword.iskeyword(package):
        raise ConfigError(
            f"{name!r} is not a valid name for an environment",
            hint="use lower-case letters, digits and single `-`, for example `help-desk`",
        )
    if name in ENVIRONMENTS or package == "eef":
        raise ConfigError(f"`eef` already has an environment {name!r}", hint="choose another name")
    installed = find_spec(package)
    if package in sys.stdlib_module_names or (installed and installed.origin):
        raise ConfigError(
            f"Python already has a package `{package}`, which this one would hide",
            hint="choose another name",
        )
    return package


def _write(path: Path, text: str) -> None:
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
