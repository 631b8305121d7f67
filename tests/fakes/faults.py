"""Sizes of the fault campaign, and what of a run directory must not depend on faults."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eef.pipeline.ledger import LEDGER_FILE
from eef.pipeline.status import STATUS_FILE
from eef.utils.jsonl import read_jsonl

TIMES = {"seconds", "minutes"}
PASSING = {".lock", ".lease", ".torn", ".tmp", ".html"}
"""Suffixes of files that depend on the process, on interruptions, or on times."""


def sizes(few: int, many: int, name: str) -> Any:
    """Parametrize a test by a size: `few` in every run, and `many` in the campaign.

    The environment variable EEF_FAULTS_<name> replaces `many`.
    """
    campaign = int(os.environ.get(f"EEF_FAULTS_{name.upper()}", many))
    return pytest.mark.parametrize(name, [few, pytest.param(campaign, marks=pytest.mark.faults)])


def contents(directory: Path) -> dict[str, Any]:
    """The values of all files of a run without times, by path; the order of rollouts is ignored."""
    return dict(_contents(directory))


def _contents(directory: Path) -> Iterator[tuple[str, Any]]:
    for path in sorted(directory.rglob("*")):
        if not path.is_file() or path.suffix in PASSING:
            continue
        if path.name == STATUS_FILE:
            continue  # of the process that wrote it
        name = str(path.relative_to(directory))
        if path.name == LEDGER_FILE:  # a later entry of a stage replaces an earlier one
            entries = [timeless(record) for record in read_jsonl(path)]
            yield name, {(entry["round"], entry["stage"]): entry for entry in entries}
        elif path.name == "trajectories.jsonl":
            yield name, {record["id"]: timeless(record) for record in read_jsonl(path)}
        elif path.suffix == ".jsonl":
            yield name, [timeless(record) for record in read_jsonl(path)]
        elif path.suffix == ".json":
            yield name, timeless(json.loads(path.read_text()))
        else:
            yield name, path.read_bytes()


def timeless(value: Any) -> Any:
    """A JSON value without times."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in TIMES}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def differences(directory: Path, other: Path) -> list[str]:
    """The files that are in one of two runs only, or hold other values."""
    one, two = contents(directory), contents(other)
    return sorted(name for name in {*one, *two} if one.get(name) != two.get(name))


def state_of(directory: Path) -> tuple[int, int]:
    """The number of files and of their bytes, but for the status, whose times differ in length."""
    files, size = 0, 0
    for folder, _, names in os.walk(directory):
        for name in names:
            if name.startswith(STATUS_FILE):
                continue
            files += 1
            try:
                size += os.stat(f"{folder}/{name}").st_size
            except FileNotFoundError:
                continue
    return files, size
