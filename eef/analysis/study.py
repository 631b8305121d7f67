"""Study: trials at equal budget, read from run directories or trial files, and aggregated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eef.analysis.aggregate import Aggregate
from eef.analysis.aggregation import aggregate_trials
from eef.analysis.trial import Trial, read_trial, trials_of
from eef.errors import StoreError
from eef.pipeline.checks import INFERENCE, VERSIONS, differences
from eef.pipeline.run_directory import RunDirectory, no_such_directory, runs_of

RECORD_VERSION = 4


@dataclass(frozen=True, slots=True)
class Study:
    """The trials of a study and, by unit of budget, their aggregate.

    `budgets` is the size of a round's budget by unit. `fingerprint` is the environment, which is
    the same for all trials, with all library versions that any of them ran with.
    """

    trials: tuple[Trial, ...]
    aggregates: Mapping[str, Aggregate]
    budgets: Mapping[str, int]
    fingerprint: Mapping[str, Any]

    def to_record(self) -> dict[str, Any]:
        """The summary.

        `comparisons.<unit>.<a>_vs_<b>` holds difference, p value, interval and seeds of every pair.
        """
        return {
            "version": RECORD_VERSION,
            "fingerprint": dict(self.fingerprint),
            "budget_of_a_round": dict(self.budgets),
            "comparisons": {
                unit: {pair.name: pair.to_record() for pair in aggregate.pairs}
                for unit, aggregate in self.aggregates.items()
            },
            "budgets": {unit: aggregate.to_record() for unit, aggregate in self.aggregates.items()},
        }


def load_study(directories: Sequence[Path]) -> Study:
    """The study whose trials are in some directories. The later directory wins for a duplicate.

    Raises StoreError if a directory has no trial, or if the trials do not belong together.
    """
    found = {
        (trial.budget.unit, trial.method, trial.seed): trial
        for directory in directories
        for trial in _read_trials(directory)
    }
    return make_study(found.values())


def make_study(trials: Iterable[Trial]) -> Study:
    """The study of some trials.

    Raises StoreError if there are none, or if they differ in study, environment, test tasks, the
    size of a budget of one unit, the options or rounds of a method, or in shared settings.
    """
    kept = tuple(trials)
    if not kept:
        raise StoreError("no trial of the study has started", hint="`eef compare` runs its trials")
    first = next((trial for trial in kept if trial.tasks), kept[0])
    for trial in kept:
        _check_same_study(first, trial)
    for of_method in _by_method(kept):
        _check_same_options(of_method)
    units = dict.fromkeys(trial.budget.unit for trial in kept)
    by_unit = {unit: [trial for trial in kept if trial.budget.unit == unit] for unit in units}
    budgets = {}
    for unit, of_unit in by_unit.items():
        _check_same_settings(of_unit)
        sizes = {trial.budget.size for trial in of_unit}
        if len(sizes) > 1:
            given = " and ".join(map(str, sorted(sizes)))
            raise StoreError(
                f"the budgets of trials compared at equal {unit} differ: {given} per round",
                hint="name directories with the same budget of each unit",
            )
        budgets[unit] = sizes.pop()
    aggregates = {unit: aggregate_trials(of_unit) for unit, of_unit in by_unit.items()}
    return Study(kept, aggregates, budgets, {**first.fingerprint, **_versions(kept)})


def _read_trials(directory: Path) -> list[Trial]:
    """The trials of the runs in a directory, or of its trial files if it has no run."""
    if not directory.exists():
        raise no_such_directory(directory)
    runs = runs_of(directory).values()
    if runs:
        return [trial for path in runs for trial in trials_of(RunDirectory.open(path).read())]
    copies = directory / "report"  # of `eef report`
    files = [path for path in sorted(directory.rglob("*@*.json")) if copies not in path.parents]
    if not files:
        raise StoreError(
            f"`{directory}` holds no study",
            hint="`eef compare` creates one, with directories such as `seed0`",
        )
    return [read_trial(path) for path in files]


def _versions(trials: Iterable[Trial]) -> dict[str, str]:
    """All versions of packages and engines that the trials ran with, such as `2.12.0, 2.13.0`."""
    versions = {
        name: sorted(
            {str(trial.fingerprint[name]) for trial in trials if name in trial.fingerprint}
        )
        for name in (*VERSIONS, *INFERENCE)
    }
    return {name: ", ".join(each) for name, each in versions.items() if each}


def _by_method(trials: Iterable[Trial]) -> Iterable[list[Trial]]:
    found: dict[tuple[str, str], list[Trial]] = {}
    for trial in trials:
        found.setdefault((trial.budget.unit, trial.method), []).append(trial)
    return found.values()


def _check_same_options(trials: Sequence[Trial]) -> None:
    """StoreError if the trials of one method have different options or numbers of rounds."""
    first = trials[0]
    for other in trials:
        differing = differences(first.options, other.options) + (
            ["rounds"] if first.rounds != other.rounds else []
        )
        if differing:
            raise StoreError(
                f"`{other.name}` and `{first.name}` have different options (they differ in: "
                f"{', '.join(differing)})",
                hint="give the method another name in one of them, or omit one directory",
            )


def _check_same_settings(trials: Sequence[Trial]) -> None:
    """StoreError if trials with one unit of budget have different settings.

    Across units they may: at equal updates, `train.updates` is the budget itself.
    """
    first = trials[0]
    for other in trials:
        if differing := differences(first.settings, other.settings):
            raise StoreError(
                f"`{other.name}` and `{first.name}` have different settings (they differ in: "
                f"{', '.join(differing)})",
                hint="run one of them again with the settings of the other, or omit one directory",
            )


def _check_same_study(first: Trial, other: Trial) -> None:
    """StoreError if a trial has another environment, other test tasks or another recipe."""
    if differing := differences(first.fingerprint, other.fingerprint):
        raise StoreError(
            f"`{other.name}` and `{first.name}` were run in different environments (they differ "
            f"in: {', '.join(differing)})",
            hint="name directories of one study",
        )
    if other.tasks and first.tasks != other.tasks:
        raise StoreError(
            f"`{other.name}` and `{first.name}` were tested on different tasks, or in a different "
            "order",
            hint="name directories of one study (`tasks.test`, `tasks.seed`)",
        )
    if first.study != other.study:
        raise StoreError(
            f"`{other.name}` belongs to recipe `{other.study}`, `{first.name}` to `{first.study}`",
            hint="name directories of one study",
        )
