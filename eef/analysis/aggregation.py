"""Aggregation: trials of several methods and seeds → their aggregate.

One seed does not show how much of a result is luck. Two methods are compared on the seeds for which
both are finished.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from itertools import combinations
from statistics import fmean
from typing import Any

from eef.analysis.aggregate import Aggregate, MethodAggregate, PairAggregate
from eef.analysis.asked import completions_per_turn
from eef.analysis.stats import (
    difference_over_seeds,
    holm,
    mcnemar,
    pass_at_k,
    sign_flip_test,
    t_test_over_seeds,
)
from eef.analysis.trial import Scores, Trial
from eef.errors import ConfigError
from eef.methods.registry import make_method
from eef.note import RoleUsage
from eef.pipeline.ledger import COUNTS, Cost
from eef.pipeline.stages import BC, EXPERT


class _TrialGrid:
    """Trials by method and seed; some may be missing."""

    def __init__(self, trials: Iterable[Trial]) -> None:
        self.trials = {(trial.method, trial.seed): trial for trial in trials}
        order = {trial.method: (trial.order, trial.method) for trial in self.trials.values()}
        self.methods = sorted(order, key=order.__getitem__)
        self.seeds = tuple(sorted({seed for _, seed in self.trials}))

    def row(self, method: str) -> list[Trial | None]:
        """A method's trials, one per seed."""
        return [self.trials.get((method, seed)) for seed in self.seeds]

    def known(self, method: str) -> list[Trial]:
        return [trial for trial in self.row(method) if trial is not None]

    @cached_property
    def difficulty(self) -> dict[str, str]:
        """Each test task as "easy", "medium" or "hard".

        An easy task is won in more than two thirds of the evaluations before exploration (those of
        the expert and of behavior cloning, of all seeds); a hard one in less than a third.
        """
        baselines = [
            trial for name in (EXPERT, BC) for trial in self.known(name) if trial.final_scores
        ]
        wins = Counter(task for trial in baselines for task in trial.wins(0))
        return {
            task: "hard"
            if 3 * wins[task] < len(baselines)
            else "easy"
            if 3 * wins[task] > 2 * len(baselines)
            else "medium"
            for trial in baselines[:1]
            for task in trial.tasks
        }

    def newly_solved(self, trial: Trial) -> int | None:
        """Number of test tasks won after the last round, and by neither baseline of the same seed.

        None if the trial or a baseline (the expert, behavior cloning) is not finished.
        """
        baselines = [self.trials.get((name, trial.seed)) for name in (EXPERT, BC)]
        before = [each.wins(0) for each in baselines if each is not None and each.final_scores]
        return (
            len(trial.wins(trial.last_round).difference(*before))
            if trial.final_scores and len(before) == 2
            else None
        )


def aggregate_trials(trials: Iterable[Trial]) -> Aggregate:
    """The aggregate of trials of one study at one budget, finished or not."""
    grid = _TrialGrid(trials)
    ever = _ever_won(grid.trials.values())
    methods = tuple(_aggregate_method(grid, name) for name in grid.methods)
    return Aggregate(
        grid.seeds,
        methods,
        _aggregate_pairs(grid, methods),
        dict(Counter(grid.difficulty.values())),
        dict(Counter(level for task, level in grid.difficulty.items() if task not in ever)),
    )


def _ever_won(trials: Iterable[Trial]) -> set[str]:
    """Tasks won in any round."""
    return {task for trial in trials for round in trial.scores for task in trial.wins(round)}


def _finally_won(trials: Iterable[Trial]) -> set[str]:
    """Tasks won after the last round."""
    return {
        task for trial in trials if trial.final_scores for task in trial.wins(max(trial.scores))
    }


def _aggregate_method(grid: _TrialGrid, name: str) -> MethodAggregate:
    row, known = grid.row(name), grid.known(name)
    rounds = tuple(range(1, max(trial.rounds for trial in known) + 1)) or (0,)
    final = [trial.final_scores if trial else None for trial in row]
    finished = [trial for trial in known if trial.final_scores]
    exploring = "collect" if name == EXPERT else "explore"
    return MethodAggregate(
        name=name,
        algorithm=known[0].algorithm,
        options=known[0].options,
        changes=_changes(grid, known[0]),
        win_rates=tuple(_win_rate(scores) for scores in final),
        rewards=tuple(fmean(scores.rewards) if scores else None for scores in final),
        rounds={
            round: tuple(_win_rate(trial.scores.get(round)) if trial else None for trial in row)
            for round in rounds
        },
        cost=_mean_cost([trial.cost_of() for trial in finished]) if finished else None,
        explored={
            round: _mean_cost(
                [trial.cost_of(exploring, round) for trial in known if round in trial.scores]
            )
            for round in rounds
            if any(round in trial.scores for trial in known)
        },
        behaviors={
            round: tuple(trial.behaviors[round] for trial in known if round in trial.behaviors)
            for round in rounds
        },
        pass_at_k=_pass_at_k(known),
        selected=_mean_counts(
            [counts for trial in known if (counts := trial.selected.get(trial.last_round))]
        ),
        solved=_mean_counts(
            [
                Counter(level for task, level in grid.difficulty.items() if task in won)
                for won in (_finally_won([trial]) for trial in finished)
            ]
        ),
        newly_solved=tuple(grid.newly_solved(trial) if trial else None for trial in row),
        label_noise=tuple(trial.label_noise for trial in known if trial.label_noise),
        passes=_mean_passes(finished),
        repeats=_repeats(grid, known[0]),
        asked=known[0].asked,
        completions_per_turn=completions_per_turn(
            _mean_cost(
                [
                    trial.costs.get(trial.last_round, {}).get("evaluate", Cost())
                    for trial in finished
                ]
            )
            if finished
            else None
        ),
        rates_by_attempt=_rates_by_attempt(finished),
    )


def _rates_by_attempt(trials: Sequence[Trial]) -> tuple[float, ...]:
    """The share of test tasks won within 1, 2, … attempts; further ones may change nothing."""
    counts = [
        (trial.wins_by_attempt, len(trial.tasks)) for trial in trials if trial.wins_by_attempt
    ]
    most = max((len(wins) for wins, _ in counts), default=0)
    return tuple(
        fmean(wins[min(attempt, len(wins) - 1)] / tasks for wins, tasks in counts)
        for attempt in range(most)
    )


def _win_rate(scores: Scores | None) -> float | None:
    return fmean(scores.won) if scores else None


def _changes(grid: _TrialGrid, trial: Trial) -> dict[str, Any]:
    """The options of a variant that differ from its method's.

    A method without a trial has its default options. An override that the method has and the
    variant lacks is None.
    """
    if trial.method == trial.algorithm:
        return {}
    method = next(iter(grid.known(trial.algorithm)), None)
    options = method.options if method else _default_options(trial.algorithm)
    return {
        key: trial.options.get(key)
        for key in {**options, **trial.options}
        if options.get(key) != trial.options.get(key)
    }


def _default_options(algorithm: str) -> dict[str, Any]:
    try:
        return make_method(algorithm).options.model_dump(mode="json")
    except ConfigError:  # a method of a package that is not installed
        return {}


def _repeats(grid: _TrialGrid, trial: Trial) -> str | None:
    """The control, if a trial is that of `eef` with M = 0: both play and train the same.

    With M = 0, `eef` plans only the task's start and has no segment and no recovery state. It then
    trains on one win per task, the student's own first, then the shortest, as `cap = 1` does.
    """
    if trial.algorithm != "eef" or trial.options.get("M") != 0:
        return None
    others = (next(iter(grid.known(name))) for name in grid.methods)
    return next(
        (
            each.method
            for each in others
            if each.options.get("cap") == 1 and _wins_alike(grid, trial.method, each.method)
        ),
        None,
    )


def _wins_alike(grid: _TrialGrid, one: str, other: str) -> bool:
    """Whether two methods win the same tasks in every round of every seed they share."""
    shared = [
        (first.scores, second.scores)
        for first, second in zip(grid.row(one), grid.row(other), strict=True)
        if first and second
    ]
    return bool(shared) and all(
        first[round].won == second[round].won
        for first, second in shared
        for round in first.keys() & second.keys()
    )


def _mean_passes(trials: Sequence[Trial]) -> float | None:
    """How often the last round's training went through its examples, mean over seeds."""
    passes = [
        cost.updates * _batch_size(trial) / examples
        for trial in trials
        if (counts := trial.selected.get(trial.last_round))
        and (examples := counts.get("examples"))
        and not counts.get("pairs")
        and (cost := trial.costs.get(trial.last_round, {}).get("train"))
        and "train.batch_size" in trial.settings
    ]
    return fmean(passes) if passes else None


def _batch_size(trial: Trial) -> int:
    own = trial.options.get("overrides.train.batch_size")
    return int(trial.settings["train.batch_size"] if own is None else own)


def _mean_cost(costs: Sequence[Cost]) -> Cost:
    total, number = sum(costs, Cost()), len(costs)
    counts = {name: getattr(total, name) / number for name in COUNTS}
    means = {name: value if name == "seconds" else round(value) for name, value in counts.items()}
    roles = tuple(
        RoleUsage(
            **{
                name: value if name == "role" else round(value / number)
                for name, value in asdict(usage).items()
            }
        )
        for usage in total.roles
    )
    return Cost(**means, roles=roles)


def _mean_counts(counts: Sequence[Mapping[str, int]]) -> dict[str, float]:
    names = dict.fromkeys(name for each in counts for name in each)
    return {name: fmean(each.get(name, 0) for each in counts) for name in names}


def _pass_at_k(trials: Sequence[Trial]) -> tuple[int, float] | None:
    """(k, mean pass@k over training tasks and seeds); k is the fewest rollouts of any task."""
    counts = [count for trial in trials for count in trial.starts]
    k = min((played for _, played in counts), default=0)
    return (k, fmean(pass_at_k(wins, played, k) for wins, played in counts)) if k else None


TrialPairs = Sequence[tuple[Trial, Trial]]
"""The finished trials of two methods, paired by seed."""


def _aggregate_pairs(
    grid: _TrialGrid, methods: Sequence[MethodAggregate]
) -> tuple[PairAggregate, ...]:
    """All pairs of the student's methods with a seed in common; the later method comes first."""
    found, families = [], []
    measured = [item for item in methods if item.name != EXPERT and item.repeats is None]
    for earlier, later in combinations(measured, 2):
        paired = [
            (one, other)
            for one, other in zip(grid.row(later.name), grid.row(earlier.name), strict=True)
            if one and other and one.final_scores and other.final_scores
        ]
        if paired:
            found.append((later.name, earlier.name, paired))
            families.append(_family(later, earlier))
    tests = [sign_flip_test(*_tables(paired, "won")) for _, _, paired in found]
    adjusted = _holm_by_family(tests, families)
    return tuple(
        _aggregate_pair(*pair, p_value, corrected)
        for pair, p_value, corrected in zip(found, tests, adjusted, strict=True)
    )


def _family(first: MethodAggregate, second: MethodAggregate) -> str:
    """The family of hypotheses that a pair is tested and corrected with."""
    variants = [item for item in (first, second) if item.is_variant]
    if not variants:
        return "methods"
    with_its_method = len(variants) == 1 and {first.name, second.name} == {
        variants[0].name,
        variants[0].algorithm,
    }
    return "variants" if with_its_method else "rest"


def _holm_by_family(p_values: Sequence[float], families: Sequence[str]) -> list[float]:
    adjusted = list(p_values)
    for family in set(families):
        indices = [index for index, name in enumerate(families) if name == family]
        corrected = holm([p_values[index] for index in indices])
        for index, value in zip(indices, corrected, strict=True):
            adjusted[index] = value
    return adjusted


def _aggregate_pair(
    first: str, second: str, paired: TrialPairs, p_value: float, p_adjusted: float
) -> PairAggregate:
    wins = _tables(paired, "won")
    ones, others = zip(*paired, strict=True)
    return PairAggregate(
        first=first,
        second=second,
        seeds=tuple(one.seed for one, _ in paired),
        p_value=p_value,
        p_adjusted=p_adjusted,
        over_tasks=difference_over_seeds(*wins),
        over_both=difference_over_seeds(*wins, over="both"),
        reward=difference_over_seeds(*_tables(paired, "rewards"), over="both"),
        over_seeds=t_test_over_seeds(*wins),
        reward_over_seeds=t_test_over_seeds(*_tables(paired, "rewards")),
        by_seed=tuple(
            mcnemar([win > 0 for win in one], [win > 0 for win in other])
            for one, other in zip(*wins, strict=True)
        ),
        first_alone=len(_finally_won(ones) - _ever_won(others)),
        second_alone=len(_finally_won(others) - _ever_won(ones)),
    )


def _tables(paired: TrialPairs, field: str) -> tuple[list[list[float]], list[list[float]]]:
    """A field of the final scores, [seeds, tasks] of the first and of the second method.

    All trials of a study have the same tasks in the same order.
    """
    one, other = (
        [[float(value) for value in getattr(pair[side].final_scores, field)] for pair in paired]
        for side in (0, 1)
    )
    return one, other
