"""The manifest of a checkpoint. It is written last: a directory that has one is complete."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eef.errors import DataError
from eef.models.location import locate
from eef.utils.jsonl import read_object

MANIFEST_FILE = "manifest.json"
REMOVED_FILE = "removed.json"
"""The only file of a checkpoint that was not kept."""


def is_complete(directory: Path) -> bool:
    """Whether a checkpoint was written completely."""
    return (directory / MANIFEST_FILE).is_file()


def was_removed(directory: Path) -> bool:
    """Whether the files of a checkpoint were removed, or are being removed."""
    return (directory / REMOVED_FILE).is_file()


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a checkpoint. DataError if the directory holds no complete one."""
    if was_removed(directory):
        raise DataError(
            f'`{directory}` was not kept: `train.keep_checkpoints` is "evaluated"',
            hint="choose the checkpoint of an evaluated round, or of the latest one",
        )
    if not is_complete(directory):
        raise DataError(
            f"`{directory}` holds no complete checkpoint: it has no `{MANIFEST_FILE}`",
            hint="choose a checkpoint of a finished stage `train`; `eef show DIR` lists them",
        )
    return read_object(directory / MANIFEST_FILE)


def weight_files(directory: Path) -> list[Path]:
    """The files of a checkpoint's weights. DataError as in `read_manifest`."""
    return [directory / name for name in read_manifest(directory).get("sha256", ())]


def verify_checkpoint(directory: Path) -> None:
    """Compare the checksums of all weights with the manifest. DataError for a mismatch."""
    for name, expected in read_manifest(directory)["sha256"].items():
        path = directory / name
        if not path.is_file() or sha256(path) != expected:
            raise DataError(
                f"`{path}` is missing or was changed after it was written",
                hint="train this checkpoint again",
            )


def training_tasks(name: str) -> Sequence[str]:
    """The tasks that a model was built from, by its manifest; empty if it has none.

    `name` is that in a recipe. ModelError as in `eef.models.location.locate`.
    """
    directory = Path(locate(name))
    return read_manifest(directory).get("training_tasks", ()) if is_complete(directory) else ()


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
