"""Splits: which goals are for training, validation and test. Stands between the goals and the tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from eef.errors import ConfigError, EnvError

CANONICAL_FROM = 3000


@dataclass(frozen=True, slots=True)
class Splits:
    """Ranges of goal indices that never overlap."""

    ranges: Mapping[str, range]

    @classmethod
    def of(cls, given: Mapping[str, tuple[int, int | None]] | None, goals: int) -> Splits:
        """Splits as given, (first, end) with end None for the last goal. Raises ConfigError."""
        if given is None:
            return cls.default(goals)
        ranges = {name: _range(name, bounds, goals) for name, bounds in given.items()}
        for before, after in pairwise(
            sorted((part for part in ranges.values() if part), key=lambda part: part.start)
        ):
            if after.start < before.stop:
                raise ConfigError(f"WebShop: `splits` overlap at goal {after.start}")
        return cls(ranges)

    @classmethod
    def default(cls, goals: int) -> Splits:
        """The canonical split from 3,000 goals on: test 0–499, validation 500–1499, train the rest.

        With fewer, test and validation get a sixth each, train the rest. The goals are shuffled already.

        >>> Splits.default(13).ranges
        {'test': range(0, 2), 'validation': range(2, 4), 'train': range(4, 13)}
        """
        test, validation = (500, 1500) if goals >= CANONICAL_FROM else (goals // 6, 2 * (goals // 6))
        return cls(
            {"test": range(test), "validation": range(test, validation), "train": range(validation, goals)}
        )

    def __getitem__(self, name: str) -> range:
        if name not in self.ranges:
            raise EnvError(f"WebShop: no split {name!r}", hint=f"there are {', '.join(self.ranges)}")
        return self.ranges[name]

    def split_of(self, index: int) -> str:
        """The split a goal belongs to, "" for none."""
        return next((name for name, part in self.ranges.items() if index in part), "")


def _range(name: str, bounds: Sequence[int | None], goals: int) -> range:
    match bounds:
        case [int() as first, (int() | None) as end] if first >= 0 and (end is None or end >= first):
            return range(min(first, goals), goals if end is None else min(end, goals))
    raise ConfigError(
        f"WebShop: `splits` {name} = {bounds!r}, expected (first, end) with 0 <= first <= end",
        hint="`end` is the first goal that no longer belongs to the split, null for all the rest",
    )
