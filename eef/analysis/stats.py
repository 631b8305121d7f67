"""Numbers for reports: success rate, intervals, paired tests over the same tasks, effects over seeds. Pure.

All samples are one value a task; paired samples hold the same tasks in the same order. A *table* of a method has a
row a seed and a column a task, the same tasks in the same order in every row. Empty samples and pairs of unequal
shape raise ValueError.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Table = Sequence[Sequence[float]]

_LEAST_VARIANCE = (
    1e-12  # of a mean: a seed whose tasks all differ alike would else weigh infinitely much
)


class Interval(NamedTuple):
    low: float
    high: float


class McNemar(NamedTuple):
    """Tasks that only the first of two methods won, those only the second won, and the two-sided p value."""

    only_first: int
    only_second: int
    p_value: float


class Difference(NamedTuple):
    """Mean of first minus second, with its interval."""

    mean: float
    interval: Interval


class SeedEffects(NamedTuple):
    """A difference over seeds, of which each has one of its own.

    `deviation` is the standard deviation between seeds beyond what the tasks of one seed explain (the random effect),
    `interval` and `p_value` (two-sided) those of the mean over all seeds one might have drawn.
    """

    mean: float
    deviation: float
    interval: Interval
    p_value: float


def success_rate(wins: Sequence[bool]) -> float:
    """Part of the tasks that were won, in [0, 1]."""
    return float(_sample(wins).mean())


def wilson_interval(wins: int, total: int, *, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a success rate; within [0, 1], and not a point at 0 or `total` wins.

    Source: Wilson, J. Am. Stat. Assoc. 22 (1927).
    """
    if not 0 <= wins <= total or total == 0:
        raise ValueError(f"{wins} wins of {total} tasks")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate, scale = wins / total, 1 + z * z / total
    center = (rate + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(rate * (1 - rate) / total + z * z / (4 * total * total))
    return Interval(max(0.0, center - half), min(1.0, center + half))


def bootstrap_interval(
    values: Sequence[float], *, confidence: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Percentile bootstrap interval of the mean, resampling tasks; equal arguments give equal intervals."""
    sample, generator = _sample(values), np.random.default_rng(seed)
    size = len(sample)
    means = np.array([sample[generator.integers(0, size, size)].mean() for _ in range(resamples)])
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(low), float(high))


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """Exact McNemar test: do two methods win different tasks equally often?

    Of the n tasks that only one of them won, the first's part is binomial(n, 1/2) if neither is better.

    >>> mcnemar([True] * 6 + [False], [False] * 6 + [False])
    McNemar(only_first=6, only_second=0, p_value=0.03125)
    """
    pairs = list(zip(first, second, strict=True))
    only_first = sum(one and not other for one, other in pairs)
    only_second = sum(other and not one for one, other in pairs)
    discordant = only_first + only_second
    tail = sum(math.comb(discordant, wins) for wins in range(min(only_first, only_second) + 1))
    return McNemar(only_first, only_second, min(1.0, 2 * tail / 2**discordant))


def paired_difference(
    first: Sequence[float],
    second: Sequence[float],
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Difference:
    """Mean difference over the same tasks, with the bootstrap interval of the differences."""
    if len(first) != len(second):
        raise ValueError(f"paired samples of {len(first)} and {len(second)} tasks")
    gaps = (_sample(first) - _sample(second)).tolist()
    interval = bootstrap_interval(gaps, confidence=confidence, resamples=resamples, seed=seed)
    return Difference(float(np.mean(gaps)), interval)


def holm(p_values: Sequence[float]) -> list[float]:
    """p values adjusted for testing several hypotheses at once, in the order given.

    Source: Holm, Scand. J. Stat. 6 (1979): the i-th smallest of m is multiplied by m - i (i from 0), never
    falling below a smaller one's.

    >>> holm([0.25, 0.125])
    [0.25, 0.25]
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def sign_flip_test(first: Table, second: Table) -> float:
    """Two-sided p value: are two methods equally good on these tasks? Exact, over all seeds together.

    A task's gap is the number of seeds in which the first won it, less that of the second. If neither is better, each
    gap may as well have the other sign; the p value is the part of all 2^n sign patterns whose sum lies as far from 0
    as the one seen. Seeds of one task count as one observation, not as many. With one seed this is `mcnemar`.

    Source: Fisher's randomisation test; the distribution by convolution, since gaps are whole numbers.

    >>> sign_flip_test([[1, 1, 1, 1, 1, 1, 0]], [[0, 0, 0, 0, 0, 0, 0]])
    0.03125
    """
    gaps = np.rint(_gaps(first, second).sum(axis=0)).astype(int)
    reach = int(np.abs(gaps).sum())
    chances = np.zeros(2 * reach + 1)
    chances[reach] = 1.0
    for gap in np.abs(gaps[gaps != 0]):
        # what would leave at an end is 0: no sum lies farther out than `reach`
        chances = (np.roll(chances, gap) + np.roll(chances, -gap)) / 2
    sums = np.abs(np.arange(-reach, reach + 1))
    return min(1.0, float(chances[sums >= abs(int(gaps.sum()))].sum()))


def difference_over_seeds(
    first: Table,
    second: Table,
    *,
    over: Literal["tasks", "both"] = "tasks",
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Difference:
    """Mean difference over seeds and tasks, with a percentile bootstrap interval.

    `over="tasks"` resamples tasks alone: what other tasks would have given with these seeds. `over="both"` resamples
    tasks and seeds, each by itself, and so takes both as drawn from many (the wider, more careful interval; with a
    single seed it is the other one).

    Source: the pigeonhole bootstrap of crossed random effects, Owen, Ann. Appl. Stat. 1 (2007).
    """
    gaps = _gaps(first, second)
    rows, columns = _resampled_weights(*gaps.shape, resamples, seed)
    if over == "tasks":
        rows = np.full_like(rows, 1 / len(gaps))
    means = ((rows @ gaps) * columns).sum(axis=1)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Difference(float(gaps.mean()), Interval(float(low), float(high)))


@lru_cache(maxsize=8)
def _resampled_weights(
    seeds: int, tasks: int, resamples: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The part of each seed and of each task in each resample; kept, for a study draws them for hundreds of pairs."""
    generator = np.random.default_rng(seed)
    rows, columns = (
        generator.multinomial(size, np.full(size, 1 / size), resamples) / size
        for size in (seeds, tasks)
    )
    return rows, columns


def seed_effects(first: Table, second: Table, *, confidence: float = 0.95) -> SeedEffects | None:
    """The difference as a random effect of the seed; None for a single seed.

    Each seed's mean difference has a variance within (over its tasks); what the differences vary by beyond that is the
    variance between seeds τ². The mean is weighted by 1 / (within + τ²). With so few seeds as one can afford τ² itself
    is hardly known, so interval and p value are those of Student's t with seeds - 1 degrees of freedom.

    Source: DerSimonian and Laird, Control. Clin. Trials 7 (1986), the seeds in the place of studies; the variance of
    the mean after Knapp and Hartung, Stat. Med. 22 (2003). Where all seeds weigh alike this is the t test over seeds.
    """
    gaps = _gaps(first, second)
    if len(gaps) < 2:
        return None
    within = np.maximum(
        gaps.var(axis=1, ddof=min(1, gaps.shape[1] - 1)) / gaps.shape[1], _LEAST_VARIANCE
    )
    mean, variance, between = _random_effect(gaps.mean(axis=1), within)
    spread = ((gaps.mean(axis=1) - mean) ** 2 / (within + between)).sum() / (len(gaps) - 1)
    error = math.sqrt(max(variance * float(spread), _LEAST_VARIANCE))
    half = _student_quantile(confidence, len(gaps) - 1) * error
    p_value = 1.0 - _student_within(abs(mean) / error, len(gaps) - 1)
    return SeedEffects(
        mean, math.sqrt(between), Interval(mean - half, mean + half), max(0.0, p_value)
    )


def _student_within(t: float, freedom: int) -> float:
    """Chance that Student's t lies between -t and t.

    Source: Abramowitz and Stegun, Handbook of Mathematical Functions (1964), 26.7.3 and 26.7.4: a finite sum for a
    whole number of degrees of freedom.
    """
    angle = math.atan(t / math.sqrt(freedom))
    square = math.cos(angle) ** 2
    first = math.cos(angle) if freedom % 2 else 1.0
    terms = [first] if freedom > 1 else []
    for k in range(2 + freedom % 2, freedom - 1, 2):
        terms.append(terms[-1] * square * (k - 1) / k)
    if freedom % 2:
        return 2 / math.pi * (angle + math.sin(angle) * sum(terms))
    return math.sin(angle) * sum(terms)


def _student_quantile(within: float, freedom: int) -> float:
    """The t of which `_student_within` is `within`, by bisection."""
    low, high = 0.0, 1.0
    while _student_within(high, freedom) < within:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_within(middle, freedom) < within else (low, middle)
    return high


def _random_effect(
    effects: NDArray[np.float64], variances: NDArray[np.float64]
) -> tuple[float, float, float]:
    """(mean, its variance, variance between) of effects with known variances within."""
    weights = 1 / variances
    fixed = (weights * effects).sum() / weights.sum()
    excess = (weights * (effects - fixed) ** 2).sum() - (len(effects) - 1)
    between = max(0.0, excess / (weights.sum() - (weights**2).sum() / weights.sum()))
    weights = 1 / (variances + between)
    return (
        float((weights * effects).sum() / weights.sum()),
        float(1 / weights.sum()),
        float(between),
    )


def pass_at_k(wins: int, rollouts: int, k: int) -> float:
    """Chance that at least one of k rollouts of a task wins, from `wins` of `rollouts`; unbiased.

    Source: Chen et al., arXiv 2107.03374: 1 - C(n - c, k) / C(n, k). ValueError for k > n.

    >>> pass_at_k(1, 6, 1), pass_at_k(1, 6, 6), pass_at_k(0, 6, 6)
    (0.16666666666666663, 1.0, 0.0)
    """
    if not 0 <= wins <= rollouts or not 1 <= k <= rollouts:
        raise ValueError(f"pass@{k} of {wins} wins in {rollouts} rollouts")
    return 1.0 - math.comb(rollouts - wins, k) / math.comb(rollouts, k)


def chance_of_wins(wins: int, total: int, draws: int, least: int) -> float:
    """Chance that at least `least` of `draws` rollouts win, drawn from `total` of which `wins` won (hypergeometric).

    >>> chance_of_wins(10, 20, 1, 1)
    0.5
    """
    if not 0 <= wins <= total or not 0 <= draws <= total:
        raise ValueError(f"{draws} of {total} rollouts, of which {wins} won")
    ways = sum(
        math.comb(wins, won) * math.comb(total - wins, draws - won)
        for won in range(max(0, least), draws + 1)
    )
    return ways / math.comb(total, draws)


def _gaps(first: Table, second: Table) -> NDArray[np.float64]:
    """First minus second, [seeds, tasks]."""
    one, other = (np.asarray(table, dtype=np.float64) for table in (first, second))
    if one.shape != other.shape or one.ndim != 2 or one.size == 0:
        raise ValueError(f"paired tables of the shapes {one.shape} and {other.shape}")
    return one - other


def _sample(values: Sequence[float]) -> NDArray[np.float64]:
    if len(values) == 0:
        raise ValueError("an empty sample has no mean")
    return np.asarray(values, dtype=np.float64)
