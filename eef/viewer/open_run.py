"""OpenRun: a run that is shown, with its index, its results so far and its tokens."""

from __future__ import annotations

import threading
from pathlib import Path

from eef.analysis.results import Results, read_results
from eef.envs.registry import env_spec
from eef.errors import EefError
from eef.note import NoteSet
from eef.pipeline.run_directory import RunData, RunDirectory
from eef.pipeline.stages import Stage
from eef.report.status import stage_status
from eef.rollouts.store import NOTES_FILE, read_notes
from eef.utils.progress import OnProgress, ignore_progress
from eef.viewer.index.run_index import RunIndex
from eef.viewer.tokens import TokenWorker


class _IndexedData(RunData):
    """A snapshot that counts training rollouts in the index and reads none of them."""

    def __init__(self, run: RunDirectory, index: RunIndex) -> None:
        super().__init__(run)
        self._index = index

    def branches(self, method: str, round: int) -> tuple[int, int]:
        return self._count(
            "SELECT count(*), sum(success) FROM trajectories WHERE method = ? AND round = ? "
            "AND phase = 'explore' AND origin IS NOT NULL",
            method,
            round,
        )

    def train_tasks_won(self, method: str, round: int) -> int:
        won, _ = self._count(
            "SELECT count(DISTINCT task), 0 FROM trajectories WHERE success "
            "AND (phase = 'collect' OR (phase = 'explore' AND method = ? AND round <= ?))",
            method,
            round,
        )
        return won

    def _count(self, sql: str, *parameters: object) -> tuple[int, int]:
        with self._index.connect() as reader:
            [(first, second)] = reader.query(sql, parameters)
        return int(first or 0), int(second or 0)


def show_links(report: str) -> str:
    """A report whose links into these pages are shown."""
    return report.replace("</head>", "<style>.in-viewer { display: inline; }</style></head>", 1)


class OpenRun:
    """A run under a short name (`slug`), which is part of the addresses of its pages."""

    def __init__(self, slug: str, run: RunDirectory) -> None:
        self.slug, self.run = slug, run
        self.spec = env_spec(run.recipe.env.name)
        self.index = RunIndex(run)
        self.version = 0
        """Counts the changes seen since the run was opened."""
        self.static = False
        """Whether its pages are written as files."""
        self.only: frozenset[str] | None = None
        """The tasks that are shown; None for all."""
        self._lock = threading.Lock()
        self._done: frozenset[Stage] = frozenset()
        self._statuses: dict[Stage, str] = {}
        self._results: Results | EefError | None = None
        self._notes: dict[Path, tuple[int, NoteSet]] = {}
        self.tokens = TokenWorker(run.path)

    @classmethod
    def open(cls, slug: str, path: Path) -> OpenRun:
        """The run in a directory. StoreError if there is none."""
        return cls(slug, RunDirectory.open(path))

    def refresh(self, on_progress: OnProgress = ignore_progress) -> bool:
        """Follow the run's files; returns whether anything has changed."""
        changed = self.index.refresh(on_progress)
        done = self.done()
        if done != self._done:
            with self._lock:  # not while results of before are computed, which would be kept
                self._done, self._results, self._statuses = done, None, {}
            changed = True
        if changed:
            self.version += 1
        return changed

    @property
    def report(self) -> Path | None:
        """The report of the run, if one was written."""
        path = self.run.path / "report.html"
        return path if path.is_file() else None

    def notes(self, store: Path) -> NoteSet:
        """The notes of a store, read again when its file has grown. None of a damaged file."""
        path = store / NOTES_FILE
        size = path.stat().st_size if path.is_file() else 0
        with self._lock:
            known = self._notes.get(path)
            if known is None or known[0] != size:
                try:
                    known = size, read_notes(store)
                except EefError:
                    known = size, NoteSet()
                self._notes[path] = known
            return known[1]

    def done(self) -> frozenset[Stage]:
        return frozenset(stage for stage in self.run.stages if self.run.is_done(stage))

    @property
    def finished(self) -> bool:
        return len(self._done) == len(self.run.stages)

    def results(self) -> Results:
        """The results so far; computed again when a stage has finished. Raises what a damaged file
        of the run raises."""
        with self._lock:
            if self._results is None:
                try:
                    self._results = read_results(_IndexedData(self.run, self.index))
                except EefError as error:
                    self._results = error
            if isinstance(self._results, EefError):
                raise self._results
            return self._results

    def status(self, stage: Stage) -> str:
        """The outcome of a finished stage in words. Raises what a damaged file raises."""
        statuses = self._statuses  # `refresh` may replace them
        if stage not in statuses:
            statuses[stage] = stage_status(self.run, stage)
        return statuses[stage]

    def close(self) -> None:
        """End the process that renders tokens, if it was started."""
        self.tokens.close()
