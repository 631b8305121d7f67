"""Parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eef.utils.extras import missing_package
from eef.utils.jsonl import disk_errors
from eef.utils.records import Json


def write_table(path: Path, rows: Sequence[Json]) -> None:
    """Write a parquet file. ConfigError without pyarrow, StoreError if it cannot be written."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise missing_package("pyarrow", "a parquet file") from error
    unfinished = path.with_name(f"{path.name}.tmp")
    with disk_errors(path):
        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), unfinished)
        unfinished.replace(path)
