"""Rows: the records of a data file, one at a time, each with its place in the file.

Reads JSON Lines, JSON objects of several lines, a JSON array (on one line or many), inspect logs
(`.eval`, or JSON) and parquet; all but parquet and `.eval` also compressed (gzip, bzip2, xz). Only
one row is held in memory. A row that cannot be read becomes a `Rejection`, and reading continues
with the next. Every way of writing JSON is read by the same parser, so NaN, Infinity and integers
of any length up to Python's limit are accepted in all. A lone surrogate becomes U+FFFD.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from eef.errors import DataError
from eef.utils.extras import install_command, missing_package
from eef.utils.text import replace_surrogates

_ZIP, _PARQUET, _ZSTD, _BOM = b"PK\x03\x04", b"PAR1", b"\x28\xb5\x2f\xfd", b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_TABLES = (".csv", ".tsv")
DATA_SUFFIXES = (*_TABLES, ".json", ".jsonl", ".parquet", ".gz", ".bz2", ".xz", ".zst", ".zip")
"""Suffixes of data files, including those that are refused."""

_COMPRESSED: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}
_LARGEST_OBJECT = 1 << 28  # bytes of an object on several lines, which is read as a whole
_CHUNK = 1 << 18  # bytes of an array that are read at once
_UNKNOWN_COMPRESSION = (
    f"compressed in a way this Python cannot read (zstd?): `{install_command('zipfile_zstd')}`"
)
_TURNS = {"messages", "conversations", "steps"}  # keys of a row; an inspect log has none of them
_IN_STRING, _OUTSIDE = re.compile(rb'["\\]'), re.compile(rb'[\[\]{}",]')


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
    """The rows of a file, in order.

    DataError if it cannot be opened, is empty, a CSV file or UTF-16, or is compressed with zstd.
    ConfigError for a parquet file without pyarrow.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(8)
        opener = next(
            (each for start, each in _COMPRESSED.items() if magic.startswith(start)), open
        )
        if magic.startswith(_ZIP):
            yield from _archive(path)
        elif magic.startswith(_PARQUET):
            yield from _table(path)
        elif magic.startswith(_UTF_16):
            raise DataError(
                f"`{path}` is UTF-16 text; expected UTF-8",
                hint="convert it: `iconv -f UTF-16 -t UTF-8 FILE`",
            )
        elif path.suffix.lower() in _TABLES:
            raise DataError(
                f"`{path}` is a table of text; expected JSON",
                hint="convert it to JSON Lines: one object with `messages` per line",
            )
        elif magic.startswith(_ZSTD):
            raise DataError(
                f"`{path}` is compressed with zstd", hint="decompress it: `unzstd FILE`"
            )
        else:
            with opener(path, "rb") as file:
                yield from _json(path, file)
    except FileNotFoundError:
        raise DataError(f"no such file `{path}`") from None
    except (EOFError, zlib.error, lzma.LZMAError) as error:
        yield Rejection(
            str(path), f"damaged compression, so that later rows cannot be read: {error}"
        )
    except gzip.BadGzipFile as error:
        yield Rejection(
            str(path), f"damaged compression, so that later rows cannot be read: {error}"
        )
    except OSError as error:
        raise DataError(f"cannot read `{path}`: {error.strerror or error}") from error


def _json(path: Path, file: IO[bytes]) -> Iterator[Row | Rejection]:
    if file.read(len(_BOM)) != _BOM:
        file.seek(0)
    blank_lines, start = 0, file.tell()
    while (line := file.readline(_CHUNK)) and not line.strip():
        blank_lines += line.endswith(b"\n")
        start = file.tell()
    if not line:
        raise DataError(
            f"`{path}` is empty", hint="write one trajectory per line, or per item of an array"
        )
    file.seek(start)
    if line.lstrip().startswith(b"["):
        yield from _array(path, file)
    else:
        yield from _lines(path, file, blank_lines)


def _array(path: Path, file: IO[bytes]) -> Iterator[Row | Rejection]:
    items = _items(file)
    number = 1
    while True:
        try:
            text = next(items)
        except StopIteration as end:
            if end.value:
                reason = f"not JSON, so that later rows cannot be read: {end.value}"
                yield Rejection(f"{path}:row {number}", reason)
            return
        yield from _rows(f"{path}:row {number}", text)
        number += 1


class _Scanner:
    """Tracks strings and brackets of a JSON text that is given in parts.

    `depth` is the number of open brackets.
    """

    def __init__(self) -> None:
        self.depth = 0
        self.in_string = self._escaped = False

    def marks(self, part: bytes) -> Iterator[tuple[int, int]]:
        """(index, byte) of each bracket and comma outside strings, `depth` being that after it."""
        at = 0
        if self._escaped and part:
            self._escaped, at = False, 1
        while found := (_IN_STRING if self.in_string else _OUTSIDE).search(part, at):
            index, at = found.start(), found.end()
            mark = part[index]
            if mark == ord("\\"):
                self._escaped = at == len(part)
                at += 1
            elif mark == ord('"'):
                self.in_string = not self.in_string
            else:
                self.depth += {ord("["): 1, ord("{"): 1, ord(","): 0}.get(mark, -1)
                yield index, mark


def _items(file: IO[bytes]) -> Generator[bytes, None, str]:
    """The JSON texts of an array's items; returns what is wrong with the rest, or an empty text."""
    scanner, pending = _Scanner(), list[bytes]()
    first = True
    while part := file.read(_CHUNK):
        begin = 0
        for index, mark in scanner.marks(part):
            if first:  # the bracket that opens the array
                first, begin = False, index + 1
            elif scanner.depth == 0 or (scanner.depth == 1 and mark == ord(",")):
                item = b"".join([*pending, part[begin:index]]).strip()
                pending, begin = [], index + 1
                if item or scanner.depth == 1:
                    yield item
                if scanner.depth == 0:
                    rest = part[begin:].strip() or file.read(_CHUNK).strip()
                    return "text after the end of the array" if rest else ""
        pending.append(part[begin:])
    if scanner.depth == 1 and (item := b"".join(pending).strip()):
        yield item
    return "the array does not end"


def _lines(path: Path, file: IO[bytes], number: int) -> Iterator[Row | Rejection]:
    """JSON Lines after `number` blank ones; an object may extend over several lines."""
    several = True
    lines = iter(file)
    for line in lines:
        number += 1
        if not line.strip():
            continue
        place = f"{path}:{number}"
        if several and _continues(line):
            text, taken = _whole_object(line, lines)
            if text:
                yield from _rows(place, text)
                number += len(taken)
                continue
            if sum(map(len, taken)) > _LARGEST_OBJECT:
                reason = f"an object of more than {_LARGEST_OBJECT} bytes on several lines"
                yield Rejection(place, f"{reason}, so that later rows cannot be read")
                return
            several = bool(taken) and _is_object(taken[-1])
            for each in [line, *taken]:
                if each.startswith(b"{") or each is line:
                    yield from _rows(f"{path}:{number}", each)
                number += 1
            number -= 1
            continue
        yield from _rows(place, line)


def _continues(line: bytes) -> bool:
    """Whether a line starts an object that continues on the next line."""
    if not line.lstrip().startswith(b"{"):
        return False
    scanner = _Scanner()
    for _ in scanner.marks(line.rstrip()):
        pass
    return scanner.depth > 0 and not scanner.in_string


def _whole_object(line: bytes, lines: Iterator[bytes]) -> tuple[bytes, list[bytes]]:
    """The text of the object that starts with `line`, and its other lines.

    The text is empty if a line is an object by itself, if the object is too large, or at the end.
    """
    scanner, taken, size = _Scanner(), list[bytes](), len(line)
    for _ in scanner.marks(line):
        pass
    for each in lines:
        taken.append(each)
        size += len(each)
        if size > _LARGEST_OBJECT or (each.startswith(b"{") and _is_object(each)):
            break
        for _ in scanner.marks(each):
            pass
        if scanner.depth <= 0:
            return b"".join([line, *taken]), taken
    return b"", taken


def _is_object(line: bytes) -> bool:
    return isinstance(value := _parse(line), dict) and bool(value)


def _rows(place: str, text: bytes) -> Iterator[Row | Rejection]:
    """The row of a JSON text; the samples if it is an inspect log."""
    item = _parse(text)
    if isinstance(item, Rejection):
        yield Rejection(place, item.reason)
    elif isinstance(item, dict) and "samples" in item and not _TURNS & item.keys():
        samples = item["samples"] if isinstance(item["samples"], list) else []
        if not samples:
            yield Rejection(place, "an inspect log without samples")
        for number, sample in enumerate(samples, start=1):
            yield _checked(f"{place.rpartition(':')[0]}:sample {number}", sample)
    else:
        yield _checked(place, item)


def _table(path: Path) -> Iterator[Row | Rejection]:
    """The rows of a parquet file; a column that is null in a row is missing from it."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise missing_package("pyarrow", f"reading `{path}`") from error
    number = 0
    try:
        with parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=64):
                for row in batch.to_pylist():
                    number += 1
                    filled = {name: value for name, value in row.items() if value is not None}
                    yield Row(f"{path}:row {number}", _encodable(filled))
    except (pyarrow.ArrowException, ValueError, OSError) as error:
        reason = f"damaged parquet, so that later rows cannot be read: {error}"
        yield Rejection(f"{path}:row {number + 1}", reason)


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
    """The value of a JSON text without lone surrogates, or a Rejection without a place."""
    try:
        return _encodable(json.loads(data.decode()))
    except UnicodeDecodeError as error:
        return Rejection("", f"not UTF-8: byte {data[error.start]:#04x} at position {error.start}")
    except ValueError as error:
        return Rejection("", f"not JSON: {error}")
    except RecursionError:
        return Rejection("", "JSON is nested too deep")


def _encodable(value: Any) -> Any:
    """A JSON value with U+FFFD for each lone surrogate."""
    if isinstance(value, str):
        return replace_surrogates(value)
    if isinstance(value, list):
        return [_encodable(item) for item in value]
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    return value


def _checked(place: str, item: Any) -> Row | Rejection:
    if isinstance(item, dict):
        return Row(place, item)
    return Rejection(place, f"a JSON {type(item).__name__}; expected an object")
