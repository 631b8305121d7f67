"""The directory of an export: its files appear when all are written, and replace only an export's.

`.eef-export` in it names the files that an export wrote. The next export replaces or removes
these, keeps all others, and is refused if it would have to overwrite one of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from eef.errors import StoreError
from eef.utils.jsonl import disk_errors, read_object, write_json

RECORD_FILE = ".eef-export"


def write_export(directory: Path, write: Callable[[Path], None]) -> list[Path]:
    """Write an export with `write`, a function of an empty directory; returns its paths, sorted.

    StoreError if the disk cannot be written, or if a file would be overwritten that no export
    wrote; `directory` is then unchanged.
    """
    with disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".eef-export-", dir=directory) as unfinished:
            write(Path(unfinished))
            return _replace(directory, Path(unfinished))


def _replace(directory: Path, unfinished: Path) -> list[Path]:
    """Move files to `directory` in place of those of its earlier export."""
    earlier = _recorded(directory)
    new = {
        path.relative_to(unfinished).as_posix() for path in unfinished.rglob("*") if path.is_file()
    }
    for name in sorted(new - earlier):
        if os.path.lexists(directory / name):
            raise StoreError(
                f"cannot write `{directory / name}`: it exists, and no export wrote it",
                hint="choose another directory (`--out`), or remove the file",
            )
    record = directory / RECORD_FILE
    write_json(record, {"files": sorted(earlier | new)})  # also if it is stopped from here on
    for name in sorted(new):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(unfinished / name, directory / name)
    for name in earlier - new:
        (directory / name).unlink(missing_ok=True)
    write_json(record, {"files": sorted(new)})
    return [directory / name for name in sorted(new)]


def _recorded(directory: Path) -> set[str]:
    """The names of the files of the earlier export. StoreError if they are not names."""
    record = directory / RECORD_FILE
    if not record.is_file():
        return set()
    names = read_object(record).get("files")
    if not isinstance(names, list) or not all(map(_is_inside, names)):
        raise StoreError(
            f"`{record}` does not list the files of an export",
            hint="choose another directory (`--out`), or remove that file",
        )
    return set(names)


def _is_inside(name: object) -> bool:
    """Whether this is the name of a file in a directory or below it."""
    if not isinstance(name, str) or not name:
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts
