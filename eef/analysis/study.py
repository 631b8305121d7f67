"""Gather: pieces from directories of `eef compare`, or from the files that `eef results` keeps → a study."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eef.analysis.aggregate import Aggregate, aggregate_trials
from eef.analysis.trial import Trial, read_trial, trials_of
from eef.errors import StoreError
from eef.pipeline.checks import VERSIONS, differences
from eef.pipeline.run_directory import RunDirectory


@dataclass(frozen=True, slots=True)
class Study:
    """The pieces of a study and, by kind of budget, their numbers. `fingerprint`: the environment, for all the same,
    and the versions that any of them was played with; `budgets`: the size of each kind."""

    pieces: tuple[Trial, ...]
    over: Mapping[str, Aggregate]
    budgets: Mapping[str, int]
    fingerprint: Mapping[str, Any]

    def to_record(self) -> dict[str, Any]:
        """The summary: `comparisons.<budget>.<a>_vs_<b>` with difference, p, interval and seeds, for every pair."""
        return {
            "version": 2,
            "fingerprint": dict(self.fingerprint),
            "budget_of_a_round": dict(self.budgets),
            "comparisons": {
                kind: {f"{pair.first}_vs_{pair.second}": pair.to_record() for pair in over.pairs}
                for kind, over in self.over.items()
            },
            "budgets": {kind: over.to_record() for kind, over in self.over.items()},
        }


def load_study(directories: Sequence[Path]) -> Study:
    """The study whose pieces lie in some directories; a piece that lies in two is taken from the later one.

    StoreError: a directory without a piece; pieces of different studies, environments, test tasks or budgets of one
    kind; pieces of one method with different options or rounds, of one kind of budget with different settings.
    """
    found = {
        (piece.budget[0], piece.method, piece.seed): piece
        for directory in directories
        for piece in _read(directory)
    }
    return study_of(found.values())


def study_of(pieces: Iterable[Trial]) -> Study:
    """The study of some pieces (StoreError where they do not belong together)."""
    kept = tuple(pieces)
    if not kept:
        raise StoreError(
            "no piece of the comparison has been begun", hint="`eef compare` goes on with it"
        )
    first = next((piece for piece in kept if piece.tasks), kept[0])
    for piece in kept:
        _refuse_mixture(first, piece)
    for of_method in _by_method(kept):
        _refuse_other_options(of_method)
    kinds = dict.fromkeys(piece.budget[0] for piece in kept)
    of_kind = {kind: [piece for piece in kept if piece.budget[0] == kind] for kind in kinds}
    budgets = {}
    for kind, same in of_kind.items():
        _refuse_other_settings(same)
        sizes = {piece.budget[1] for piece in same}
        if len(sizes) > 1:
            raise StoreError(
                f"pieces at equal {kind} have budgets of {' and '.join(map(str, sorted(sizes)))} a round",
                hint="name directories of one budget of each kind",
            )
        budgets[kind] = sizes.pop()
    over = {kind: aggregate_trials(same) for kind, same in of_kind.items()}
    return Study(kept, over, budgets, {**first.fingerprint, **_versions(kept)})


def _read(directory: Path) -> list[Trial]:
    """The pieces of a directory: of the runs in it, or else its piece files."""
    runs = sorted(directory.glob("seed*/recipe.json"))
    if runs:
        return [
            piece for path in runs for piece in trials_of(RunDirectory.open(path.parent).read())
        ]
    files = sorted(directory.rglob("*@*.json"))
    if not files:
        raise StoreError(
            f"`{directory}` holds no comparison",
            hint="`eef compare` makes one, with `seed0` … in it",
        )
    return [read_trial(path) for path in files]


def _versions(pieces: Iterable[Trial]) -> dict[str, str]:
    """`2.12.0, 2.13.0`: those that the pieces tell of each package."""
    told = {
        name: sorted(
            {str(piece.fingerprint[name]) for piece in pieces if name in piece.fingerprint}
        )
        for name in VERSIONS
    }
    return {name: ", ".join(each) for name, each in told.items() if each}


def _by_method(pieces: Iterable[Trial]) -> Iterable[list[Trial]]:
    found: dict[tuple[str, str], list[Trial]] = {}
    for piece in pieces:
        found.setdefault((piece.budget[0], piece.method), []).append(piece)
    return found.values()


def _refuse_other_options(pieces: Sequence[Trial]) -> None:
    first = pieces[0]
    for other in pieces:
        differing = differences(first.options, other.options) + (
            ["rounds"] if first.rounds != other.rounds else []
        )
        if differing:
            raise StoreError(
                f"`{other.name}` and `{first.name}` are of different options (they differ in: {', '.join(differing)})",
                hint="give the method another name in one of them, or leave one directory out",
            )


def _refuse_other_settings(pieces: Sequence[Trial]) -> None:
    """Pieces at one kind of budget must share all else: at equal updates, `train.updates` is the budget itself."""
    first = pieces[0]
    for other in pieces:
        if differing := differences(first.settings, other.settings):
            raise StoreError(
                f"`{other.name}` and `{first.name}` are of different settings (they differ in: {', '.join(differing)})",
                hint="play one of them anew with the settings of the other, or leave it out",
            )


def _refuse_mixture(first: Trial, other: Trial) -> None:
    if differing := differences(first.fingerprint, other.fingerprint):
        raise StoreError(
            f"`{other.name}` was played in another environment than `{first.name}` (it differs in: "
            f"{', '.join(differing)})",
            hint="name directories of one study",
        )
    if other.tasks and first.tasks != other.tasks:
        raise StoreError(
            f"`{other.name}` was tested on other tasks than `{first.name}`, or in another order",
            hint="name directories of one study (`tasks.test`, `tasks.seed`)",
        )
    if first.study != other.study:
        raise StoreError(
            f"`{other.name}` is of the recipe `{other.study}`, `{first.name}` of `{first.study}`",
            hint="name directories of one study",
        )
