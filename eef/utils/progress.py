"""Progress: the one shape in which every long operation reports how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an operation is: `done` of `total` units.

    `subject` is what is under way: a stage of a run, or a phrase such as "gold paths"; its `str` is
    shown. `total` is 0 while it is unknown, or where there is nothing to count. `note` is a short
    status message. A stage reports `finished` once everything it leaves has been written.
    """

    subject: object
    done: int
    total: int
    note: str = ""
    finished: bool = False


OnProgress = Callable[[Progress], None]


def ignore_progress(progress: Progress) -> None:
    """The callback of whoever does not care."""
