"""Splits: the goals used for training, validation and test."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from eef.config import unknown_name
from eef.errors import ConfigError, DataError, EnvError
from eef.utils.jsonl import read_json

CANONICAL_FROM = 3000
CANONICAL: Mapping[str, tuple[int, int | None]] = {
    "test": (0, 500), "validation": (500, 1500), "train": (1500, None),
}  # fmt: skip
HUMAN_GOALS, SYNTHETIC_GOALS = 12_087, 6910


@dataclass(frozen=True, slots=True)
class Preset:
    """Named ranges, the kind of goals they apply to (None: any), and the minimum of goals."""

    ranges: Mapping[str, tuple[int, int | None]]
    goals: str | None
    min_goals: int


# We take the names of EEF's training sets to mean all training goals, and the first 3,000 of them.
PRESETS = {
    "canonical": Preset(CANONICAL, None, 1501),
    "eef-11k": Preset(CANONICAL, "human", HUMAN_GOALS),
    "eef-3k": Preset({**CANONICAL, "train": (1500, 4500)}, "human", HUMAN_GOALS),
    "synthetic-1k": Preset(CANONICAL, "synthetic", SYNTHETIC_GOALS),
}
ETO_FILES = {"train": "train_indices.json", "test": "test_indices.json"}

SplitSpec = Mapping[str, "tuple[int, int | None] | str"]


@dataclass(frozen=True, slots=True)
class Splits:
    """Goal indices by split, in the order of its tasks; no two splits share a goal."""

    indices: Mapping[str, Sequence[int]]

    @classmethod
    def of(
        cls, given: str | SplitSpec | None, kind: str, goals: int, overlap: str = "refuse"
    ) -> Splits:
        """Splits of a shop with `goals` goals of a `kind`; `default` if `given` is None.

        `given` is the name of a preset, `eto:DIR` (ETO's two lists in a directory), or a mapping
        from split to (first, end) – end None for all the rest – or to the path of a JSON list of
        indices. With `overlap` "drop", goals of other splits are removed from training. Raises
        ConfigError and DataError.
        """
        if given is None:
            return cls.default(goals)
        if isinstance(given, str):
            given = _preset(given, kind, goals)
        parts = {name: _indices(name, part, goals) for name, part in given.items()}
        if overlap == "drop" and "train" in parts:
            held = {index for name, part in parts.items() if name != "train" for index in part}
            kept = tuple(index for index in parts["train"] if index not in held)
            parts["train"] = parts["train"] if len(kept) == len(parts["train"]) else kept
        for one, other in combinations(parts, 2):
            _refuse_shared(one, parts[one], other, parts[other])
        return cls(parts)

    @classmethod
    def default(cls, goals: int) -> Splits:
        """The canonical split from 3,000 goals on: test 0–499, validation 500–1499, train the rest.

        With fewer goals, test and validation get a sixth each, train the rest. Goals are already
        shuffled.

        >>> Splits.default(13).indices
        {'test': range(0, 2), 'validation': range(2, 4), 'train': range(4, 13)}
        """
        test, validation = (
            (500, 1500) if goals >= CANONICAL_FROM else (goals // 6, 2 * (goals // 6))
        )
        return cls(
            {
                "test": range(test),
                "validation": range(test, validation),
                "train": range(validation, goals),
            }
        )

    def __getitem__(self, name: str) -> Sequence[int]:
        if name not in self.indices:
            raise unknown_name("split", name, self.indices, error=EnvError)
        return self.indices[name]

    def split_of(self, index: int) -> str:
        """The split that a goal belongs to; "" if none."""
        return next((name for name, part in self.indices.items() if index in part), "")

    def to_record(self) -> dict[str, Any]:
        """The fingerprint of the splits: the ends of a range, or the number and hash of indices."""
        return {
            name: [part.start, part.stop] if isinstance(part, range) else [len(part), _hash(part)]
            for name, part in self.indices.items()
        }


def _preset(name: str, kind: str, goals: int) -> SplitSpec:
    if name.startswith("eto:"):
        return {
            split: str(Path(name.removeprefix("eto:")) / file) for split, file in ETO_FILES.items()
        }
    if name not in PRESETS:
        raise unknown_name("split preset", name, [*PRESETS, "eto:DIR"])
    preset = PRESETS[name]
    if goals < preset.min_goals or preset.goals not in (None, kind):
        raise ConfigError(
            f"WebShop: `splits` is {name!r}, which needs at least {preset.min_goals:,} "
            f"{preset.goals or ''} goals; this shop has {goals:,} {kind} goals".replace("  ", " "),
            hint="set `env.goals` and `env.data` to those of the preset, or unset `env.splits`",
        )
    return preset.ranges


def _indices(name: str, part: tuple[int, int | None] | str, goals: int) -> Sequence[int]:
    if isinstance(part, str) and part.endswith(".json"):
        return _listed(Path(part), goals)
    match part:
        case [int() as first, (int() | None) as end] if first >= 0 and (
            end is None or end >= first
        ):
            return range(min(first, goals), goals if end is None else min(end, goals))
    raise ConfigError(
        f"WebShop: `splits.{name}` is {part!r}; expected (first, end) with 0 <= first <= end, "
        "or the path of a `.json` list",
        hint="`end` is exclusive; null means up to the last goal",
    )


def _listed(path: Path, goals: int) -> tuple[int, ...]:
    """The goal indices in a JSON file. DataError if it is malformed."""
    found = read_json(path)
    members = found if isinstance(found, list) else [found]
    wrong = [index for index in members if type(index) is not int or not 0 <= index < goals]
    if wrong or members is not found:
        raise DataError(
            f"`{path}` holds {(wrong or members)[0]!r:.60}; expected a list of goal indices below "
            f"{goals}"
        )
    if len(set(found)) < len(found):
        raise DataError(f"`{path}` lists a goal twice")
    return tuple(found)


def _refuse_shared(one: str, indices: Sequence[int], other: str, others: Sequence[int]) -> None:
    shared = sorted(set(indices) & set(others))
    if shared:
        raise ConfigError(
            f"WebShop: the splits {one} and {other} overlap, first at goal {shared[0]} "
            f"({len(shared)} in all)",
            hint='`env.overlap = "drop"` removes the goals of other splits from training',
        )


def _hash(indices: Sequence[int]) -> str:
    return hashlib.sha256(json.dumps(list(indices)).encode()).hexdigest()[:16]
