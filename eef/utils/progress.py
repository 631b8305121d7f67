"""Progress: the one value in which every long operation reports its progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of an operation: `done` of `total` units.

    `subject` is the operation: a stage of a run, or a phrase such as "gold paths"; its `str` is
    shown. `total` is 0 if it is unknown or nothing is counted. `note` is a short status message. A
    stage reports `finished` once all of its files are written. A training reports the `losses` of
    its latest updates, up to `done`; one that was resumed starts with those of all before.
    """

    subject: object
    done: int
    total: int
    note: str = ""
    finished: bool = False
    losses: tuple[float, ...] = ()


OnProgress = Callable[[Progress], None]


def ignore_progress(progress: Progress) -> None:
    """A callback that does nothing."""
