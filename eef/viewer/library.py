"""Library: the runs and comparisons that are shown, opened from directories."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from eef.errors import StoreError
from eef.pipeline.run_directory import RECIPE_FILE, is_run, runs_of
from eef.viewer.open_run import OpenRun
from eef.viewer.views.study import OpenStudy


@dataclass(frozen=True, slots=True)
class Library:
    """The runs and studies that are shown, in the order in which they were named."""

    runs: tuple[OpenRun, ...]
    studies: tuple[OpenStudy, ...] = ()

    def close(self) -> None:
        for run in self.runs:
            run.close()


def open_library(directories: Sequence[Path]) -> Library:
    """The runs and comparisons in some directories. A comparison comes with the runs of its seeds.

    StoreError, with what the directory lacks, if one is neither.
    """
    studies = {path: _seeds(path) for path in directories if not is_run(path)}
    paths: list[Path] = []
    for path in directories:
        paths += studies[path].values() if path in studies else [path]
    slugs = {path: slug for slug, path in name_runs(paths).items()}
    names = name_runs(studies)
    opened = []
    for slug, path in names.items():
        seeds = {seed: slugs[run] for seed, run in studies[path].items()}
        opened.append(
            OpenStudy.open(f"{slug}-study" if slug in slugs.values() else slug, path, seeds)
        )
    return Library(tuple(OpenRun.open(slugs[path], path) for path in paths), tuple(opened))


def _seeds(path: Path) -> dict[int, Path]:
    """The runs of a comparison by seed; empty if it holds trial files only."""
    if not path.is_dir():
        raise StoreError(
            f"no such directory `{path}`", hint="name a run, or a directory of `eef compare`"
        )
    found = runs_of(path)
    if not found and not any(path.rglob("*@*.json")):
        raise StoreError(
            f"`{path}` is neither a run nor a comparison: it has no `{RECIPE_FILE}` and no `seed0`",
            hint="`eef run RECIPE --out DIR` creates a run",
        )
    return found


def name_runs(paths: Iterable[Path]) -> dict[str, Path]:
    """A short name for each directory, which is part of the addresses of its pages.

    >>> list(name_runs([Path("runs/demo"), Path("old/demo"), Path("demo-seeds/seed0")]))
    ['demo', 'demo-2', 'demo-seeds-seed0']
    """
    named: dict[str, Path] = {}
    for path in paths:
        full = path.resolve()
        words = full.name
        if re.fullmatch(r"seed\d+", words):
            words = f"{full.parent.name}-{words}"
        base = re.sub(r"[^A-Za-z0-9_.-]+", "-", words).strip(".-") or "run"
        base = f"{base}-run" if base in ("assets", "index") else base
        name, count = base, 1
        while name in named:
            count += 1
            name = f"{base}-{count}"
        named[name] = path
    return named
