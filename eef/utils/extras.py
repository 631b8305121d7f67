"""Optional dependencies: one message and one hint for whatever is not installed."""

from __future__ import annotations

from importlib.util import find_spec

from eef.errors import ConfigError

EXTRAS = {
    "torch": "train",
    "transformers": "train",
    "peft": "train",
    "safetensors": "train",
    "tokenizers": "train",
    "openai": "api",
    "starlette": "serve",
    "uvicorn": "serve",
    "gymnasium": "gym",
    "pyarrow": "tables",
    "scienceworld": "scienceworld",
    "textworld_express": "textworld",
}
"""The extra that installs a package."""


def install_command(package: str) -> str:
    """The command that installs an optional package.

    >>> install_command("torch")
    "pip install 'eef[train]'"
    """
    return f"pip install 'eef[{EXTRAS[package]}]'"


def missing_package(package: str, purpose: str) -> ConfigError:
    """The error for a package that is needed and not installed."""
    name = package.replace("_", "-")
    return ConfigError(
        f"{purpose} needs the package `{name}`", hint=f"install it: `{install_command(package)}`"
    )


def require_package(package: str, purpose: str) -> None:
    """Raise ConfigError if an optional package is not installed; imports nothing."""
    if find_spec(package) is None:
        raise missing_package(package, purpose)
