"""Seeds: several runs of one recipe that differ in their seed alone → numbers of each method and of each pair.

One run says how a method did, not how far luck carried it. Behind `eef.pipeline`, beside `eef.report`, which speaks of
one run; read by `eef compare`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import fmean, stdev
from typing import Any

from eef.errors import StoreError
from eef.evaluate import EvalResult
from eef.pipeline import BC, EXPERT, Run, explorers
from eef.stats import Difference, McNemar, holm, mcnemar, paired_difference

RECORD_VERSION = 1


@dataclass(frozen=True, slots=True)
class MethodOverSeeds:
    """A method after its last round: win rate and mean reward of each seed, in the order of the seeds."""

    name: str
    win_rates: tuple[float, ...]
    rewards: tuple[float, ...]

    @property
    def mean(self) -> float:
        return fmean(self.win_rates)

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the win rate over seeds; None for a single seed."""
        return stdev(self.win_rates) if len(self.win_rates) > 1 else None


@dataclass(frozen=True, slots=True)
class PairOverSeeds:
    """Two methods on the same tasks and seeds.

    `pooled`: exact McNemar test over all (seed, task), which takes the seeds of one task for independent.
    `p_adjusted`: its p value by Holm's correction for all pairs. `difference`: win rate of the first minus that of
    the second, with a bootstrap interval over tasks (each task's wins averaged over the seeds first).
    """

    first: str
    second: str
    pooled: McNemar
    p_adjusted: float
    difference: Difference


@dataclass(frozen=True, slots=True)
class OverSeeds:
    """What several seeds say together; the student's methods are paired, the experts are not."""

    seeds: tuple[int, ...]
    methods: tuple[MethodOverSeeds, ...]
    pairs: tuple[PairOverSeeds, ...]

    def to_record(self) -> dict[str, Any]:
        return {
            "version": RECORD_VERSION,
            "seeds": list(self.seeds),
            "methods": [
                {**asdict(method), "mean": method.mean, "deviation": method.deviation} for method in self.methods
            ],
            "pairs": [
                {
                    "first": pair.first, "second": pair.second, **pair.pooled._asdict(),
                    "p_adjusted": pair.p_adjusted, "difference": pair.difference.mean,
                    "interval": list(pair.difference.interval),
                }
                for pair in self.pairs
            ],
        }


def gather_seeds(runs: Sequence[Run]) -> OverSeeds:
    """The numbers of finished runs. StoreError where one of them has not been carried out to its end."""
    names = [EXPERT, BC, *explorers(runs[0].recipe)]
    results = {name: [_last(run, name) for run in runs] for name in names}
    pairs = [(later, earlier) for earlier, later in combinations(names[1:], 2)]
    tests = [mcnemar(_wins(results[first]), _wins(results[second])) for first, second in pairs]
    adjusted = holm([test.p_value for test in tests])
    return OverSeeds(
        tuple(run.recipe.seed for run in runs),
        tuple(_method(name, results[name]) for name in names),
        tuple(
            PairOverSeeds(
                first, second, test, p_adjusted,
                paired_difference(_by_task(results[first]), _by_task(results[second])),
            )
            for (first, second), test, p_adjusted in zip(pairs, tests, adjusted, strict=True)
        ),
    )


def _last(run: Run, method: str) -> EvalResult:
    result = run.evaluation(method, 0 if method in (EXPERT, BC) else run.recipe.rounds)
    if result is None:
        raise StoreError(f"`{run.directory}` is not finished", hint=f"`eef resume {run.directory}`")
    return result


def _method(name: str, results: Sequence[EvalResult]) -> MethodOverSeeds:
    return MethodOverSeeds(
        name, tuple(result.success_rate for result in results), tuple(result.mean_reward for result in results)
    )


def _wins(results: Sequence[EvalResult]) -> list[bool]:
    """Whether each task was won, seed after seed; the tasks of all results are the same, in the same order."""
    return [outcome.success for result in results for outcome in result.outcomes]


def _by_task(results: Sequence[EvalResult]) -> list[float]:
    """Part of the seeds in which each task was won."""
    return [fmean(same) for same in zip(*(_wins([result]) for result in results), strict=True)]
