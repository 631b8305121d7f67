"""JSON and JSONL files: written atomically; errors of reading name the file and the line.

Stores, ledgers, manifests and results are all written and read here.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import IO, Any, Generic, TypeVar

from eef.errors import DataError, StoreError
from eef.utils.records import Json

WHEN_FULL = "free some space and run the same command again: nothing stored is lost"
"""Hint if the disk is full."""

Item = TypeVar("Item")

_TAIL = 1024  # bytes at the end of what was read by which a replaced file is recognized


def write_json(path: Path, value: Any, *, indent: int | None = 2, durable: bool = True) -> None:
    """Write a JSON file atomically; on one line if `indent` is None. StoreError if it fails.

    Unless it is `durable`, this does not wait for the disk.
    """
    text = json.dumps(value, indent=indent, allow_nan=False) + "\n"
    _write_atomically(path, [text], durable=durable)


def write_jsonl(path: Path, records: Iterable[Json]) -> None:
    """Write a JSONL file atomically, one record per line. StoreError if it fails."""
    _write_atomically(path, (json.dumps(record, allow_nan=False) + "\n" for record in records))


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically. StoreError if it fails."""
    _write_atomically(path, [text])


def _write_atomically(path: Path, parts: Iterable[str], *, durable: bool = True) -> None:
    target = Path(os.path.realpath(path))  # a symbolic link stays one
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise StoreError(
            f"cannot write `{path}`: it is not a regular file", hint="name a file to be written"
        )
    # a name of its own: two processes may start one run at the same moment
    temporary = target.with_name(f"{target.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    with disk_errors(path):
        try:
            with temporary.open("w", encoding="utf-8") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def read_json(path: Path) -> Any:
    """The value of a JSON file. DataError if it is missing or malformed."""
    with _read_errors(path):
        data = path.read_bytes()
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"`{path}` is not JSON: {error}") from error


def read_object(path: Path) -> Json:
    """The JSON object of a file. DataError if it is missing, malformed or another value."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise DataError(f"`{path}` holds a JSON {type(value).__name__}; expected an object")
    return value


def append_jsonl(path: Path, record: Json) -> None:
    """Append one line and wait for the disk. StoreError if it fails; the file is then unchanged."""
    with disk_errors(path), FileIO(path, "a") as file:
        append_line(file, path, record)


def read_jsonl(path: Path, *, torn_ok: bool = False) -> list[Json]:
    """The records of a file, one JSON object per line. Blank lines are skipped.

    With `torn_ok`, a torn last line is skipped too. DataError, with file and line, if a line is not
    a JSON object.
    """
    return [record for _, record in numbered_records(path, torn_ok=torn_ok)]


def repair_tail(path: Path) -> int:
    """Make a JSONL file end in a complete line; returns how many torn lines were removed (0 or 1).

    A torn last line is moved to `<path>.torn`. A complete one that lacks its newline is given it.
    """
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if file.read(1) in (b"", b"\n"):
            return 0
        file.seek(0)
        for last in file:  # noqa: B007 – only the last line is needed
            pass
        if isinstance(_parse(last), dict):
            file.write(b"\n")
            return 0
        with path.with_name(path.name + ".torn").open("ab") as torn:
            torn.write(last + b"\n")
            os.fsync(torn.fileno())
        file.truncate(file.seek(0, os.SEEK_END) - len(last))
        return 1


def numbered_records(path: Path, *, torn_ok: bool) -> Iterator[tuple[int, Json]]:
    """The records of `read_jsonl` with their line numbers, which start at 1."""
    with _read_errors(path), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            record = _parse(line)
            if isinstance(record, dict):
                yield number, record
            elif not (torn_ok and not line.endswith(b"\n")):
                raise _malformed(path, number, str(record))


class GrowingJsonl(Generic[Item]):
    """The records of a JSONL file that grows, each parsed once.

    A file that was replaced or cut is read from its start. A torn last line is skipped until it is
    complete.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "rows.jsonl"
    >>> rows = GrowingJsonl(path, lambda record: record["a"])
    >>> append_jsonl(path, {"a": 1}), rows.read()
    (None, [(1, 1)])
    >>> append_jsonl(path, {"a": 2}), rows.read()
    (None, [(1, 1), (2, 2)])
    """

    def __init__(self, path: Path, parse: Callable[[Json], Item]) -> None:
        self.path, self._parse = path, parse
        self._lock = threading.Lock()
        self._forget((0, 0))

    def _forget(self, file: tuple[int, int]) -> None:
        self._file, self._end, self._tail = file, 0, b""
        self._lines, self._items = 0, list[tuple[int, Item]]()

    def read(self) -> list[tuple[int, Item]]:
        """All records with their line numbers, which start at 1; none if there is no file.

        DataError, with file and line, for a line that is not a JSON object or that `parse` refuses
        with a StoreError.
        """
        with self._lock, _read_errors(self.path):
            try:
                stream = self.path.open("rb")
            except FileNotFoundError:
                return []
            with stream:
                status = os.fstat(stream.fileno())
                file = status.st_dev, status.st_ino
                stream.seek(self._end - len(self._tail))
                if file != self._file or stream.read(len(self._tail)) != self._tail:
                    self._forget(file)
                    stream.seek(0)
                last = self._rest(stream)
                return [*self._items, *last]

    def _rest(self, stream: IO[bytes]) -> list[tuple[int, Item]]:
        """Read what was appended; returns a last record without its newline, which may grow."""
        for line in stream:
            found = []
            if line.strip():
                record = _parse(line)
                if isinstance(record, dict):
                    found.append((self._lines + 1, self._item(record)))
                elif line.endswith(b"\n"):
                    raise _malformed(self.path, self._lines + 1, record)
            if not line.endswith(b"\n"):
                return found
            self._items += found
            self._lines += 1
            self._end, self._tail = self._end + len(line), line[-_TAIL:]
        return []

    def _item(self, record: Json) -> Item:
        try:
            return self._parse(record)
        except StoreError as error:
            raise error_at_line(self.path, self._lines + 1, error) from error


def error_at_line(path: Path, number: int, error: StoreError) -> DataError:
    """The error of a record as one of its line."""
    return DataError(f"`{path}`, line {number}: {error.message}", hint=error.hint)


def _malformed(path: Path, number: int, problem: str) -> DataError:
    return DataError(f"`{path}`, line {number}: {problem}", hint="write one JSON object per line")


def _parse(line: bytes) -> Json | str:
    """The JSON object of a line, or a description of what is wrong with it."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"not JSON ({error})"
    return (
        value if isinstance(value, dict) else f"a JSON {type(value).__name__}; expected an object"
    )


def append_line(file: FileIO, path: Path, record: Json) -> None:
    """Append a line to an unbuffered file (`path` is its name) and wait for the disk.

    After an error or interruption, the file ends where it ended before.
    """
    end = file.seek(0, os.SEEK_END)
    rest = memoryview(_line(record))
    with disk_errors(path):
        try:
            while rest:
                rest = rest[file.write(rest) or 0 :]
            os.fsync(file.fileno())
        except BaseException:
            file.truncate(end)
            raise


def _line(record: Json) -> bytes:
    try:
        return json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"
    except UnicodeEncodeError:  # a lone surrogate can only be escaped
        return json.dumps(record, allow_nan=False).encode() + b"\n"


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError while writing `path` into a StoreError."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        hint = WHEN_FULL if full else ""
        raise StoreError(f"cannot write `{path}`: {error.strerror or error}", hint=hint) from error


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"no such file `{path}`") from None
    except OSError as error:
        raise DataError(f"cannot read `{path}`: {error.strerror or error}") from error
