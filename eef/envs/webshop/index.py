"""The index on disk: official files → columns in a directory, built once, opened by many.

Beside the shop, which reads the columns. A build is interrupted at no cost beyond the last few seconds, two
processes never build at once, and an index is whole or not there: its manifest is written last, and the directory gets
its name after that.
"""

from __future__ import annotations

import fcntl
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
from eef.utils.progress import OnProgress, Progress, ignore_progress

LARGE_BYTES = 64 << 20
CHECKPOINT = 20_000
SIZE_RATIO = 0.8
MANIFEST_FILE, STATE_FILE = "index.json", "building.json"

AnyRecord = TypeVar("AnyRecord", bound="SourceRecord")

_log = logging.getLogger(__name__)


class Column(BaseModel):
    """What a column's file is known by."""

    bytes: int
    sha256: str


class SourceRecord(BaseModel):
    """What is noted beside the columns: of which files they are (path, size, time of change)."""

    model_config = ConfigDict(frozen=True, strict=True)

    version: Literal[1] = 1
    source: list[tuple[str, int, int]]


class Manifest(SourceRecord):
    """Of a whole index: the digest of the files, and every column."""

    digest: str
    columns: dict[str, Column]


class BuildState(SourceRecord):
    """Of a build under way: how far the items file is read, and the columns' sizes in bytes at that point."""

    offset: int = 0
    members: int = 0
    columns: dict[str, int] = {}


@dataclass(frozen=True, slots=True)
class Index:
    """An index that is there: its columns, and the digest of the files it was made of."""

    directory: Path
    columns: FileColumns
    digest: str

    def verify(self, on_progress: OnProgress = ignore_progress) -> None:
        """Compare every file with its checksum. Raises DataError naming the first that differs."""
        known = _read_record(self.directory / MANIFEST_FILE, Manifest)
        for name, found in checksums(self.directory, on_progress).items():
            if known is None or found != known.columns.get(name):
                raise DataError(
                    f"`{self.directory}`: the column `{name}` is not as it was written",
                    hint="build it anew: `eef index DATA --rebuild`",
                )


def is_large(files: OfficialFiles) -> bool:
    """Whether a catalog is kept on disk unless asked otherwise."""
    return files.items.stat().st_size >= LARGE_BYTES


def index_directory(files: OfficialFiles, where: Path | None = None) -> Path:
    """The directory of the files' index in `where`, named after the items file and a hash of its path."""
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
    """The index of the files, built now where there is none, or one of other files. Raises DataError, StoreError.

    It is of these files if their paths, sizes and times of change are those it was built of.
    """
    directory = index_directory(files, where)
    if rebuild or not _is_current(directory, files):
        _build_alone(directory, files, on_progress or _logged(directory), rebuild)
    manifest = _read_record(directory / MANIFEST_FILE, Manifest)
    if manifest is None:
        raise DataError(
            f"`{directory}` was changed while it was opened", hint="run the same command again"
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
    """Write all columns of the records; `first` of them were written before. Raises DataError.

    `checkpoint` is called after every product, and once more when there is none left.
    """  # fmt: skip
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
        on_progress(Progress("taking checksums", done, total))
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
    """A note as it was written; None where there is none, or a damaged one, or another version's."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _identity(files: OfficialFiles) -> list[tuple[str, int, int]]:
    """What tells these files from others, and from what they were: path, size, time of change."""
    states = [(path, path.stat()) for path in files.present()]
    return [(str(path.resolve()), state.st_size, state.st_mtime_ns) for path, state in states]


def _logged(directory: Path) -> OnProgress:
    """Progress for those who have no bar: a line in the log for each tenth of each part."""
    logged: dict[object, int] = {}

    def on_progress(progress: Progress) -> None:
        tenth = 10 * progress.done // max(1, progress.total)
        if logged.get(progress.subject) != tenth:
            logged[progress.subject] = tenth
            _log.info("%s: %s, %d %%", directory, progress.subject, 10 * tenth)

    return on_progress


def _build_alone(
    directory: Path, files: OfficialFiles, on_progress: OnProgress, rebuild: bool
) -> None:
    partial = directory.with_name(directory.name + ".partial")
    with disk_errors(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
    with _locked(directory.with_name(directory.name + ".lock"), on_progress):
        if not rebuild and _is_current(directory, files):
            return  # another process has built it meanwhile
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
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_progress(Progress("waiting for another process that builds the index", 0, 1))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _check_room(parent: Path, files: OfficialFiles) -> None:
    needed, free = int(SIZE_RATIO * files.items.stat().st_size), shutil.disk_usage(parent).free
    if free < needed:
        raise DataError(
            f"the index of `{files.items}` needs some {needed / 1e9:.1f} GB in `{parent}`, {free / 1e9:.1f} are free",
            hint="set `EEF_CACHE` or `env.index` to a directory with more room",
        )


def _build(partial: Path, files: OfficialFiles, on_progress: OnProgress) -> None:
    """Fill `partial` with a whole index, going on with what an interrupted build has left there."""
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
            f"`{files.items}` or a file beside it was changed while it was read", hint="begin again"
        )
    sums = checksums(partial, on_progress)
    (partial / STATE_FILE).unlink(missing_ok=True)
    manifest = Manifest(source=source, digest=digest, columns=sums)
    write_json(partial / MANIFEST_FILE, manifest.model_dump(mode="json"))


def _resume(partial: Path, source: list[tuple[str, int, int]]) -> BuildState:
    """The state to go on from; where it is of other files, or damaged, all begins anew."""
    state = _read_record(partial / STATE_FILE, BuildState)
    if state is not None and state.source == source:
        with suppress(DataError):
            FileColumns(partial).truncate(state.columns)
            return state
    shutil.rmtree(partial, ignore_errors=True)
    with disk_errors(partial):
        partial.mkdir()
    return BuildState(source=source)
