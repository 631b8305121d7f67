"""A generated shop in the official schema: settings + seed → records, which then take the same road as official data.

Products come in families (a noun such as `granola`) and sit in the search results beside their siblings. Each has two
attributes in its title, and options of which it lacks some values. What makes a goal hard can be set one by one:

    family_size       siblings the search cannot tell apart → more pages to turn
    look_alikes       siblings with the same attributes → several products to open
    missing_options   option values a product lacks → look-alikes that must be left again
    search_noise      descriptions that name attributes the product lacks → the right one is not ranked first
    price_spread      prices of a family apart → look-alikes that are too dear

Every goal can be won: its product carries the attributes, options and price it asks for, and a search for them shows
it. (With `compat=True` the original's comparison of options loses some synthetic goals here as well.)
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice
from math import ceil
from typing import Any

from pydantic import Field

from eef.config import Settings
from eef.envs.webshop.lexicon import BRANDS, OPTION_VALUES, Family, families
from eef.envs.webshop.official import Records

OPENINGS = ("i am looking for a", "i need a", "find me a", "i would like a")
SYLLABLES = (
    "ba",
    "ce",
    "di",
    "fo",
    "gu",
    "ka",
    "le",
    "mi",
    "no",
    "pu",
    "ra",
    "se",
    "ti",
    "vo",
    "zu",
    "ne",
)
STRIDE = 387_420_489  # 3^18 and so without a divisor in common with a power of ten: every number comes once

Item = dict[str, Any]
Attributes = tuple[str, ...]


class SyntheticSettings(Settings):
    """What a synthetic shop is made of; equal settings make equal shops."""

    seed: int = 0
    """Seed of the whole catalog."""

    products: int = Field(default=1000, ge=100, le=1_000_000)
    """Number of products."""

    family_size: int = Field(default=12, ge=1, le=40)
    """Products of one kind; a search shows 50 at most."""

    attribute_pool: int = Field(default=6, ge=2, le=10)
    """Attributes that the products of a family draw from; fewer are shared by more of them."""

    look_alikes: float = Field(default=0.4, ge=0, le=1)
    """Share of products with the attributes of a sibling."""

    missing_options: float = Field(default=0.5, ge=0, le=0.8)
    """Share of an option's values that a product lacks; it has two at least."""

    option_types: int = Field(default=2, ge=0, le=3)
    """Options of a product (color, size …)."""

    search_noise: float = Field(default=1.0, ge=0, le=1)
    """Chance that a product's description names an attribute of its family which it lacks."""

    price_spread: int = Field(default=8, ge=0, le=500)
    """Dollars between a family's cheapest and dearest product, at most."""


def generate(settings: SyntheticSettings) -> Records:
    """The three official files' contents for a shop of these settings.

    Each product has one human-style instruction (`goals="human"`) and the text which the official generator extends
    to one goal for each combination of its options (`goals="synthetic"`).
    """
    rng = random.Random(settings.seed)
    items: list[Item] = []
    attributes: dict[str, dict[str, Any]] = {}
    human: dict[str, list[dict[str, Any]]] = {}
    asins = _asins(settings)
    for family in _families(ceil(settings.products / settings.family_size), rng):
        room = min(settings.products - len(items), settings.family_size)
        for item, chosen in _siblings(family, list(islice(asins, room)), settings, rng):
            asin = item["asin"]
            items.append(item)
            attributes[asin] = _attribute_record(family, chosen)
            human[asin] = [
                _instruction_record(asin, family, chosen, item["customization_options"], rng)
            ]
    rng.shuffle(items)
    return Records(items=items, attributes=attributes, human=human)


def _asins(settings: SyntheticSettings) -> Iterator[str]:
    """Product numbers in a scattered order, so that ties by asin are no clue; below 1,000 in a small shop."""
    numbers = 1_000 if settings.products <= 1_000 else 1_000_000
    offset = random.Random(settings.seed).randrange(numbers)
    return (f"B{(index * STRIDE + offset) % numbers:09d}" for index in count())


def _families(number: int, rng: random.Random) -> list[Family]:
    """Families of the lexicon in random order, then copies of these whose nouns are coined.

    A coined noun is a single word. Were it `bababa shirt`, a search for a `shirt` would find it as well, and in a
    large shop the shirts themselves would not be among the 50 it shows.
    """
    known = list(families())
    rng.shuffle(known)
    coined = [
        replace(known[index % len(known)], noun=_coined(index))
        for index in range(number - len(known))
    ]
    return known[:number] + coined


def _coined(index: int) -> str:
    """A made-up word for each index: its digits in base 16 as syllables, three at least.

    >>> _coined(0), _coined(17)
    ('bababa', 'bacece')
    """
    digits = f"{index:03x}"
    return "".join(SYLLABLES[int(digit, 16)] for digit in digits)


def _siblings(
    family: Family, asins: list[str], settings: SyntheticSettings, rng: random.Random
) -> list[tuple[Item, Attributes]]:
    """The products of one family, with the attributes each has."""
    pool = rng.sample(family.attributes, settings.attribute_pool)
    base_price = rng.randrange(8, 90)
    types = rng.sample(family.options, min(settings.option_types, len(family.options)))
    siblings: list[tuple[Item, Attributes]] = []
    for asin in asins:
        if siblings and rng.random() < settings.look_alikes:
            chosen = rng.choice(siblings)[1]
        else:
            chosen = tuple(rng.sample(pool, 2))
        price = base_price + rng.randint(0, settings.price_spread)
        options = _options(types, settings, rng)
        lacking = [
            name for name in pool if name not in chosen and rng.random() < settings.search_noise
        ]
        item = _item(
            family,
            chosen,
            asin=asin,
            brand=rng.choice(BRANDS),
            price=price,
            options=options,
            lacking=lacking,
        )
        siblings.append((item, chosen))
    return siblings


def _options(
    types: list[str], settings: SyntheticSettings, rng: random.Random
) -> dict[str, list[str]]:
    """For each type of option the values that a product has."""
    options = {}
    for name in types:
        values = OPTION_VALUES[name]
        kept = max(2, round(len(values) * (1 - settings.missing_options)))
        options[name] = rng.sample(values, kept)
    return options


def _item(
    family: Family,
    chosen: Attributes,
    *,
    asin: str,
    brand: str,
    price: int,
    options: dict[str, list[str]],
    lacking: list[str],
) -> Item:
    """One product in the official schema. `lacking` attributes stand in its description with their words turned
    round, so that the search finds the words and the reward does not find the phrase."""
    noise = [" ".join(reversed(name.split())) for name in lacking]
    return {
        "asin": asin,
        "name": f"{brand} {' '.join(chosen)} {family.noun}".title(),
        "full_description": f"Not to be mistaken for: {', '.join(noise)}." if noise else "",
        "small_description": [f"{family.noun} for every day", *chosen],
        "pricing": f"${price}.99",
        "category": family.shelf,
        "product_category": family.category,
        "query": family.noun,
        "images": [""],
        "customization_options": {
            name: [
                {"value": value, "is_selected": False, "url": "", "image": ""} for value in values
            ]
            for name, values in options.items()
        }
        or "",
    }


def _attribute_record(family: Family, chosen: Attributes) -> dict[str, Any]:
    return {
        "attributes": list(chosen),
        "instruction": f"{OPENINGS[0]} {', '.join(chosen)} {family.noun}",
        "instruction_attributes": list(chosen),
    }


def _instruction_record(
    asin: str, family: Family, chosen: Attributes, options: Any, rng: random.Random
) -> dict[str, Any]:
    """A human-style instruction: the product's attributes and one value of each of its options."""
    wanted = {name: rng.choice(values)["value"] for name, values in (options or {}).items()}
    clause = ", and ".join(f"{name}: {value}" for name, value in wanted.items())
    text = f"{rng.choice(OPENINGS)} {', '.join(chosen)} {family.noun}" + (
        f" with {clause}" if clause else ""
    )
    return {
        "asin": asin,
        "instruction": text,
        "attributes": list(chosen),
        "options": [f"{name}: {value}" for name, value in wanted.items()],
        "instruction_attributes": list(chosen),
        "instruction_options": list(wanted.values()),
    }
