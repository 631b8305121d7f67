"""Columns: the shop's data as named arrays, in memory or in the files of a directory.

Writers (`catalog.py`, `postings.py`) append to columns, one product after another; readers
(`catalog.py`, `search.py`, `goals.py`) get arrays. Files are memory-mapped: all processes that open
a shop share one copy, and a page is loaded only when it is first accessed.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from eef.errors import DataError
from eef.utils.jsonl import disk_errors

# Column → dtype. The columns in TEMPORARY are needed only until all products have been read.
LAYOUT: Mapping[str, str] = {
    "records": "u1", "record_ends": "i8", "asins": "S10", "prices": "f8", "queries": "i4",
    "categories": "i4", "combinations": "i8", "labels": "u1", "human": "u1", "by_asin": "i4",
    "ranks": "i4", "goal_order": "i8",
    "terms": "u8", "offsets": "i8", "documents": "i4", "pair_numbers": "u2", "pairs": "i4",
    "vocabulary": "u8", "read_terms": "i4", "read_pairs": "u2", "distinct": "i4", "totals": "i4",
}  # fmt: skip
TEMPORARY = ("vocabulary", "read_terms", "read_pairs", "distinct")


class Columns(Protocol):
    """Named arrays that are either appended to or allocated and filled, and then read."""

    def append(self, name: str, values: Any) -> None:
        """Append entries (an array, a list, or bytes) to a column."""
        ...

    def allocate(self, name: str, length: int) -> np.ndarray:
        """A new column of `length` zeros, to be filled in place."""
        ...

    def read(self, name: str) -> np.ndarray:
        """All entries of a column; empty if it was never written. Callers must not modify it."""
        ...

    def drop(self, name: str) -> None:
        """Delete a column."""
        ...


class MemoryColumns:
    """Columns of a shop that is small enough to be built in each process."""

    def __init__(self) -> None:
        self._appended: dict[str, bytearray] = {}
        self._made: dict[str, np.ndarray] = {}

    def append(self, name: str, values: Any) -> None:
        self._appended.setdefault(name, bytearray()).extend(_bytes(name, values))

    def allocate(self, name: str, length: int) -> np.ndarray:
        self._made[name] = np.zeros(length, dtype=LAYOUT[name])
        return self._made[name]

    def read(self, name: str) -> np.ndarray:
        if name in self._made:
            return self._made[name]
        return np.frombuffer(self._appended.get(name, b""), dtype=LAYOUT[name])

    def drop(self, name: str) -> None:
        self._appended.pop(name, None)
        self._made.pop(name, None)


class FileColumns:
    """Columns in the files of a directory, one file per column.

    `sync` makes everything appended so far durable and returns the columns' sizes in bytes;
    `truncate` returns to such sizes, whatever has been written since. DataError if a file cannot be
    read, StoreError if the disk is full.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._open: dict[str, Any] = {}

    def append(self, name: str, values: Any) -> None:
        with disk_errors(self._path(name)):
            if name not in self._open:
                self._open[name] = self._path(name).open("ab")
            self._open[name].write(_bytes(name, values))

    def allocate(self, name: str, length: int) -> np.ndarray:
        path, size = self._path(name), length * np.dtype(LAYOUT[name]).itemsize
        with disk_errors(path), path.open("w+b") as file:
            if size:
                os.posix_fallocate(file.fileno(), 0, size)
                return np.frombuffer(mmap.mmap(file.fileno(), size), dtype=LAYOUT[name])
        return np.empty(0, dtype=LAYOUT[name])

    def read(self, name: str) -> np.ndarray:
        self._flush(name)
        path = self._path(name)
        try:
            with path.open("rb") as file:
                if not os.fstat(file.fileno()).st_size:
                    return np.empty(0, dtype=LAYOUT[name])
                return np.frombuffer(
                    mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), dtype=LAYOUT[name]
                )
        except FileNotFoundError:
            return np.empty(0, dtype=LAYOUT[name])
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read `{path}`: {error}") from error

    def drop(self, name: str) -> None:
        if name in self._open:
            self._open.pop(name).close()
        self._path(name).unlink(missing_ok=True)

    def sync(self) -> dict[str, int]:
        """Flush to disk; return the sizes in bytes of all existing columns."""
        for name, file in self._open.items():
            with disk_errors(self._path(name)):
                file.flush()
                os.fsync(file.fileno())
        return {
            name: self._path(name).stat().st_size for name in LAYOUT if self._path(name).exists()
        }

    def truncate(self, sizes: Mapping[str, int]) -> None:
        """Truncate the columns to these sizes, delete all others. DataError if one is shorter."""
        for name in LAYOUT:
            path = self._path(name)
            if name not in sizes:
                path.unlink(missing_ok=True)
            elif not path.exists() or path.stat().st_size < sizes[name]:
                raise DataError(f"`{path}` is shorter than recorded")
            else:
                os.truncate(path, sizes[name])

    def close(self) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()

    def _flush(self, name: str) -> None:
        if name in self._open:
            with disk_errors(self._path(name)):
                self._open[name].flush()

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.{LAYOUT[name]}"


def _bytes(name: str, values: Any) -> Any:
    return values if isinstance(values, bytes) else np.asarray(values, dtype=LAYOUT[name]).tobytes()
