"""Statistics for reports: success rates, intervals, paired tests over tasks, effects over seeds.

A sample holds one value per task; paired samples hold the same tasks in the same order. A *table*
of a method has one row per seed and one column per task, with the same tasks in the same order in
every row. Empty samples and pairs of unequal shape raise ValueError.
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

_RESAMPLES_AT_ONCE = 500
"""Resamples that are computed together: a bound on memory, without effect on the result."""

_LEAST_ERROR = 1e-9
"""Least standard error of a mean: equal differences in all seeds must not divide by 0."""


class Interval(NamedTuple):
    low: float
    high: float


class McNemar(NamedTuple):
    """Numbers of tasks won by only one of two methods, and the two-sided p value."""

    only_first: int
    only_second: int
    p_value: float


class Difference(NamedTuple):
    """A mean difference, first minus second, with its interval."""

    mean: float
    interval: Interval


class SeedTest(NamedTuple):
    """The mean difference of the seeds, and the paired t test of whether it is 0.

    `deviation` is the standard deviation of the seeds' differences. `interval` and `p_value`
    (two-sided) refer to the mean over all seeds that could be drawn, on the same tasks.
    `expected_deviation` is what `deviation` would be if the outcome of a task varied between seeds
    by chance alone; `floor_p_value` is the p value with the larger of the two, never below
    `p_value`.
    """

    mean: float
    deviation: float
    interval: Interval
    p_value: float
    expected_deviation: float
    floor_p_value: float


def wilson_interval(wins: int, total: int, *, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a success rate.

    It is within [0, 1], and has a positive width at 0 and at `total` wins.

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
    """Percentile bootstrap interval of the mean over tasks, the same for equal arguments.

    Source: Efron, Ann. Stat. 7 (1979).
    """
    sample = _sample(values)
    blocks = _resampled_tasks(len(sample), resamples, seed)
    means = np.concatenate([sample[indices].mean(axis=1) for indices in blocks])
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(low), float(high))


@lru_cache(maxsize=4)
def _resampled_tasks(
    size: int, resamples: int, seed: int
) -> tuple[NDArray[np.unsignedinteger], ...]:
    """Indices of the tasks in each resample, in blocks [rows, size].

    They are cached, since all intervals of a run use the same ones, and stored in few bytes.
    """
    generator, kind = np.random.default_rng(seed), np.min_scalar_type(size - 1)
    starts = range(0, resamples, _RESAMPLES_AT_ONCE)
    rows = (min(_RESAMPLES_AT_ONCE, resamples - start) for start in starts)
    return tuple(generator.integers(0, size, (count, size)).astype(kind) for count in rows)


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> McNemar:
    """Exact McNemar test of whether two methods win equally often.

    If neither is better, the first method's share of the n tasks that only one of them won is
    binomial(n, 1/2).

    Source: McNemar, Psychometrika 12 (1947), in its exact form.

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
    """Holm's adjusted p values for testing several hypotheses at once, in the order given.

    Source: Holm, Scand. J. Stat. 6 (1979). The i-th smallest of m (i from 0) is multiplied by m -
    i, and is at least as large as the adjusted value before it.

    >>> holm([0.25, 0.125])
    [0.25, 0.25]
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def sign_flip_test(first: Table, second: Table) -> float:
    """Exact two-sided p value for two methods being equally good on these tasks, over all seeds.

    A task's gap is the number of seeds in which the first method won it, minus that of the second.
    If neither is better, each gap could have either sign; the p value is the share of all 2^n sign
    patterns whose sum is at least as far from 0 as the observed one. All seeds of a task count as
    one observation. With one seed, this is `mcnemar`.

    Source: Fisher, The Design of Experiments (1935), the randomization test for paired samples. The
    distribution is computed by convolution, since gaps are whole numbers.

    >>> sign_flip_test([[1, 1, 1, 1, 1, 1, 0]], [[0, 0, 0, 0, 0, 0, 0]])
    0.03125
    """
    gaps = np.rint(_gaps(first, second).sum(axis=0)).astype(int)
    reach = int(np.abs(gaps).sum())
    chances = np.zeros(2 * reach + 1)
    chances[reach] = 1.0
    for gap in np.abs(gaps[gaps != 0]):
        # `roll` wraps around only zeros: no sum is farther from 0 than `reach`
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

    `over="tasks"` resamples tasks: the interval covers other tasks with the same seeds.
    `over="both"` resamples tasks and seeds independently: the interval covers other tasks and other
    seeds, and is wider. With a single seed, both are equal.

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
    """Weights of seeds and tasks in each resample, [resamples, seeds] and [resamples, tasks].

    They are cached, since a study uses the same weights for hundreds of pairs.
    """
    generator = np.random.default_rng(seed)
    rows, columns = (
        generator.multinomial(size, np.full(size, 1 / size), resamples) / size
        for size in (seeds, tasks)
    )
    return rows, columns


def t_test_over_seeds(first: Table, second: Table, *, confidence: float = 0.95) -> SeedTest | None:
    """The paired t test on the seeds' mean differences; None for a single seed.

    Seeds are the only sample: the tasks are the same in all of them. The means of a few seeds can
    agree by luck, better than the outcomes of their tasks do; then `floor_p_value` is larger.

    Source: Student, Biometrika 6 (1908), with seeds - 1 degrees of freedom.
    """
    gaps = _gaps(first, second)
    seeds, tasks = gaps.shape
    if seeds < 2:
        return None
    means = gaps.mean(axis=1)
    mean, deviation = float(means.mean()), float(means.std(ddof=1))
    expected = math.sqrt(float(gaps.var(axis=0, ddof=1).mean()) / tasks)
    error, floor = (
        max(each / math.sqrt(seeds), _LEAST_ERROR) for each in (deviation, max(deviation, expected))
    )
    half, p_value = _student_t(mean / error, seeds - 1, confidence)
    _, floor_p_value = _student_t(mean / floor, seeds - 1, confidence)
    interval = Interval(mean - half * error, mean + half * error)
    return SeedTest(mean, deviation, interval, p_value, expected, floor_p_value)


def _student_t(t: float, freedom: int, confidence: float) -> tuple[float, float]:
    """(half width of the central interval of Student's t, two-sided p value of `t`)."""
    # imported here: it would add a tenth of a second to the start of every command
    from scipy.special import stdtr, stdtrit

    return float(stdtrit(freedom, 0.5 + confidence / 2)), float(2 * stdtr(freedom, -abs(t)))


def pass_at_k(wins: int, rollouts: int, k: int) -> float:
    """Unbiased estimate of the chance that at least one of k rollouts wins, from n `rollouts`.

    Source: Chen et al., arXiv 2107.03374: 1 - C(n - c, k) / C(n, k) with c `wins`. Raises
    ValueError if k > n.

    >>> pass_at_k(1, 6, 1), pass_at_k(1, 6, 6), pass_at_k(0, 6, 6)
    (0.16666666666666663, 1.0, 0.0)
    """
    if not 0 <= wins <= rollouts or not 1 <= k <= rollouts:
        raise ValueError(f"pass@{k} of {wins} wins in {rollouts} rollouts")
    return 1.0 - math.comb(rollouts - wins, k) / math.comb(rollouts, k)


def chance_of_wins(wins: int, total: int, draws: int, least: int) -> float:
    """Chance that at least `least` of `draws` rollouts win, drawn from `total` with `wins` wins.

    This is the upper tail of the hypergeometric distribution.

    >>> chance_of_wins(10, 20, 1, 1)
    0.5
    """
    if not 0 <= wins <= total or not 0 <= draws <= total:
        raise ValueError(f"{draws} draws from {total} rollouts with {wins} wins")
    ways = sum(
        math.comb(wins, won) * math.comb(total - wins, draws - won)
        for won in range(max(0, least), draws + 1)
    )
    return ways / math.comb(total, draws)


def _gaps(first: Table, second: Table) -> NDArray[np.float64]:
    """First minus second, [seeds, tasks]."""
    one, other = (np.asarray(table, dtype=np.float64) for table in (first, second))
    if one.shape != other.shape or one.ndim != 2 or one.size == 0:
        raise ValueError(f"paired tables of shapes {one.shape} and {other.shape}")
    return one - other


def _sample(values: Sequence[float]) -> NDArray[np.float64]:
    if len(values) == 0:
        raise ValueError("an empty sample has no mean")
    return np.asarray(values, dtype=np.float64)
