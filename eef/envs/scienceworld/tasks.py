"""The thirty tasks with their variations, official splits, step limits and presets.

A variation is a task in another world (another substance, another room). The splits are those of
the package: of n variations the first 2⌊n/4⌋ are for training, the next ⌊n/4⌋ for development, and
the rest for testing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, TypeVar

from eef.config import unknown_name
from eef.envs.spec import chosen_names
from eef.errors import ConfigError

Part = Literal["train", "dev", "test"]
Limits = Literal["eto", "none"]
T = TypeVar("T")

VARIATIONS = {
    "boil": 30,
    "melt": 30,
    "freeze": 30,
    "change-the-state-of-matter-of": 30,
    "use-thermometer": 540,
    "measure-melting-point-known-substance": 436,
    "measure-melting-point-unknown-substance": 300,
    "power-component": 20,
    "power-component-renewable-vs-nonrenewable-energy": 20,
    "test-conductivity": 900,
    "test-conductivity-of-unknown-substances": 600,
    "find-living-thing": 300,
    "find-non-living-thing": 300,
    "find-plant": 300,
    "find-animal": 300,
    "grow-plant": 126,
    "grow-fruit": 126,
    "chemistry-mix": 32,
    "chemistry-mix-paint-secondary-color": 36,
    "chemistry-mix-paint-tertiary-color": 36,
    "lifespan-longest-lived": 125,
    "lifespan-shortest-lived": 125,
    "lifespan-longest-lived-then-shortest-lived": 125,
    "identify-life-stages-1": 14,
    "identify-life-stages-2": 10,
    "inclined-plane-determine-angle": 168,
    "inclined-plane-friction-named-surfaces": 1386,
    "inclined-plane-friction-unnamed-surfaces": 162,
    "mendelian-genetics-known-plant": 120,
    "mendelian-genetics-unknown-plant": 480,
}
"""Variations of each task, in the official order (topics 1-1 to 10-2)."""

ETO_LIMITS = {
    "boil": 100,
    "melt": 80,
    "freeze": 80,
    "change-the-state-of-matter-of": 80,
    "use-thermometer": 30,
    "measure-melting-point-known-substance": 120,
    "power-component": 20,
    "power-component-renewable-vs-nonrenewable-energy": 30,
    "test-conductivity": 30,
    "test-conductivity-of-unknown-substances": 30,
    "find-living-thing": 15,
    "find-non-living-thing": 15,
    "find-plant": 15,
    "find-animal": 15,
    "grow-plant": 30,
    "grow-fruit": 60,
    "chemistry-mix": 60,
    "chemistry-mix-paint-secondary-color": 15,
    "chemistry-mix-paint-tertiary-color": 30,
    "lifespan-longest-lived": 10,
    "lifespan-shortest-lived": 10,
    "lifespan-longest-lived-then-shortest-lived": 12,
    "identify-life-stages-1": 30,
    "identify-life-stages-2": 30,
}
"""Step limits in ETO (arXiv 2403.02502), which plays these 24 tasks."""

HELD_OUT: dict[str, Part] = {"seen": "dev", "unseen": "test"}
SIMPLIFICATIONS = (
    "teleportAction",
    "openDoors",
    "selfWateringFlowerPots",
    "noElectricalAction",
    "openContainers",
)
_NAMED = {"none": (), "easy": SIMPLIFICATIONS[:4], "eto": SIMPLIFICATIONS}
_ELECTRICAL = ("power-component", "conductivity")
_FIRST = dict(zip(VARIATIONS, accumulate(VARIATIONS.values(), initial=0), strict=False))
TOTAL = sum(VARIATIONS.values())


@dataclass(frozen=True, slots=True)
class Preset:
    """The tasks and rules of a published setup.

    `train` is the maximum number of variations per task in the split `train` (None for all),
    `held_out` the maximum in `seen` and in `unseen`.
    """

    tasks: tuple[str, ...]
    train: int | None
    held_out: int
    simplifications: str
    limits: Limits


PRESETS = {
    "all": Preset(tuple(VARIATIONS), None, 10, "easy", "none"),
    "eto-24": Preset(
        tuple(name for name in VARIATIONS if name in ETO_LIMITS), 120, 10, "eto", "eto"
    ),
    "agentgym-23": Preset(
        tuple(
            name
            for name in VARIATIONS
            if not name.startswith(("grow-", "inclined-plane-", "mendelian-"))
        ),
        None,
        10,
        "none",
        "none",
    ),
}


def part_of(name: str, part: Part) -> range:
    """The variations of a task in an official part.

    >>> part_of("boil", "train"), part_of("boil", "dev"), part_of("boil", "test")
    (range(0, 14), range(14, 21), range(21, 30))
    """
    total = VARIATIONS[name]
    quarter = total // 4
    bounds = {
        "train": (0, 2 * quarter),
        "dev": (2 * quarter, 3 * quarter),
        "test": (3 * quarter, total),
    }
    return range(*bounds[part])


def held_out_part(task: str) -> str:
    """The held-out part of a task id: "seen" (development), "unseen" (test) or "" (training).

    >>> held_out_part("scienceworld/boil/14"), held_out_part("scienceworld/boil/21")
    ('seen', 'unseen')
    """
    _, name, variation = task.split("/")
    return next(
        (held_out for held_out, part in HELD_OUT.items() if int(variation) in part_of(name, part)),
        "",
    )


def index_of(name: str, variation: int) -> int:
    """The number of a variation over all tasks. Raises ConfigError if it does not exist."""
    if name not in VARIATIONS:
        raise unknown_name("task", name, VARIATIONS)
    if not 0 <= variation < VARIATIONS[name]:
        raise ConfigError(
            f"unknown variation {variation} of ScienceWorld's `{name}`",
            hint=f"known variations: 0 to {VARIATIONS[name] - 1}",
        )
    return _FIRST[name] + variation


def from_index(index: int) -> tuple[str, int]:
    """Task and variation of a number. Raises ConfigError if it does not exist.

    >>> from_index(0), from_index(31)
    (('boil', 0), ('melt', 1))
    """
    if not 0 <= index < TOTAL:
        raise ConfigError(
            f"unknown ScienceWorld task number {index}", hint=f"known numbers: 0 to {TOTAL - 1}"
        )
    name = next(name for name in reversed(VARIATIONS) if _FIRST[name] <= index)
    return name, index - _FIRST[name]


def interleave(chosen: Mapping[str, Sequence[T]]) -> Iterator[tuple[str, T]]:
    """One item of each name in turn, so that every prefix of the list is a fair sample.

    >>> list(interleave({"boil": [4, 5], "melt": [7]}))
    [('boil', 4), ('melt', 7), ('boil', 5)]
    """
    for place in range(max(map(len, chosen.values()), default=0)):
        yield from ((name, found[place]) for name, found in chosen.items() if place < len(found))


def choose_tasks(given: str | Sequence[str]) -> tuple[Preset, tuple[str, ...]]:
    """The preset and the tasks that a setting names: a preset, one task, or several.

    Raises ConfigError for an unknown name.
    """
    if isinstance(given, str) and given in PRESETS:
        return PRESETS[given], PRESETS[given].tasks
    return PRESETS["all"], chosen_names(given, VARIATIONS, "task or preset", "tasks", also=PRESETS)


@dataclass(frozen=True, slots=True)
class Simplifications:
    """Simplifications of the world; tasks drop those that they cannot have."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, given: str | Sequence[str], tasks: tuple[str, ...]) -> Simplifications:
        """The simplifications in a setting: `none`, `easy`, `eto`, or a list of simulator names.

        Raises ConfigError for an unknown name, for a named set inside a list, and for
        `noElectricalAction` in a list if a task needs electrical actions.
        """
        names = [given] if isinstance(given, str) else list(given)
        names = [part.strip() for name in names for part in name.split(",") if part.strip()]
        if len(names) == 1 and names[0] in _NAMED:
            return cls(_NAMED[names[0]])
        for name in names:
            if name in _NAMED:
                raise ConfigError(
                    f"`env.simplifications` combines {name!r} with others",
                    hint=f'list all names, as "{",".join(SIMPLIFICATIONS)}", or use "eto", '
                    "which stands for these",
                )
            if name not in SIMPLIFICATIONS:
                raise unknown_name("simplification", name, [*SIMPLIFICATIONS, *_NAMED])
        needing = [task for task in tasks if needs_electricity(task)]
        if "noElectricalAction" in names and needing:
            raise ConfigError(
                f"`env.simplifications`: `noElectricalAction` is not allowed for `{needing[0]}`",
                hint='remove it or that task, or use "easy" or "eto", which adapt to each task',
            )
        return cls(tuple(names))

    def for_task(self, task: str) -> str:
        """The simplifications of a task in the simulator's form."""
        return ",".join(
            name
            for name in self.names
            if name != "noElectricalAction" or not needs_electricity(task)
        )


def needs_electricity(task: str) -> bool:
    return any(word in task for word in _ELECTRICAL)
