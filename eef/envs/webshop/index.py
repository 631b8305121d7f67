"""On-disk index: official files → columns in a directory, built once and opened by many processes.

An interrupted build resumes and repeats only its last few seconds. Two processes never build the
same index at once. An index is complete or absent: the manifest is written last, and only then is
the directory renamed to its final name.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from eef.envs.webshop.catalog import CatalogWriter, read_products
from eef.envs.webshop.columns import LAYOUT, TEMPORARY, Columns, FileColumns
from eef.envs.webshop.goals import shuffled_goals
from eef.envs.webshop.official import OfficialFiles, Records
from eef.envs.webshop.postings import PostingsWriter
from eef.errors import DataError
from eef.utils.cache import cache_directory
from eef.utils.jsonl import disk_errors, write_json
from eef.utils.locks import flock
from eef.utils.progress import OnProgress, Progress, ignore_progress

LARGE_BYTES = 64 << 20
CHECKPOINT = 20_000
SIZE_RATIO = 0.8
MANIFEST_FILE, STATE_FILE = "index.json", "building.json"

AnyRecord = TypeVar("AnyRecord", bound="SourceRecord")

_log = logging.getLogger(__name__)


class Column(BaseModel):
    """Size and checksum of a column's file."""

    bytes: int
    sha256: str


class SourceRecord(BaseModel):
    """A record beside the columns; `source` identifies their files (path, size, mtime in ns)."""

    model_config = ConfigDict(frozen=True, strict=True)

    version: Literal[1] = 1
    source: list[tuple[str, int, int]]


class Manifest(SourceRecord):
    """The record of a complete index: the digest of its files, and every column."""

    digest: str
    columns: dict[str, Column]


class BuildState(SourceRecord):
    """The record of an unfinished build: bytes and members read, and the columns' sizes then."""

    offset: int = 0
    members: int = 0
    columns: dict[str, int] = {}


@dataclass(frozen=True, slots=True)
class Index:
    """A complete index: its columns, and the digest of the files it was built from."""

    directory: Path
    columns: FileColumns
    digest: str

    def verify(self, on_progress: OnProgress = ignore_progress) -> None:
        """Compare every file with its checksum. DataError names the first that differs."""
        known = _read_record(self.directory / MANIFEST_FILE, Manifest)
        for name, found in checksums(self.directory, on_progress).items():
            if known is None or found != known.columns.get(name):
                raise DataError(
                    f"`{self.directory}`: the checksum of column `{name}` does not match",
                    hint="rebuild it: `eef env prepare webshop --set data=DIR --rebuild`",
                )


def is_large(files: OfficialFiles) -> bool:
    """Whether a catalog is indexed on disk by default."""
    return files.items.stat().st_size >= LARGE_BYTES


def index_directory(files: OfficialFiles, where: Path | None = None) -> Path:
    """The directory of the files' index, inside `where` (by default the cache directory).

    It is named after the items file and a hash of its path.
    """
    path = files.items.resolve()
    name = f"{path.stem}-{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    return (where or cache_directory()) / "webshop" / name


def open_index(
    files: OfficialFiles,
    where: Path | None = None,
    *,
    rebuild: bool = False,
    on_progress: OnProgress | None = None,
) -> Index:
    """The index of the files; built first if it is missing, or outdated, or if `rebuild` is set.

    An index is outdated if the path, size or modification time of a file has changed. Progress is
    logged if `on_progress` is None. Raises DataError and StoreError.
    """
    directory = index_directory(files, where)
    if rebuild or not _is_current(directory, files):
        _build_exclusively(directory, files, on_progress or _logged(directory), rebuild)
    manifest = _read_record(directory / MANIFEST_FILE, Manifest)
    if manifest is None:
        raise DataError(
            f"`{directory}` changed while it was opened", hint="run the same command again"
        )
    return Index(directory, FileColumns(directory), manifest.digest)


def fill(
    columns: Columns,
    records: Records,
    source: str,
    *,
    first: int = 0,
    checkpoint: Callable[[], None] = lambda: None,
    on_progress: OnProgress = ignore_progress,
) -> None:
    """Write all columns of the records; `first` products have already been written.

    `checkpoint` is called after every product, and once more after the last. DataError if a record
    is malformed.
    """
    catalog, postings = CatalogWriter(columns), PostingsWriter(columns)
    for product in read_products(records, source, catalog.known, first=first):
        catalog.add(product)
        postings.add(product.search_text)
        checkpoint()
    checkpoint()
    catalog.finish(records.human, source)
    postings.finish(on_progress)
    combinations = columns.read("combinations")
    columns.append("goal_order", shuffled_goals(int(combinations[combinations > 0].sum())))


def checksums(directory: Path, on_progress: OnProgress = ignore_progress) -> dict[str, Column]:
    """Size and SHA-256 of every column in the directory."""
    paths = {name: directory / f"{name}.{kind}" for name, kind in LAYOUT.items()}
    paths = {name: path for name, path in paths.items() if path.exists()}
    sums: dict[str, Column] = {}
    done, total = 0, sum(path.stat().st_size for path in paths.values())
    for name, path in paths.items():
        with path.open("rb") as file:
            sums[name] = Column(
                bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest()
            )
        done += sums[name].bytes
        on_progress(Progress("computing checksums", done, total))
    return sums


def _is_current(directory: Path, files: OfficialFiles) -> bool:
    manifest = _read_record(directory / MANIFEST_FILE, Manifest)
    if manifest is None or manifest.source != _identity(files):
        return False
    return manifest.columns.keys() == LAYOUT.keys() - set(TEMPORARY) and all(
        (path := directory / f"{name}.{LAYOUT[name]}").exists()
        and path.stat().st_size == column.bytes
        for name, column in manifest.columns.items()
    )


def _read_record(path: Path, kind: type[AnyRecord]) -> AnyRecord | None:
    """A record from disk; None if it is missing, damaged or of another version."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _identity(files: OfficialFiles) -> list[tuple[str, int, int]]:
    """The identity of the files: path, size and modification time of each."""
    states = [(path, path.stat()) for path in files.present()]
    return [(str(path.resolve()), state.st_size, state.st_mtime_ns) for path, state in states]


def _logged(directory: Path) -> OnProgress:
    """A callback that logs one line per tenth of each subject."""
    logged: dict[object, int] = {}

    def on_progress(progress: Progress) -> None:
        tenth = 10 * progress.done // max(1, progress.total)
        if logged.get(progress.subject) != tenth:
            logged[progress.subject] = tenth
            _log.info("%s: %s, %d %%", directory, progress.subject, 10 * tenth)

    return on_progress


def _build_exclusively(
    directory: Path, files: OfficialFiles, on_progress: OnProgress, rebuild: bool
) -> None:
    partial = directory.with_name(directory.name + ".partial")
    with disk_errors(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
    with _locked(directory.with_name(directory.name + ".lock"), on_progress):
        if not rebuild and _is_current(directory, files):
            return  # another process has built it in the meantime
        _check_room(directory.parent, files)
        if rebuild:
            shutil.rmtree(partial, ignore_errors=True)
        _build(partial, files, on_progress)
        with disk_errors(directory):
            shutil.rmtree(directory, ignore_errors=True)
            os.rename(partial, directory)


@contextmanager
def _locked(path: Path, on_progress: OnProgress) -> Iterator[None]:
    with disk_errors(path), path.open("w") as file:
        try:
            flock(file, wait=False)
        except BlockingIOError:
            on_progress(Progress("waiting for another process to build the index", 0, 1))
            flock(file)
        yield


def _check_room(parent: Path, files: OfficialFiles) -> None:
    needed, free = int(SIZE_RATIO * files.items.stat().st_size), shutil.disk_usage(parent).free
    if free < needed:
        raise DataError(
            f"the index of `{files.items}` needs about {needed / 1e9:.1f} GB in `{parent}`, "
            f"which has {free / 1e9:.1f} GB free",
            hint="set `EEF_CACHE` or `env.index` to a directory on a larger disk",
        )


def _build(partial: Path, files: OfficialFiles, on_progress: OnProgress) -> None:
    """Build a complete index in `partial`, resuming an interrupted build if there is one."""
    source = _identity(files)
    state = _resume(partial, source)
    columns = FileColumns(partial)
    stream, records = files.records(start=state.offset, on_progress=on_progress)
    before, last = state.members, [state.members]

    def checkpoint() -> None:
        members = before + stream.members
        if members - last[0] >= CHECKPOINT or stream.ended:
            last[0] = members
            so_far = BuildState(
                source=source, offset=stream.offset, members=members, columns=columns.sync()
            )
            write_json(partial / STATE_FILE, so_far.model_dump(mode="json"))
            on_progress(Progress("reading products", stream.offset, stream.size))

    try:
        fill(
            columns,
            records,
            files.items.name,
            first=before,
            checkpoint=checkpoint,
            on_progress=on_progress,
        )
    finally:
        columns.close()
    columns = FileColumns(partial)
    for name in TEMPORARY:
        columns.drop(name)
    columns.sync()
    digest = files.digest(on_progress)
    if _identity(files) != source:
        raise DataError(
            f"`{files.items}` or a file beside it changed while it was read",
            hint="run the same command again",
        )
    sums = checksums(partial, on_progress)
    (partial / STATE_FILE).unlink(missing_ok=True)
    manifest = Manifest(source=source, digest=digest, columns=sums)
    write_json(partial / MANIFEST_FILE, manifest.model_dump(mode="json"))


def _resume(partial: Path, source: list[tuple[str, int, int]]) -> BuildState:
    """The state to resume from; a fresh one if it is missing, damaged or of other files."""
    state = _read_record(partial / STATE_FILE, BuildState)
    if state is not None and state.source == source:
        with suppress(DataError):
            FileColumns(partial).truncate(state.columns)
            return state
    shutil.rmtree(partial, ignore_errors=True)
    with disk_errors(partial):
        partial.mkdir()
    return BuildState(source=source)
