"""Goal, Goals: what shoppers are asked to buy.

Made of the catalogue in the original's order and shuffled as there. Stands between the catalogue and the
tasks; the reward compares a purchase with a goal.
"""

from __future__ import annotations

import math
import random
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from eef.envs.webshop.catalogue import Catalogue, Product
from eef.errors import DataError

SHUFFLE_SEED = 233
PRICE_BOUNDS = range(10, 1000, 10)
NO_BOUND = 1_000_000
RECENT_GOALS = 1024


@dataclass(frozen=True, slots=True)
class Goal:
    """One thing to buy: the product it was made of, what is asked for, and the price not to exceed.

    `index` is the official goal index, `query` the product's kind (`console tables`). `options` of a
    synthetic goal are (name, value) pairs, those of a human goal plain values.
    """

    index: int
    asin: str
    query: str
    instruction: str
    attributes: tuple[str, ...]
    options: tuple[tuple[str, str], ...] | tuple[str, ...]
    price_upper: float


class Prices:
    """What each product costs: its price, or a draw from its price range.

    Draws, and then the goals' upper bounds, come from one `random.Random(seed)` in the order of the products.
    """

    def __init__(self, catalogue: Catalogue, rng: random.Random) -> None:
        self._prices = array("d", (_price(product.prices, rng) for product in catalogue))

    def __getitem__(self, position: int) -> float:
        return self._prices[position]


def _price(prices: tuple[float, ...], rng: random.Random) -> float:
    return prices[0] if len(prices) == 1 else rng.uniform(*prices)


def draw_bound(price: float, rng: random.Random) -> int:
    """The upper price of a goal: the higher of two of the four tens above the price; NO_BOUND near 1,000."""
    above = [bound for bound in PRICE_BOUNDS if bound > price][:4]
    return max(rng.sample(above, 2)) if len(above) >= 2 else NO_BOUND


def price_words(bound: int) -> str:
    return "" if bound == NO_BOUND else f", and price lower than {bound:.2f} dollars"


class Goals:
    """All goals in the official order. Only numbers are kept: a goal is made when it is asked for."""

    def __init__(self, catalogue: Catalogue, sources: Sequence[_Source]) -> None:
        self._catalogue = catalogue
        self._sources = sources
        self._ends = array("q")
        for source in sources:
            self._ends.append((self._ends[-1] if self._ends else 0) + source.size)
        self._order = array("q", range(self._ends[-1] if self._ends else 0))
        random.Random(SHUFFLE_SEED).shuffle(self._order)
        self._recent = lru_cache(RECENT_GOALS)(self._make)

    @classmethod
    def synthetic(cls, catalogue: Catalogue, prices: Prices, rng: random.Random) -> Goals:
        """A goal for each combination of options of each product that has an instruction."""
        return cls(
            catalogue,
            [
                _Source(at, math.prod(map(len, product.options.values())), draw_bound(prices[at], rng), None)
                for at, product in enumerate(catalogue)
                if product.instruction
            ],
        )

    @classmethod
    def written(cls, catalogue: Catalogue, prices: Prices, rng: random.Random) -> Goals:
        """A goal for each instruction a person wrote, if it asks for an attribute."""
        return cls(
            catalogue,
            [
                _Source(at, 1, draw_bound(prices[at], rng), record)
                for at, product in enumerate(catalogue)
                for record in catalogue.human.get(product.asin, ())
                if _asked(record, product.asin)
            ],
        )

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> Goal:
        return self._recent(index)

    def _make(self, index: int) -> Goal:
        number = self._order[index]
        at = bisect_right(self._ends, number)
        source = self._sources[at]
        product = self._catalogue[source.position]
        if source.record is not None:
            return _human_goal(index, product, source.record, source.bound)
        return _synthetic_goal(index, product, number - (self._ends[at] - source.size), source.bound)

    def __iter__(self) -> Iterator[Goal]:
        return (self._make(index) for index in range(len(self)))


@dataclass(frozen=True, slots=True)
class _Source:
    """What goals are made of: a product's position, how many goals, their upper price, a person's record."""

    position: int
    size: int
    bound: int
    record: dict[str, Any] | None


def _asked(record: dict[str, Any], asin: str) -> bool:
    try:
        return len(record["instruction_attributes"]) > 0 and isinstance(record["instruction"], str)
    except (KeyError, TypeError) as error:
        raise DataError(
            f"WebShop data: human instruction of {asin}: expected `instruction` and `instruction_attributes`"
        ) from error


def _human_goal(index: int, product: Product, record: dict[str, Any], bound: int) -> Goal:
    return Goal(
        index=index,
        asin=product.asin,
        query=product.query,
        instruction=record["instruction"].strip(".") + price_words(bound),
        attributes=tuple(record["instruction_attributes"]),
        options=tuple(record.get("instruction_options", ())),
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
    """The number-th combination of all options in the order of their names, the last varying fastest."""
    chosen: list[tuple[str, str]] = []
    for name in sorted(product.options, reverse=True):
        values = product.options[name]
        number, at = divmod(number, len(values))
        chosen.append((name, values[at]))
    return tuple(reversed(chosen))
