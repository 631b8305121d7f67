"""Curves of a study: mean and range over seeds, by round, by cost, by option and by rollouts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from eef.analysis.aggregate import Aggregate, MethodAggregate
from eef.methods.labels import LabelRule


class SeedRange(NamedTuple):
    """Mean, lowest and highest value over seeds."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> SeedRange:
        """The range of at least one value."""
        return cls(fmean(values), min(values), max(values))


SeedCurve = Sequence[tuple[float, SeedRange]]
"""Ranges with their positions on the horizontal axis, from left to right."""


@dataclass(frozen=True, slots=True)
class OptionSweep:
    """Win rates of a method over the values of one numeric option, everything else equal.

    All values are measured on the same `seeds`.
    """

    algorithm: str
    option: str
    seeds: tuple[int, ...]
    curve: SeedCurve


def learning_curve(item: MethodAggregate) -> list[tuple[int, SeedRange]]:
    """The win rate after each evaluated round."""
    return [
        (round, SeedRange.of(rates))
        for round, each in item.rounds.items()
        if round
        and round in item.explored
        and (rates := [rate for rate in each if rate is not None])
    ]


def option_sweeps(aggregate: Aggregate) -> Iterator[OptionSweep]:
    """A sweep for each numeric option that is the only difference of some variants.

    An option without a value in the method itself (`cap` of `rft`) has no position on the axis.
    """
    methods = {item.name: item for item in aggregate.methods}
    swept: dict[tuple[str, str], list[tuple[float, MethodAggregate]]] = {}
    for item in aggregate.variants:
        if item.algorithm not in methods:  # no trial of the method itself
            continue
        given = methods[item.algorithm].options
        numbers = {
            key: value
            for key, value in item.changes.items()
            if type(value) in (int, float) and type(given.get(key)) in (int, float)
        }
        if len(item.changes) == len(numbers) == 1:
            [(key, value)] = numbers.items()
            swept.setdefault((item.algorithm, key), []).append((float(value), item))
    for (algorithm, key), variants in swept.items():
        variants.append((float(methods[algorithm].options[key]), methods[algorithm]))
        started = sorted((each for each in variants if each[1].known), key=lambda each: each[0])
        seeds = _common_seeds(aggregate, [item for _, item in started])
        if started and seeds:
            curve = [
                (value, SeedRange.of(aggregate.rates_in(item, seeds))) for value, item in started
            ]
            yield OptionSweep(algorithm, key, seeds, curve)


def false_state_curve(item: MethodAggregate, rule: LabelRule, sizes: Collection[int]) -> SeedCurve:
    """The share of false state labels by number of rollouts per state."""
    return [
        (n, SeedRange.of([noise.false_rates(n, rule).states for noise in item.label_noise]))
        for n in sizes
    ]


def _common_seeds(aggregate: Aggregate, items: Sequence[MethodAggregate]) -> tuple[int, ...]:
    """The seeds that all of some methods have finished."""
    return tuple(
        seed for seed in aggregate.seeds if all(aggregate.rates_in(item, [seed]) for item in items)
    )
