"""Importer: data files → trajectories, one at a time, with a report of all that was met. The whole of an import."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from eef.importers.episode import ParsedEpisode, ParseError
from eef.importers.formats import read_row
from eef.importers.rows import Rejection, Row, read_rows
from eef.importers.verify import TaskIndex, verify
from eef.trajectory import Author, Trajectory

EXAMPLES = 5  # differences that are shown


@dataclass(slots=True)
class ImportReport:
    """Counts of an import. `differences` are the first few reasons why a trajectory is text only, each with its place.

    `won` and `rewards` (their sum) count what was imported; `masked` turns came with loss weight 0; `prompts` is how
    many episodes came with rules in words, which are left out: a run trains with its environment's. `held_out` are
    those of `rejected` which are of tasks that a run does not train on.
    """

    formats: Counter[str] = field(default_factory=Counter)
    imported: int = 0
    won: int = 0
    rewards: float = 0.0
    replayed: int = 0
    rejected: int = 0
    held_out: int = 0
    masked: int = 0
    prompts: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)

    @property
    def unverified(self) -> int:
        return self.imported - self.replayed

    @property
    def success_rate(self) -> float:
        return self.won / max(1, self.imported)

    @property
    def mean_reward(self) -> float:
        return self.rewards / max(1, self.imported)

    def to_record(self) -> dict[str, Any]:
        return {
            "formats": dict(self.formats),
            "imported": self.imported,
            "won": self.won,
            "mean_reward": self.mean_reward,
            "replayed": self.replayed,
            "unverified": self.unverified,
            "masked_turns": self.masked,
            "rejected": self.rejected,
            "held_out": self.held_out,
            "reasons": dict(self.reasons),
            "differences": self.differences,
        }

    def take(
        self, place: str, imported: ParsedEpisode, trajectory: Trajectory, difference: str
    ) -> None:
        """Count a trajectory that is imported."""
        self.imported += 1
        self.formats[imported.format] += 1
        self.won += trajectory.success
        self.rewards += trajectory.reward or 0.0
        self.replayed += trajectory.replayable
        self.masked += sum(step.weight == 0 for step in trajectory.steps)
        self.prompts += bool(imported.prompt)
        told = any(known.endswith(f": {difference}") for known in self.differences)
        if difference and not told and len(self.differences) < EXAMPLES:
            self.differences.append(f"{place}: {difference}")

    def reject(self, rejection: Rejection) -> None:
        """Count a row that is not taken, by the kind of its reason."""
        self.rejected += 1
        self.reasons[rejection.reason.split(":")[0].split(" (")[0]] += 1


class Importer:
    """An import under way; `report` is true of what has been yielded so far.

    `known` are the tasks to replay in, `wanted` a format or "auto", `author` who played where that is not told (the
    file's name when left out), `reward` that of rows which tell none, `held_out` the tasks (id
    → why) whose trajectories are not taken.
    """

    def __init__(
        self,
        known: TaskIndex | None = None,
        *,
        wanted: str = "auto",
        author: str = "",
        reward: float | None = None,
        held_out: Mapping[str, str] | None = None,
    ) -> None:
        self.report = ImportReport()
        self._known, self._wanted, self._author, self._reward = known, wanted, author, reward
        self._held_out = dict(held_out or {})
        self._places: dict[str, str] = {}

    def trajectories(self, paths: Sequence[Path]) -> Iterator[Trajectory | Rejection]:
        """All rows of the files, as trajectories or as the reason why not. DataError: a file that cannot be opened."""
        for path in paths:
            for row in read_rows(path):
                taken = self._take(row, path) if isinstance(row, Row) else row
                if isinstance(taken, Rejection):
                    self.report.reject(taken)
                yield taken

    def _take(self, row: Row, path: Path) -> Trajectory | Rejection:
        try:
            imported = read_row(row.data, self._wanted)
            author = self._named(imported, path)
            id = self._identify(imported, author, row.place)
            found = verify(
                imported, self._known, id=id, author=author, source=row.place, reward=self._reward
            )
        except ParseError as error:
            return Rejection(row.place, str(error))
        if self._known and self._known.is_among(found.trajectory.task, imported, self._held_out):
            self.report.held_out += 1
            why = self._held_out.get(
                found.trajectory.task, "it asks for what only such tasks ask for"
            )
            return Rejection(row.place, f"held out: {why}")
        self._places[id] = row.place
        self.report.take(row.place, imported, found.trajectory, found.difference)
        return found.trajectory

    def _named(self, imported: ParsedEpisode, path: Path) -> Author:
        """`expert:<name>`: what was asked for, else what the row tells, else the file's name."""
        name = self._author or imported.author or path.stem
        return Author("expert", name)

    def _identify(self, imported: ParsedEpisode, author: Author, place: str) -> str:
        """The trajectory's id. ParseError where another row of this import has it."""
        kept = imported.format == "eef" and imported.key.startswith(f"{author}/")
        own = imported.key or f"line{place.rpartition(':')[2].removeprefix('row ')}"
        id = own if kept else f"{author}/{own}"
        if id in self._places:
            raise ParseError(f"duplicate id {imported.key or id!r}: {self._places[id]} has it")
        return id
