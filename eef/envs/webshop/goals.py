"""Goal, Goals: the products that shoppers are asked to buy.

Goals are derived from the catalog in the original's order and shuffled as in the original. Tasks
refer to goals by index; the reward compares a purchase with a goal.
"""

from __future__ import annotations

import random
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from eef.envs.webshop.catalog import NO_GOALS, Catalog, Product

SHUFFLE_SEED = 233
PRICE_BOUNDS = range(10, 1000, 10)
NO_BOUND = 1_000_000
CACHED_GOALS = 1024

Numbers = Sequence[int] | np.ndarray


@dataclass(frozen=True, slots=True)
class Goal:
    """One thing to buy: the product it was derived from, what is asked for, and the upper price.

    `index` is the official goal index, `query` the product's kind (`console tables`). The `options`
    of a synthetic goal are (name, value) pairs; those of a human goal are plain values.
    """

    index: int
    asin: str
    query: str
    instruction: str
    attributes: tuple[str, ...]
    options: tuple[tuple[str, str], ...] | tuple[str, ...]
    price_upper: float


class Prices:
    """The price of each product, drawn from its price range if it has one.

    These draws, and then the goals' upper bounds, come from one random generator, in product order.
    """

    def __init__(self, catalog: Catalog, rng: random.Random) -> None:
        low, high = catalog.prices[:, 0], catalog.prices[:, 1]
        self._prices = low.copy()
        for at in np.flatnonzero(~np.isnan(high)).tolist():
            self._prices[at] = rng.uniform(float(low[at]), float(high[at]))

    def __getitem__(self, position: int) -> float:
        return float(self._prices[position])


def draw_bound(price: float, rng: random.Random) -> int:
    """A goal's upper price: the higher of two draws from the next four multiples of ten.

    NO_BOUND if fewer than two of them are below 1,000.
    """
    first = bisect_right(PRICE_BOUNDS, price)
    above = PRICE_BOUNDS[first : first + 4]
    return max(rng.sample(above, 2)) if len(above) >= 2 else NO_BOUND


def price_words(bound: int) -> str:
    """The clause of an instruction that states the upper price; "" for NO_BOUND."""
    return "" if bound == NO_BOUND else f", and price lower than {bound:.2f} dollars"


class Goals:
    """All goals in the official order. Only numbers are stored; goals are built on access.

    Source i is the product at `positions[i]`, or a human instruction `records[i]` for it. It yields
    `sizes[i]` goals, all with the upper price `bounds[i]`. Goals are numbered source by source;
    `order` is a permutation of these numbers.
    """

    def __init__(
        self, catalog: Catalog, positions: Numbers, sizes: np.ndarray, bounds: Sequence[int],
        order: Numbers, records: Sequence[dict[str, Any]] | None = None,
    ) -> None:  # fmt: skip
        self._catalog, self._positions, self._bounds, self._records = (
            catalog,
            positions,
            bounds,
            records,
        )
        self._ends, self._order = np.cumsum(sizes), order
        self._recent = lru_cache(CACHED_GOALS)(self._make)

    @classmethod
    def synthetic(
        cls, catalog: Catalog, prices: Prices, rng: random.Random, order: Numbers | None = None
    ) -> Goals:
        """One goal per combination of options of each product that has an instruction.

        `order` is the result of `shuffled_goals`, computed if None.
        """
        positions = np.flatnonzero(catalog.combinations != NO_GOALS)
        bounds = array("i", (draw_bound(prices[at], rng) for at in positions.tolist()))
        sizes = catalog.combinations[positions]
        return cls(
            catalog,
            positions,
            sizes,
            bounds,
            shuffled_goals(int(sizes.sum())) if order is None else order,
        )

    @classmethod
    def human(cls, catalog: Catalog, prices: Prices, rng: random.Random) -> Goals:
        """One goal per human instruction that asks for an attribute."""
        bounds = [draw_bound(prices[at], rng) for at, _ in catalog.human]
        return cls(
            catalog, [at for at, _ in catalog.human], np.ones(len(bounds), dtype=np.int64), bounds,
            shuffled_goals(len(bounds)), [record for _, record in catalog.human],
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Goal:
        return self._recent(index)

    def _make(self, index: int) -> Goal:
        number = int(self._order[index])
        at = int(np.searchsorted(self._ends, number, side="right"))
        product, bound = self._catalog[int(self._positions[at])], self._bounds[at]
        if self._records is not None:
            return _human_goal(index, product, self._records[at], bound)
        combination = number - (int(self._ends[at - 1]) if at else 0)
        return _synthetic_goal(index, product, combination, bound)

    def __iter__(self) -> Iterator[Goal]:
        return (self._make(index) for index in range(len(self)))


def shuffled_goals(count: int) -> array[int]:
    """The numbers of all goals in the official order: shuffled with SHUFFLE_SEED."""
    order = array("q", range(count))
    random.Random(SHUFFLE_SEED).shuffle(order)
    return order


def _human_goal(index: int, product: Product, record: dict[str, Any], bound: int) -> Goal:
    return Goal(
        index=index,
        asin=product.asin,
        query=product.query,
        instruction=record["instruction"].strip(".") + price_words(bound),
        attributes=tuple(record["attributes"]),
        options=tuple(record["options"]),
        price_upper=bound,
    )


def _synthetic_goal(index: int, product: Product, combination: int, bound: int) -> Goal:
    options = _combination(product, combination)
    words = ", and ".join(f"{name}: {value}" for name, value in options)
    return Goal(
        index=index,
        asin=product.asin,
        query=product.query,
        instruction=f"{product.instruction}{' with ' if words else ''}{words}{price_words(bound)}",
        attributes=product.instruction_attributes,
        options=options,
        price_upper=bound,
    )


def _combination(product: Product, number: int) -> tuple[tuple[str, str], ...]:
    """Combination `number` of a product's options, ordered by name, the last varying fastest."""
    chosen: list[tuple[str, str]] = []
    for name in sorted(product.options, reverse=True):
        values = product.options[name]
        number, at = divmod(number, len(values))
        chosen.append((name, values[at]))
    return tuple(reversed(chosen))
