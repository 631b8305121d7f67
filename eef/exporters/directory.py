"""The directory of an export: its files appear together, and replace only those of exports.

`.eef-export` in it lists the files of each export by its name, such as `trl`. Another export of
that name removes those that it does not write again. Every other file is kept, and an export that
would have to overwrite one is refused.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from eef.errors import DataError, StoreError
from eef.utils.jsonl import disk_errors, read_object, write_json
from eef.utils.locks import flock

RECORD_FILE = ".eef-export"
_LOCK_FILE = ".eef-export.lock"
_UNFINISHED = ".eef-export-"
_WAY_OUT = "choose another directory (`--out`), or remove it"


def write_export(directory: Path, name: str, write: Callable[[Path], None]) -> list[Path]:
    """Write an export with `write`, a function of an empty directory; returns its paths, sorted.

    StoreError if the disk cannot be written, or if a file would be overwritten that no export
    wrote. Nothing in `directory` has changed after such a refusal, or if `write` fails.
    """
    with disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        with _alone_in(directory):
            for left in directory.glob(f"{_UNFINISHED}*/"):  # by an export that was killed
                shutil.rmtree(left, ignore_errors=True)
            with TemporaryDirectory(prefix=_UNFINISHED, dir=directory) as unfinished:
                write(Path(unfinished))
                return _replace(directory, name, Path(unfinished))


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Context in which no other process exports to a directory."""
    with (directory / _LOCK_FILE).open("w", encoding="utf-8") as file:
        flock(file)
        yield


def _replace(directory: Path, name: str, unfinished: Path) -> list[Path]:
    """Move files to `directory`, in place of those of earlier exports."""
    recorded = _recorded(directory)
    new = {
        path.relative_to(unfinished).as_posix() for path in unfinished.rglob("*") if path.is_file()
    }
    owned = set[str]().union(*recorded.values())
    others = set[str]().union(*(files for each, files in recorded.items() if each != name))
    obsolete = recorded.get(name, set()) - new - others
    for each in sorted(new):
        _check_free(directory, each, owned, obsolete)
    record = directory / RECORD_FILE
    # if this is stopped from here on, the next export replaces the files of both
    _write_record(record, {**recorded, name: recorded.get(name, set()) | new})
    for each in obsolete:
        with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            (directory / each).unlink()
        with suppress(OSError):  # a subdirectory that is empty now
            (directory / each).parent.rmdir()
    for each in sorted(new):
        (directory / each).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(unfinished / each, directory / each)
    _write_record(record, {**recorded, name: new})
    return [directory / each for each in sorted(new)]


def _check_free(directory: Path, name: str, owned: set[str], obsolete: set[str]) -> None:
    """StoreError if a file of this name would overwrite what no export wrote."""
    path = directory / name
    if os.path.lexists(path) and (name not in owned or (path.is_dir() and not path.is_symlink())):
        raise StoreError(
            f"cannot write `{path}`: it exists, and `{RECORD_FILE}` does not list it", hint=_WAY_OUT
        )
    for parent in PurePosixPath(name).parents:
        above = directory / parent
        if os.path.lexists(above) and not above.is_dir() and parent.as_posix() not in obsolete:
            raise StoreError(f"cannot write `{path}`: `{above}` is a file", hint=_WAY_OUT)


def _write_record(path: Path, exports: Mapping[str, set[str]]) -> None:
    write_json(path, {"exports": {name: sorted(files) for name, files in exports.items()}})


def _recorded(directory: Path) -> dict[str, set[str]]:
    """The files of each export. StoreError if the record does not list any."""
    path = directory / RECORD_FILE
    if not path.is_file():
        return {}
    try:
        exports = read_object(path).get("exports")
    except DataError as error:
        raise StoreError(error.message, hint=_WAY_OUT) from error
    if not isinstance(exports, dict) or not all(
        isinstance(files, list) and all(map(_is_below, files)) for files in exports.values()
    ):
        raise StoreError(f"`{path}` does not list the files of exports", hint=_WAY_OUT)
    return {name: set(files) for name, files in exports.items()}


def _is_below(name: object) -> bool:
    """Whether this is the relative path of a file, as `_replace` writes it."""
    if not isinstance(name, str) or not name.isprintable():
        return False
    path = PurePosixPath(name)
    return (
        name == path.as_posix()
        and bool(path.parts)
        and ".." not in path.parts
        and not path.is_absolute()
    )
