"""Checks that refuse a run which cannot be continued: changed recipe, changed environment, unusable inputs."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from eef import __version__
from eef.config import parse_settings
from eef.errors import StoreError
from eef.pipeline.recipe import Recipe
from eef.pipeline.stages import BC
from eef.utils.jsonl import read_json

LIBRARIES = ("torch", "transformers")
VERSIONS = ("eef", "python", *LIBRARIES)


def _joined(path: Path, recipe: Recipe) -> Recipe:
    """The recipe of a run with the methods of another, which must be equal in all else; `jobs` decides nothing."""
    begun = parse_settings(Recipe, read_json(path), source=str(path))
    shared = {*begun.methods, BC}  # behaviour cloning is in every run, named or not
    old, new = (
        {
            **each.model_dump(exclude={"jobs", "methods"}),
            "options": {name: options for name, options in each.options.items() if name in shared},
        }
        for each in (begun, recipe)
    )
    old["options"] = {
        name: options for name, options in old["options"].items() if name in {*recipe.methods, BC}
    }
    if old != new:
        keys = sorted(key for key in new if new[key] != old[key])
        raise StoreError(
            f"`{path.parent}` was begun with another recipe (it differs in: {', '.join(keys)})",
            hint="take another directory with `--out`, or remove this one",
        )
    settings = recipe.model_dump()
    settings["methods"] = tuple(dict.fromkeys((*begun.methods, *recipe.methods)))
    settings["options"] = {**begun.options, **recipe.options}
    return parse_settings(Recipe, settings, source=str(path))


def versions() -> dict[str, str]:
    """What a run is computed with: this package, Python and the libraries whose sums are a student's."""
    found = {"eef": __version__, "python": platform.python_version()}
    for library in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[library] = version(library)
    return found


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Keys in which two fingerprints differ, but for the versions: they are told, not compared, since no rule of an
    episode depends on them."""
    return sorted(key for key in {*one, *other} - {*VERSIONS} if one.get(key) != other.get(key))


def _refuse_other_place(path: Path, now: dict[str, Any]) -> None:
    """Rollouts of two environments do not mix: refuse one that has changed since the run was begun."""
    differing = differences(read_json(path), json.loads(json.dumps(now)))
    if differing:
        raise StoreError(
            f"`{path.parent}` was begun in another environment (it differs in: {', '.join(differing)})",
            hint="bring back its data, or begin a run in another directory",
        )
