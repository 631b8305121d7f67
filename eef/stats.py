"""Numbers for reports: success rate, intervals, paired tests over the same tasks. Pure.

All samples are one value a task; paired samples hold the same tasks in the same order. Empty samples and
pairs of unequal length raise ValueError.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


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


def _sample(values: Sequence[float]) -> NDArray[np.float64]:
    if len(values) == 0:
        raise ValueError("an empty sample has no mean")
    return np.asarray(values, dtype=np.float64)
