"""Seeds: pieces that differ in method and seed → numbers of each method and of each pair of methods.

One piece says how a method did, not how far luck carried it. Two methods are compared in the seeds where both are
finished; what is missing is shown as missing (None).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from statistics import fmean, stdev
from typing import Any

from eef.analysis.behaviors import BehaviorUse
from eef.analysis.label_noise import LabelNoise
from eef.analysis.stats import (
    Difference,
    McNemar,
    SeedEffects,
    difference_over_seeds,
    holm,
    mcnemar,
    pass_at_k,
    seed_effects,
    sign_flip_test,
)
from eef.analysis.trial import Scores, Trial
from eef.pipeline.ledger import Cost
from eef.pipeline.stages import BC, EXPERT

RECORD_VERSION = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodAggregate:
    """A method after its last round: win rate and mean reward of each seed, None where that seed is not finished.

    `rounds` are its win rates by round and seed, `cost` the mean over seeds of all its stages, `explored` that of
    exploring up to each round (so that a curve may be drawn over what was spent), `skills` those of test episodes by
    round, then by seed. `pass_at_k` is of training tasks, by rollouts from their start in the last round: (k, chance
    that one of k wins). `selected`: what is trained on in the last round, mean counts over seeds. `solved` counts test
    tasks won after the last round by difficulty, mean over seeds; `newly_solved` those lost by expert and behaviour
    cloning of the same seed. Of its `options`, `changes` are those in which it differs from the method it is a variant
    of (`algorithm`), if from any.
    """

    name: str
    algorithm: str
    options: Mapping[str, Any]
    changes: Mapping[str, Any]
    win_rates: tuple[float | None, ...]
    rewards: tuple[float | None, ...]
    rounds: Mapping[int, tuple[float | None, ...]]
    cost: Cost | None
    explored: Mapping[int, Cost]
    skills: Mapping[int, tuple[Mapping[str, BehaviorUse], ...]]
    pass_at_k: tuple[int, float] | None
    selected: Mapping[str, float]
    solved: Mapping[str, float]
    newly_solved: tuple[int | None, ...]
    noise: tuple[LabelNoise, ...]

    @property
    def is_arm(self) -> bool:
        """Whether it is a variant that shows what does the work in a method; other experts make a method of its own."""
        return bool(self.changes) and "experts" not in self.changes

    @property
    def known(self) -> list[float]:
        return [rate for rate in self.win_rates if rate is not None]

    @property
    def mean(self) -> float | None:
        return fmean(self.known) if self.known else None

    @property
    def mean_reward(self) -> float | None:
        known = [value for value in self.rewards if value is not None]
        return fmean(known) if known else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the win rate over seeds; None for a single seed."""
        return stdev(self.known) if len(self.known) > 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairAggregate:
    """Two methods on the same tasks in the `seeds` where both are finished; differences are first minus second.

    `p_value`: exact sign-flip test over tasks, all seeds of a task together (with one seed McNemar's test).
    `p_adjusted`: by Holm's correction for all pairs of its family: of methods; of an arm and its method; the rest.
    `difference`: of win rates, bootstrap interval over tasks; `both`: over tasks and seeds. `effects`: the seed as a
    random effect. `by_seed`: McNemar's test of each. `first_alone`: tasks that the first won in any seed after its last
    round and the second never, in no seed and no round; `second_alone` likewise.
    """

    first: str
    second: str
    seeds: tuple[int, ...]
    p_value: float
    p_adjusted: float
    difference: Difference
    both: Difference
    reward: Difference
    effects: SeedEffects | None
    by_seed: tuple[McNemar, ...]
    first_alone: int
    second_alone: int

    def to_record(self) -> dict[str, Any]:
        effects = self.effects
        return {
            "first": self.first,
            "second": self.second,
            "seeds": list(self.seeds),
            "difference": self.difference.mean,
            "interval": list(self.difference.interval),
            "interval_over_seeds": list(self.both.interval),
            "p": self.p_value,
            "p_adjusted": self.p_adjusted,
            "reward_difference": self.reward.mean,
            "reward_interval": list(self.reward.interval),
            "random_effect": {**effects._asdict(), "interval": list(effects.interval)}
            if effects
            else None,
            "by_seed": [test._asdict() for test in self.by_seed],
            "first_alone": self.first_alone,
            "second_alone": self.second_alone,
        }


@dataclass(frozen=True, slots=True)
class Aggregate:
    """What several seeds say together; the student's methods are paired, the experts are not.

    `tasks` counts the test tasks of each difficulty; `never_solved` those that no method won in any seed or round.
    """

    seeds: tuple[int, ...]
    methods: tuple[MethodAggregate, ...]
    pairs: tuple[PairAggregate, ...]
    tasks: Mapping[str, int]
    never_solved: Mapping[str, int]

    def rates_in(self, item: MethodAggregate, seeds: Collection[int]) -> list[float]:
        """A method's win rates in some of the seeds; one that is not finished there is left out."""
        return [
            rate
            for seed, rate in zip(self.seeds, item.win_rates, strict=True)
            if seed in seeds and rate is not None
        ]

    def to_record(self) -> dict[str, Any]:
        return {
            "version": RECORD_VERSION,
            "seeds": list(self.seeds),
            "methods": [
                {**asdict(method), "mean": method.mean, "deviation": method.deviation}
                for method in self.methods
            ],
            "pairs": [pair.to_record() for pair in self.pairs],
            "tasks": dict(self.tasks),
            "never_solved": dict(self.never_solved),
        }


class _Grid:
    """Pieces by method and seed, some of them missing."""

    def __init__(self, pieces: Iterable[Trial]) -> None:
        found = {(piece.method, piece.seed): piece for piece in pieces}
        self.pieces = found
        places = {piece.method: (piece.place, piece.method) for piece in found.values()}
        self.methods = sorted(places, key=places.__getitem__)
        self.seeds = tuple(sorted({seed for _, seed in found}))

    def row(self, method: str) -> list[Trial | None]:
        """A method's pieces, one a seed."""
        return [self.pieces.get((method, seed)) for seed in self.seeds]

    def known(self, method: str) -> list[Trial]:
        return [piece for piece in self.row(method) if piece is not None]

    @cached_property
    def difficulty(self) -> dict[str, str]:
        """Each test task as easy, medium or hard: won by more than two thirds, some, or less than a third of the
        evaluations before any exploring (the expert's and behaviour cloning's, of all seeds)."""
        baselines = [piece for name in (EXPERT, BC) for piece in self.known(name) if piece.last]
        wins = Counter(task for piece in baselines for task in piece.wins(0))
        return {
            task: "hard"
            if 3 * wins[task] < len(baselines)
            else "easy"
            if 3 * wins[task] > 2 * len(baselines)
            else "medium"
            for piece in baselines[:1]
            for task in piece.tasks
        }

    def newly_solved(self, piece: Trial) -> int | None:
        """Test tasks won after the last round, and by neither the expert nor behaviour cloning of the same seed; None
        where one of them is not finished."""
        baselines = [self.pieces.get((name, piece.seed)) for name in (EXPERT, BC)]
        before = [each.wins(0) for each in baselines if each is not None and each.last]
        return (
            len(piece.wins(piece.last_round).difference(*before))
            if piece.last and len(before) == 2
            else None
        )


def aggregate_trials(pieces: Iterable[Trial]) -> Aggregate:
    """The numbers of pieces of one study at one budget, finished or not."""
    grid = _Grid(pieces)
    ever = _won_ever(grid.pieces.values())
    methods = tuple(_method(grid, name) for name in grid.methods)
    return Aggregate(
        grid.seeds,
        methods,
        _pairs(grid, methods),
        dict(Counter(grid.difficulty.values())),
        dict(Counter(level for task, level in grid.difficulty.items() if task not in ever)),
    )


def _won_ever(pieces: Iterable[Trial]) -> set[str]:
    """Tasks won in any round."""
    return {task for piece in pieces for round in piece.scores for task in piece.wins(round)}


def _won_last(pieces: Iterable[Trial]) -> set[str]:
    """Tasks won after the last round."""
    return {task for piece in pieces if piece.last for task in piece.wins(max(piece.scores))}


def _method(grid: _Grid, name: str) -> MethodAggregate:
    row, known = grid.row(name), grid.known(name)
    most = max(piece.rounds for piece in known)
    numbers = tuple(range(1, most + 1)) or (0,)
    last = [piece.last if piece else None for piece in row]
    finished = [piece for piece in known if piece.last]
    exploring = "collect" if name == EXPERT else "explore"
    return MethodAggregate(
        name=name,
        algorithm=known[0].algorithm,
        options=known[0].options,
        changes=_changes(grid, known[0]),
        win_rates=tuple(_rate(scores) for scores in last),
        rewards=tuple(fmean(scores.rewards) if scores else None for scores in last),
        rounds={
            number: tuple(_rate(piece.scores.get(number)) if piece else None for piece in row)
            for number in numbers
        },
        cost=_mean_cost([piece.spent() for piece in finished]) if finished else None,
        explored={
            number: _mean_cost(
                [piece.spent(exploring, number) for piece in known if number in piece.scores]
            )
            for number in numbers
            if any(number in piece.scores for piece in known)
        },
        skills={
            number: tuple(piece.skills[number] for piece in known if number in piece.skills)
            for number in numbers
        },
        pass_at_k=_pass_at_k(known),
        selected=_mean_counts(
            [counts for piece in known if (counts := piece.selected.get(piece.last_round))]
        ),
        solved=_mean_counts(
            [
                Counter(
                    grid.difficulty[task] for task in _won_last([piece]) if task in grid.difficulty
                )
                for piece in finished
            ]
        ),
        newly_solved=tuple(grid.newly_solved(piece) if piece else None for piece in row),
        noise=tuple(piece.noise for piece in known if piece.noise),
    )


def _rate(scores: Scores | None) -> float | None:
    return fmean(scores.won) if scores else None


def _changes(grid: _Grid, piece: Trial) -> dict[str, Any]:
    """The options of an arm that are not those of its method; none where that method is not in the study."""
    method = next(iter(grid.known(piece.algorithm)), None)
    if piece.method == piece.algorithm or method is None:
        return {}
    return {key: value for key, value in piece.options.items() if method.options.get(key) != value}


def _mean_cost(costs: Sequence[Cost]) -> Cost:
    total = asdict(sum(costs, Cost()))
    return Cost(
        **{
            name: value / len(costs) if name == "seconds" else round(value / len(costs))
            for name, value in total.items()
        }
    )


def _mean_counts(counts: Sequence[Mapping[str, int]]) -> dict[str, float]:
    names = dict.fromkeys(name for each in counts for name in each)
    return {name: fmean(each.get(name, 0) for each in counts) for name in names}


def _pass_at_k(pieces: Sequence[Trial]) -> tuple[int, float] | None:
    """(k, mean pass@k over training tasks and seeds), k the rollouts from the start that every task has."""
    counts = [count for piece in pieces for count in piece.starts]
    k = min((played for _, played in counts), default=0)
    return (k, fmean(pass_at_k(wins, played, k) for wins, played in counts)) if k else None


Both = Sequence[tuple[Trial, Trial]]


def _pairs(grid: _Grid, methods: Sequence[MethodAggregate]) -> tuple[PairAggregate, ...]:
    """All pairs of the student's methods that have a seed in common, the later method in the order first."""
    found, families = [], []
    for earlier, later in combinations([item for item in methods if item.name != EXPERT], 2):
        both = [
            (one, other)
            for one, other in zip(grid.row(later.name), grid.row(earlier.name), strict=True)
            if one and other and one.last and other.last
        ]
        if both:
            found.append((later.name, earlier.name, both))
            families.append(_family(later, earlier))
    tests = [sign_flip_test(*_tables(both, "won")) for _, _, both in found]
    adjusted = _holm_by_family(tests, families)
    return tuple(
        _pair(*pair, p_value, corrected)
        for pair, p_value, corrected in zip(found, tests, adjusted, strict=True)
    )


def _family(first: MethodAggregate, second: MethodAggregate) -> str:
    """The questions that are asked together and corrected together."""
    arms = [item for item in (first, second) if item.is_arm]
    if not arms:
        return "methods"
    of_its_method = len(arms) == 1 and {first.name, second.name} == {
        arms[0].name,
        arms[0].algorithm,
    }
    return "arms" if of_its_method else "rest"


def _holm_by_family(p_values: Sequence[float], families: Sequence[str]) -> list[float]:
    adjusted = list(p_values)
    for family in set(families):
        places = [place for place, name in enumerate(families) if name == family]
        for place, value in zip(places, holm([p_values[place] for place in places]), strict=True):
            adjusted[place] = value
    return adjusted


def _pair(first: str, second: str, both: Both, p_value: float, p_adjusted: float) -> PairAggregate:
    wins = _tables(both, "won")
    ones, others = zip(*both, strict=True)
    return PairAggregate(
        first=first,
        second=second,
        seeds=tuple(one.seed for one, _ in both),
        p_value=p_value,
        p_adjusted=p_adjusted,
        difference=difference_over_seeds(*wins),
        both=difference_over_seeds(*wins, over="both"),
        reward=difference_over_seeds(*_tables(both, "rewards")),
        effects=seed_effects(*wins),
        by_seed=tuple(
            mcnemar([win > 0 for win in one], [win > 0 for win in other])
            for one, other in zip(*wins, strict=True)
        ),
        first_alone=len(_won_last(ones) - _won_ever(others)),
        second_alone=len(_won_last(others) - _won_ever(ones)),
    )


def _tables(both: Both, field: str) -> tuple[list[list[float]], list[list[float]]]:
    """A field of the last scores, [seeds, tasks] of the first and of the second; all play the same tasks in one
    order."""
    one, other = (
        [[float(value) for value in getattr(pair[side].last, field)] for pair in both]
        for side in (0, 1)
    )
    return one, other
