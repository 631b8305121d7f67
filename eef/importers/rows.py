"""Rows: the records of a data file, one at a time, each with its place in the file.

Reads JSON Lines, a JSON array (on one line or many), a single JSON object, and inspect logs
(`.eval`). Only one row is held in memory. A row that cannot be read becomes a `Rejection`, and
reading continues with the next.
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
from eef.utils.extras import install_command

_ZIP, _BOM = b"PK\x03\x04", b"\xef\xbb\xbf"
_LARGEST_OBJECT = 1 << 28  # bytes of a file that is one JSON object, which is read as a whole
_UNKNOWN_COMPRESSION = (
    f"compressed in a way this Python cannot read (zstd?): `{install_command('zipfile_zstd')}`"
)


@dataclass(frozen=True, slots=True)
class Row:
    """A record of a file.

    `place` is `path:line`; `path:row N` in an array, and `path:member` in an archive.
    """

    place: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row that is not imported, and the reason."""

    place: str
    reason: str


def read_rows(path: Path) -> Iterator[Row | Rejection]:
    """The rows of a file, in order. DataError if it cannot be opened or is empty."""
    try:
        with path.open("rb") as file:
            start = _sniff(file)
            if not start:
                raise DataError(
                    f"`{path}` is empty",
                    hint="write one trajectory per line, or per item of an array",
                )
            if start.startswith(_ZIP):
                yield from _archive(path)
            elif start.startswith(b"["):
                yield from _array(path, file)
            else:
                yield from _lines(path, file)
    except FileNotFoundError:
        raise DataError(f"no such file `{path}`") from None
    except OSError as error:
        raise DataError(f"cannot read `{path}`: {error.strerror or error}") from error


def _sniff(file: BufferedReader) -> bytes:
    """The first bytes that are not whitespace. The file is left after its byte order mark."""
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
            f"{path}:row {number + 1}", f"not JSON, so that later rows cannot be read: {reason}"
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
    """A file that is one object on many lines: a row, or an inspect log with its samples."""
    if path.stat().st_size > _LARGEST_OBJECT:
        yield Rejection(
            f"{path}:1",
            f"one JSON object of {path.stat().st_size} bytes; write one object per line",
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
    """The samples of an inspect log: a zip archive of JSON files, usually compressed with zstd."""
    with suppress(ImportError):  # it makes zipfile read zstd, as Python 3.14 does by itself
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
                    "an archive without `samples/*.json`; expected an inspect log with samples",
                )
            for name in sorted(members):
                yield _member(archive, path, name)
    except zipfile.BadZipFile as error:
        yield Rejection(str(path), f"damaged archive: {error}")


def _member(archive: zipfile.ZipFile, path: Path, name: str) -> Row | Rejection:
    place = f"{path}:{name}"
    try:
        item = _parse(archive.read(name))
    except (zipfile.BadZipFile, OSError) as error:
        return Rejection(place, f"cannot be read: {error}")
    except NotImplementedError:
        return Rejection(place, _UNKNOWN_COMPRESSION)
    return Rejection(place, item.reason) if isinstance(item, Rejection) else _checked(place, item)


def _parse(data: bytes) -> Any:
    """The value of a JSON text, or a Rejection without a place."""
    try:
        return json.loads(data.decode())
    except UnicodeDecodeError as error:
        return Rejection("", f"not UTF-8: byte {data[error.start]:#04x} at position {error.start}")
    except ValueError as error:
        return Rejection("", f"not JSON: {error}")
    except RecursionError:
        return Rejection("", "JSON is nested too deep")


def _checked(place: str, item: Any) -> Row | Rejection:
    if isinstance(item, dict):
        return Row(place, item)
    return Rejection(place, f"a JSON {type(item).__name__}; expected an object")
