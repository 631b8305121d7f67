"""Optional dependencies: which extra installs a package, and the error if it is missing."""

from __future__ import annotations

from importlib.util import find_spec

from eef.errors import ConfigError

EXTRAS = {
    "torch": "train",
    "transformers": "train",
    "huggingface_hub": "train",
    "peft": "train",
    "safetensors": "train",
    "tokenizers": "train",
    "openai": "api",
    "aiohttp": "engines",
    "zipfile_zstd": "inspect",
    "starlette": "serve",
    "uvicorn": "serve",
    "jinja2": "view",
    "markupsafe": "view",
    "gymnasium": "gym",
    "openenv": "openenv",
    "alfworld": "alfworld",
    "pyarrow": "tables",
    "accelerate": "track",
    "tensorboard": "track",
    "ray": "ray",
    "spacy": "spacy",
    "scienceworld": "scienceworld",
    "textworld_express": "textworld",
}
"""The extra that installs a package."""


def install_command(package: str, extra: str = "") -> str:
    """The command that installs an optional package, by its own extra unless another is named.

    >>> install_command("torch")
    "pip install 'eef[train]'"
    """
    return f"pip install 'eef[{extra or EXTRAS[package]}]'"


def missing_package(package: str, purpose: str, *, extra: str = "") -> ConfigError:
    """The error for a missing package; `purpose` is what needs it, as the subject of a sentence.

    `extra` is the extra to install, for a purpose that needs more than the package's own.
    """
    name = package.replace("_", "-")
    return ConfigError(
        f"{purpose} needs the package `{name}`",
        hint=f"install it: `{install_command(package, extra)}`",
    )


def require_package(package: str, purpose: str, *, extra: str = "") -> None:
    """Raise ConfigError if an optional package is not installed. Imports nothing."""
    if find_spec(package) is None:
        raise missing_package(package, purpose, extra=extra)
