"""Rows: the records of a data file one at a time, each with the place it stands in; first step of an import.

JSON Lines, a JSON array of any length on however few lines, a single JSON object, an inspect log (`.eval`). Memory is
that of one row. What cannot be read is a `Rejection`, not an exception: the rows behind it are read on.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import ijson

from eef.errors import DataError

_ZIP, _BOM = b"PK\x03\x04", b"\xef\xbb\xbf"
_WHOLE = 1 << 28  # bytes: a file which is one object is read at once up to this size
_NOT_COMPRESSED_AS_WE_READ = (
    "compressed in a way this Python cannot read (zstd?): `pip install 'eef[inspect]'`"
)


@dataclass(frozen=True, slots=True)
class Row:
    """A record of a file. `place` is `path:line`, `path:row N` in an array, `path:member` in an archive."""

    place: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row that is not taken, and why."""

    place: str
    reason: str


def read_rows(path: Path) -> Iterator[Row | Rejection]:
    """The rows of a file in order. DataError where it cannot be opened or is empty."""
    try:
        with path.open("rb") as file:
            start = _sniff(file)
            if not start:
                raise DataError(
                    f"`{path}` is empty",
                    hint="each line, or each item of an array, is one trajectory",
                )
            if start.startswith(_ZIP):
                yield from _archive(path)
            elif start.startswith(b"["):
                yield from _array(path, file)
            else:
                yield from _lines(path, file)
    except OSError as error:
        raise DataError(f"cannot read `{path}`: {error.strerror or error}") from error


def _sniff(file: BufferedReader) -> bytes:
    """The first bytes that say something; the file stands behind a byte order mark, else at its start."""
    head = file.peek(4096)
    file.seek(len(_BOM) if head.startswith(_BOM) else 0)
    return head.removeprefix(_BOM).lstrip()[:4]


def _array(path: Path, file: BufferedReader) -> Iterator[Row | Rejection]:
    number = 0
    try:
        for number, item in enumerate(ijson.items(file, "item", use_float=True), start=1):
            yield _checked(f"{path}:row {number}", item)
    except (ijson.JSONError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        yield Rejection(
            f"{path}:row {number + 1}", f"not JSON, and all behind it cannot be read: {reason}"
        )


def _lines(path: Path, file: BufferedReader) -> Iterator[Row | Rejection]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        item = _parse(line)
        if number == 1 and isinstance(item, Rejection) and line.strip() in (b"{", b"{}"):
            yield from _object(path, file)
            return
        place = f"{path}:{number}"
        yield (
            Rejection(place, item.reason) if isinstance(item, Rejection) else _checked(place, item)
        )


def _object(path: Path, file: BufferedReader) -> Iterator[Row | Rejection]:
    """A file that is one object over many lines: a row, or the samples of an inspect log."""
    if path.stat().st_size > _WHOLE:
        yield Rejection(
            f"{path}:1", f"one JSON object of {path.stat().st_size} bytes: write an object a line"
        )
        return
    item = _parse(path.read_bytes().removeprefix(_BOM))
    if isinstance(item, Rejection):
        yield Rejection(f"{path}:1", item.reason)
    elif isinstance(item, dict) and isinstance(item.get("samples"), list):
        for number, sample in enumerate(item["samples"], start=1):
            yield _checked(f"{path}:sample {number}", sample)
    else:
        yield _checked(f"{path}:1", item)


def _archive(path: Path) -> Iterator[Row | Rejection]:
    """The samples of an inspect log, which is a zip archive of JSON files, as a rule compressed by zstd."""
    with suppress(
        ImportError
    ):  # where it is there, zipfile reads zstd too, as it does by itself from Python 3.14 on
        import zipfile_zstd  # noqa: F401
    try:
        with zipfile.ZipFile(path) as archive:
            members = [
                name
                for name in archive.namelist()
                if name.startswith("samples/") and name.endswith(".json")
            ]
            if not members:
                yield Rejection(
                    str(path),
                    "an archive without `samples/*.json`: it is no inspect log with samples",
                )
            for name in sorted(members):
                yield _member(archive, path, name)
    except zipfile.BadZipFile as error:
        yield Rejection(str(path), f"a broken archive: {error}")


def _member(archive: zipfile.ZipFile, path: Path, name: str) -> Row | Rejection:
    place = f"{path}:{name}"
    try:
        item = _parse(archive.read(name))
    except (zipfile.BadZipFile, OSError) as error:
        return Rejection(place, f"cannot be read: {error}")
    except NotImplementedError:
        return Rejection(place, _NOT_COMPRESSED_AS_WE_READ)
    return Rejection(place, item.reason) if isinstance(item, Rejection) else _checked(place, item)


def _parse(data: bytes) -> Any:
    """The value of some JSON, or a Rejection without a place that says what is wrong with it."""
    try:
        return json.loads(data.decode())
    except UnicodeDecodeError as error:
        return Rejection("", f"not UTF-8: byte {data[error.start]:#04x} at position {error.start}")
    except ValueError as error:
        return Rejection("", f"not JSON: {error}")
    except RecursionError:
        return Rejection("", "not JSON we read: nested too deep")


def _checked(place: str, item: Any) -> Row | Rejection:
    if isinstance(item, dict):
        return Row(place, item)
    return Rejection(place, f"a {type(item).__name__} where an object was expected")
