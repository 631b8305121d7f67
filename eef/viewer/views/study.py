"""The view of a comparison: tables and charts over seeds, and the tasks by method and seed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from eef.analysis.study import Study, load_study
from eef.analysis.trial import Trial
from eef.report.components import table
from eef.report.study_charts import draw_charts
from eef.report.study_page import budget_title
from eef.report.study_tables import make_tables
from eef.report.summary import study_verdict
from eef.viewer.address import Address
from eef.viewer.page import Page


@dataclass(frozen=True, slots=True)
class OpenStudy:
    """A comparison under a short name; `runs` are the names of its runs by seed."""

    slug: str
    path: Path
    study: Study
    runs: dict[int, str]

    @classmethod
    def open(cls, slug: str, path: Path, runs: dict[int, str]) -> OpenStudy:
        """The comparison in a directory. StoreError if there is none."""
        return cls(slug, path, load_study([path]), runs)


@dataclass(frozen=True, slots=True)
class TaskOutcomes:
    """A test task: for each method, (seed, won) of its finished trials."""

    task: str
    methods: dict[str, list[tuple[int, bool]]]

    @property
    def wins(self) -> int:
        return sum(won for each in self.methods.values() for _, won in each)


def study_page(item: OpenStudy, address: Address) -> Page:
    """A comparison, by unit of budget."""
    study = item.study
    parts = [
        {
            "title": budget_title(study, unit),
            "verdict": study_verdict(aggregate),
            "charts": draw_charts(aggregate),
            "tables": [
                (each.title, table(each.head, each.rows, name=each.title), each.note)
                for each in make_tables(aggregate)
            ],
            "tasks": task_outcomes(trial for trial in study.trials if trial.budget.unit == unit),
        }
        for unit, aggregate in study.aggregates.items()
    ]
    return Page(
        template="study.html",
        title=f"Comparison {item.path.name}",
        up=Address.of("home"),
        variables={"study": item, "budgets": parts},
        live=False,
    )


def task_outcomes(trials: Iterable[Trial]) -> list[TaskOutcomes]:
    """The outcomes of each test task in the last round of every finished trial; those that are
    won least come first."""
    found: dict[str, dict[str, list[tuple[int, bool]]]] = {}
    kept = [trial for trial in trials if trial.final_scores]
    for trial in sorted(kept, key=lambda each: (each.order, each.seed)):
        won = trial.wins(trial.last_round)
        for task in trial.tasks:
            found.setdefault(task, {}).setdefault(trial.method, []).append(
                (trial.seed, task in won)
            )
    rows = [TaskOutcomes(task, methods) for task, methods in found.items()]
    return sorted(rows, key=lambda row: row.wins)
