"""A synthetic shop in the official schema: settings + seed → records, processed like official ones.

Products come in families (a noun such as `granola`), and a search finds a whole family. Each
product has two attributes in its title, and options that lack some values. Each source of
difficulty has a setting:

    family_size       siblings that a search cannot separate → more pages to go through
    look_alikes       siblings with the same attributes → several products to open
    missing_options   option values that a product lacks → look-alikes to back out of
    search_noise      descriptions that name missing attributes → the right product ranks lower
    price_spread      different prices within a family → look-alikes that are too expensive

Every goal can be won: its product has the attributes, options and price that it asks for, and a
search for them finds it. (With `compat=True`, some synthetic goals cannot be won, as in the
original.)
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, islice
from math import ceil
from typing import Any

from eef.envs.webshop.lexicon import BRANDS, OPTION_VALUES, Family, families
from eef.envs.webshop.official import Records
from eef.envs.webshop.settings import SyntheticSettings

OPENINGS = ("i am looking for a", "i need a", "find me a", "i would like a")
SYLLABLES = (
    "ba", "ce", "di", "fo", "gu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "zu", "ne",
)  # fmt: skip
STRIDE = 387_420_489  # 3^18 is coprime to any power of ten, so every number occurs once

Item = dict[str, Any]
Attributes = tuple[str, ...]


def generate(settings: SyntheticSettings) -> Records:
    """The contents of the three official files for a shop with these settings.

    Each product has one human-style instruction (`goals="human"`), and the text that is extended to
    one goal per combination of its options (`goals="synthetic"`).
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
    """Asins in scattered order, so that ties by asin reveal nothing; below 1,000 in small shops."""
    numbers = 1_000 if settings.products <= 1_000 else 1_000_000
    offset = random.Random(settings.seed).randrange(numbers)
    return (f"B{(index * STRIDE + offset) % numbers:09d}" for index in count())


def _families(number: int, rng: random.Random) -> list[Family]:
    """The families of the lexicon in random order, then copies of them with coined nouns.

    A coined noun is a single word. If it were `bababa shirt`, a search for `shirt` would find it,
    too, and in a large shop the real shirts would not be among the 50 results.
    """
    known = list(families())
    rng.shuffle(known)
    coined = [
        replace(known[index % len(known)], noun=_coined(index))
        for index in range(number - len(known))
    ]
    return known[:number] + coined


def _coined(index: int) -> str:
    """A made-up word for each index: its hexadecimal digits as syllables, at least three.

    >>> _coined(0), _coined(17)
    ('bababa', 'bacece')
    """
    digits = f"{index:03x}"
    return "".join(SYLLABLES[int(digit, 16)] for digit in digits)


def _siblings(
    family: Family, asins: list[str], settings: SyntheticSettings, rng: random.Random
) -> list[tuple[Item, Attributes]]:
    """The products of one family, each with its attributes."""
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
    """The option values that a product has, by type of option."""
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
    """One product in the official schema.

    Its description contains the `lacking` attributes with their words reversed, so that search
    finds the words but the reward does not find the phrase.
    """
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
