"""JSON and JSONL files: written atomically; errors of reading name the file and the line.

Stores, ledgers, manifests and results are all written and read here.
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

from eef.errors import DataError, StoreError
from eef.utils.records import Json

WHEN_FULL = "free some space and run the same command again: nothing stored is lost"
"""Hint if the disk is full."""


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
    # a name of its own: two processes may start one run at the same moment
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    with disk_errors(path):
        try:
            with temporary.open("w", encoding="utf-8") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            os.replace(temporary, path)
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
        last = b""
        for last in file:  # noqa: B007 – only the last line is needed
            pass
        if not last or last.endswith(b"\n"):
            return 0
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
                raise DataError(
                    f"`{path}`, line {number}: {record}", hint="write one JSON object per line"
                )


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
