"""Importer: data files → verified or unverified trajectories, one at a time, with a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, count
from pathlib import Path
from typing import Any, Literal

from eef.env import toolset_of
from eef.errors import DataError
from eef.importers.episode import ParsedEpisode, ParseError, parse_reward
from eef.importers.formats import read_row
from eef.importers.rows import DATA_SUFFIXES, Rejection, Row, read_rows
from eef.importers.verify import TaskIndex, verify
from eef.trajectory import Author, Trajectory

_MOST_DIFFERENCES = 5

Outcome = Literal["verified", "partly verified", "unverified", "rejected"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowAccount:
    """The outcome of one row: its place, the id of its trajectory, and why it is not verified.

    `steps` of it were imported, and the first `verified_steps` hold in the environment;
    `tolerated_steps` observations differ only in what the environment ignores.
    """

    place: str
    outcome: Outcome
    id: str = ""
    task: str = ""
    steps: int = 0
    verified_steps: int = 0
    tolerated_steps: int = 0
    reward: float | None = None
    reason: str = ""

    def to_record(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(slots=True)
class ImportReport:
    """Counts of an import.

    `won`, `rewards` (a sum), `replayed` and `partly` count imported trajectories; `partly` are
    those verified up to some step, the others are `unverified`. `tolerated` counts observations
    that differ from the row only in what the environment ignores. `differences` are the first few
    reasons for either, each with its place. `masked` counts turns with loss weight 0. `closing`
    counts turns of only text after the end of a replayed episode, which are dropped. `renamed`
    counts trajectories whose id was taken, so that the place of the row was added to it. `prompts`
    counts episodes with a prompt of their own, which is not imported: a run trains with its
    environment's. `held_out` are the rejected rows whose tasks a run must not train on. `reasons`
    counts all rejected rows.
    """

    formats: Counter[str] = field(default_factory=Counter)
    imported: int = 0
    won: int = 0
    rewards: float = 0.0
    replayed: int = 0
    partly: int = 0
    tolerated: int = 0
    rejected: int = 0
    held_out: int = 0
    masked: int = 0
    closing: int = 0
    renamed: int = 0
    prompts: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)

    @property
    def unverified(self) -> int:
        return self.imported - self.replayed - self.partly

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
            "partly_verified": self.partly,
            "tolerated_steps": self.tolerated,
            "unverified": self.unverified,
            "masked_turns": self.masked,
            "closing_turns": self.closing,
            "renamed": self.renamed,
            "rejected": self.rejected,
            "held_out": self.held_out,
            "reasons": dict(self.reasons),
            "differences": self.differences,
        }

    def add(
        self, place: str, episode: ParsedEpisode, trajectory: Trajectory, difference: str
    ) -> None:
        """Count an imported trajectory; `difference` is why it is unverified, or empty."""
        self.imported += 1
        self.formats[episode.format] += 1
        self.won += trajectory.success
        self.rewards += trajectory.reward or 0.0
        outcome = _outcome(trajectory)
        self.replayed += outcome == "verified"
        self.partly += outcome == "partly verified"
        self.tolerated += trajectory.usage.tolerated_steps
        self.masked += sum(step.weight == 0 for step in trajectory.steps)
        self.closing += len(episode.steps) - len(trajectory.steps)
        self.prompts += bool(episode.prompt)
        listed = any(each.endswith(f": {difference}") for each in self.differences)
        if difference and not listed and len(self.differences) < _MOST_DIFFERENCES:
            self.differences.append(f"{place}: {difference}")

    def reject(self, rejection: Rejection) -> None:
        """Count a rejected row under its reason, without the details."""
        self.rejected += 1
        self.reasons[rejection.reason.split(":")[0].split(" (")[0]] += 1


class Importer:
    """Imports trajectories from files; `report` counts those yielded so far, and `accounts` has one
    entry per row.

    `task_index` are the tasks to verify trajectories in, None to verify none. `wanted` is the only
    format to accept, or "auto". `action_map` rewrites actions. `author` is the expert's name, by
    default that of the row, or the file's. `reward_of` gives the reward of a row (its data, its id)
    in place of the one that its format records, and None for none. `reward` is used for rows
    without any. `held_out` maps ids of tasks to the reason why their trajectories are rejected.
    `taken` are ids that no trajectory may get.

    Ids depend only on the files and their order: importing the same files again gives the same ids.
    """

    def __init__(
        self,
        task_index: TaskIndex | None = None,
        *,
        wanted: str = "auto",
        action_map: Callable[[str], str] = lambda action: action,
        author: str = "",
        reward: float | None = None,
        reward_of: Callable[[Mapping[str, Any], str], object] | None = None,
        held_out: Mapping[str, str] | None = None,
        taken: Collection[str] = (),
    ) -> None:
        self.report = ImportReport()
        self._task_index = task_index
        self._wanted, self._action_map = wanted, action_map
        env = task_index.env if task_index else None
        self._tools = toolset_of(env) if env is not None and env.tools else None
        self.accounts: list[RowAccount] = []
        self._author = author
        self._reward = reward
        self._reward_of = reward_of
        self._held_out = dict(held_out or {})
        self._taken = set(taken)

    def trajectories(self, paths: Sequence[Path]) -> Iterator[Trajectory | Rejection]:
        """The rows of the files, imported or rejected. DataError if a file cannot be opened."""
        for path in paths:
            for row in read_rows(path):
                item = self._import(row, path) if isinstance(row, Row) else row
                if isinstance(item, Rejection):
                    self.report.reject(item)
                    account = RowAccount(place=item.place, outcome="rejected", reason=item.reason)
                    self.accounts.append(account)
                yield item

    def _import(self, row: Row, path: Path) -> Trajectory | Rejection:
        try:
            episode = read_row(
                row.data, self._wanted, tools=self._tools, action_map=self._action_map
            )
            if self._reward_of is not None:
                given = self._reward_of(row.data, episode.key)
                episode = replace(episode, reward=parse_reward(given), success=None)
            author = Author("expert", self._author or episode.author or path.stem)
            wish = _id(episode, author, row.place)
            id = self._unique(wish, path, row.place)
            trajectory, difference = verify(
                episode,
                self._task_index,
                id=id,
                author=author,
                source=row.place,
                reward=self._reward,
            )
        except ParseError as error:
            return Rejection(row.place, str(error))
        task = trajectory.task
        if reason := self._held_out.get(str(episode.task)):
            self.report.held_out += 1
            return Rejection(row.place, f"held out: {reason}")
        if self._task_index and self._task_index.is_among(task, episode, self._held_out):
            self.report.held_out += 1
            reason = self._held_out.get(task, "its goal is only that of held-out tasks")
            return Rejection(row.place, f"held out: {reason}")
        self.report.renamed += id != wish
        self.report.add(row.place, episode, trajectory, difference)
        self.accounts.append(_account(row.place, trajectory, difference))
        return trajectory

    def _unique(self, wish: str, path: Path, place: str) -> str:
        """Take and return the id if it is free; otherwise the id with the row's place.

        Rejected rows take ids too, so that no id depends on which tasks are held out.
        """
        position = place.removeprefix(f"{path}:").replace(" ", "")
        numbered = (f"{wish}@{place}#{number}" for number in count(2))
        choices = chain((wish, f"{wish}@{path.name}:{position}", f"{wish}@{place}"), numbered)
        id = next(choice for choice in choices if choice not in self._taken)
        self._taken.add(id)
        return id


class RewardSource:
    """The rewards of rows: by a key of each row, or by a JSON Lines file of `id` and `reward`.

    A dot in a key is a level: `scores.resolved`. A source that is a file, or has the suffix of a
    data file, is read; its ids are those of the rows. A row without the key, or one that is not in
    the file, has no reward. DataError if the file cannot be read. `found` counts the rewards of the
    rows that were `asked` for.
    """

    def __init__(self, source: str) -> None:
        self.asked = self.found = 0
        self._lookup: Callable[[Mapping[str, Any], str], object]
        if Path(source).is_file() or source.lower().endswith(DATA_SUFFIXES):
            given = _given_rewards(Path(source))
            self._lookup = lambda row, id: given.get(id)
        else:
            keys = source.split(".")
            self._lookup = lambda row, id: _at(row, keys)

    def __call__(self, row: Mapping[str, Any], id: str) -> object:
        """The reward of a row and its id, or None."""
        reward = self._lookup(row, id)
        self.asked += 1
        self.found += reward is not None
        return reward


def _given_rewards(path: Path) -> dict[str, object]:
    """The rewards of a file by id. DataError if it cannot be read, or if two lines disagree."""
    rewards: dict[str, object] = {}
    for item in read_rows(path):
        if isinstance(item, Rejection) or not {"id", "reward"} <= item.data.keys():
            reason = item.reason if isinstance(item, Rejection) else "expected `id` and `reward`"
            raise DataError(f"`{item.place}` has no reward: {reason}")
        id, reward = str(item.data["id"]), item.data["reward"]
        if rewards.setdefault(id, reward) != reward:
            raise DataError(
                f"`{item.place}` gives {id!r} the reward {reward!r}, and an earlier line "
                f"{rewards[id]!r}",
                hint="list each id once, and give the rows of the data ids of their own",
            )
    return rewards


def _at(value: object, keys: Sequence[str]) -> object:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _outcome(trajectory: Trajectory) -> Outcome:
    if not trajectory.replayable:
        return "unverified"
    return "verified" if trajectory.verified_steps is None else "partly verified"


def _account(place: str, trajectory: Trajectory, difference: str) -> RowAccount:
    held = trajectory.verified_steps
    verified = trajectory.length if held is None else held
    return RowAccount(
        place=place,
        outcome=_outcome(trajectory),
        id=trajectory.id,
        task=trajectory.task,
        steps=trajectory.length,
        verified_steps=verified if trajectory.replayable else 0,
        tolerated_steps=trajectory.usage.tolerated_steps,
        reward=trajectory.reward,
        reason=difference,
    )


def _id(episode: ParsedEpisode, author: Author, place: str) -> str:
    """The id that a trajectory gets if it is free: `author/key`."""
    if episode.format == "eef" and episode.key.startswith(f"{author}/"):
        return episode.key
    key = episode.key or f"line{place.rpartition(':')[2].removeprefix('row ')}"
    return f"{author}/{key}"
