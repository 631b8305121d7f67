"""A generated shop in the official schema: settings + seed → records, which then take the same road as official data.

Products come in families (a noun such as `granola`) and sit in the search results beside their siblings. Each has two
attributes in its title, and options of which it lacks some values. What makes a goal hard can be set one by one:

    family_size       siblings the search cannot tell apart → more pages to turn
    look_alikes       siblings with the same attributes → several products to open
    missing_options   option values a product lacks → look-alikes that must be left again
    search_noise      descriptions that name attributes the product lacks → the right one is not ranked first
    price_spread      prices of a family apart → look-alikes that are too dear

Every goal can be won: its product carries the attributes, options and price it asks for.
"""

from __future__ import annotations

import random
from math import ceil
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from eef.envs.webshop.catalogue import Records
from eef.envs.webshop.lexicon import BRANDS, OPTION_VALUES, Family, families

OPENINGS = ("i am looking for a", "i need a", "find me a", "i would like a")
SYLLABLES = ("ba", "ce", "di", "fo", "gu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "zu", "ne")


class SyntheticSettings(BaseModel):
    """What a synthetic shop is made of; equal settings make equal shops."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = Field(0, description="seed of the whole catalogue")
    products: int = Field(1000, ge=100, le=1_000_000, description="number of products")
    family_size: int = Field(12, ge=1, le=40, description="products of one kind (mean); 50 is the most a search shows")
    attribute_pool: int = Field(6, ge=2, le=10, description="attributes a family draws from; fewer = more are shared")
    look_alikes: float = Field(0.4, ge=0, le=1, description="share of products with the attributes of a sibling")
    missing_options: float = Field(0.5, ge=0, le=0.8, description="share of option values a product lacks")
    option_types: int = Field(2, ge=0, le=3, description="most option types a product has")
    search_noise: float = Field(1.0, ge=0, le=1, description="chance that a description names an attribute it lacks")
    price_spread: int = Field(8, ge=0, le=500, description="dollars between a family's cheapest and dearest product")


def generate(settings: SyntheticSettings) -> Records:
    """The three official files' contents for a shop of these settings.

    Each product has one human-style instruction (`goals="human"`) and the text which the official generator extends
    to one goal for each combination of its options (`goals="synthetic"`).
    """
    rng = random.Random(settings.seed)
    items: list[dict[str, Any]] = []
    attributes: dict[str, dict[str, Any]] = {}
    human: dict[str, list[dict[str, Any]]] = {}
    number = _numbering(settings.seed)
    for family in _families(ceil(settings.products / settings.family_size), rng):
        room = min(settings.products - len(items), settings.family_size)
        for item, chosen in _siblings(family, room, settings, rng, number):
            asin = item["asin"]
            items.append(item)
            attributes[asin] = _attribute_record(family, chosen)
            human[asin] = [_instruction_record(asin, family, chosen, item["customization_options"], rng)]
    order = list(range(len(items)))
    rng.shuffle(order)
    return Records(items=[items[index] for index in order], attributes=attributes, human=human)


class _numbering:
    """Product numbers 000000–999999 in a scattered order (a bijection), so that ties by asin are no clue."""

    def __init__(self, seed: int) -> None:
        self._next = 0
        self._offset = random.Random(seed).randrange(1_000_000)

    def __call__(self) -> str:
        number = (self._next * 387_420_489 + self._offset) % 1_000_000
        self._next += 1
        return f"B000{number:06d}"


def _families(count: int, rng: random.Random) -> list[Family]:
    """`count` families: those of the lexicon in random order, then new ones named with coined words."""
    known = list(families())
    rng.shuffle(known)
    chosen = known[:count]
    for index in range(count - len(chosen)):
        base = known[index % len(known)]
        noun = f"{_coined(index)} {base.noun}"
        chosen.append(Family(noun, base.category, base.shelf, base.attributes, base.options))
    return chosen


def _coined(index: int) -> str:
    """A made-up word for each index: its digits in base 16 as syllables.

    >>> _coined(0), _coined(17)
    ('bababa', 'bacece')
    """
    digits = [index >> 8 & 15, index >> 4 & 15, index & 15]
    high = index >> 12
    while high:
        digits.insert(0, high & 15)
        high >>= 4
    return "".join(SYLLABLES[digit] for digit in digits)


def _siblings(
    family: Family, count: int, settings: SyntheticSettings, rng: random.Random, number: _numbering
) -> list[tuple[dict[str, Any], tuple[str, ...]]]:
    """`count` products of one family with the attributes each has."""
    pool = rng.sample(family.attributes, settings.attribute_pool)
    base_price = rng.randrange(8, 90)
    types = rng.sample(family.options, min(settings.option_types, len(family.options)))
    siblings: list[tuple[dict[str, Any], tuple[str, ...]]] = []
    for _ in range(count):
        if siblings and rng.random() < settings.look_alikes:
            chosen = rng.choice(siblings)[1]
        else:
            chosen = tuple(rng.sample(pool, 2))
        price = base_price + rng.randint(0, settings.price_spread)
        item = _item(number(), family, chosen, pool, f"${price}.99", _options(types, settings, rng), settings, rng)
        siblings.append((item, chosen))
    return siblings


def _options(types: list[str], settings: SyntheticSettings, rng: random.Random) -> dict[str, list[str]]:
    options = {}
    for name in types:
        values = OPTION_VALUES[name]
        kept = max(2, round(len(values) * (1 - settings.missing_options)))
        options[name] = rng.sample(values, kept)
    return options


def _item(
    asin: str, family: Family, chosen: tuple[str, ...], pool: list[str], price: str, options: dict[str, list[str]],
    settings: SyntheticSettings, rng: random.Random,
) -> dict[str, Any]:
    """One product in the official schema. Noise names a lacking attribute with its words turned round, so that the
    search finds the words and the reward does not find the phrase."""
    lacking = [name for name in pool if name not in chosen and rng.random() < settings.search_noise]
    noise = [" ".join(reversed(name.split())) for name in lacking]
    return {
        "asin": asin,
        "name": f"{rng.choice(BRANDS)} {' '.join(chosen)} {family.noun}".title(),
        "full_description": f"Not to be mistaken for: {', '.join(noise)}." if noise else "",
        "small_description": [f"{family.noun} for every day", *chosen],
        "pricing": price,
        "category": family.shelf,
        "product_category": family.category,
        "query": family.noun,
        "images": [""],
        "customization_options": {
            name: [{"value": value, "is_selected": False, "url": "", "image": ""} for value in values]
            for name, values in options.items()
        } or "",
    }


def _attribute_record(family: Family, chosen: tuple[str, ...]) -> dict[str, Any]:
    return {
        "attributes": list(chosen),
        "instruction": f"{OPENINGS[0]} {', '.join(chosen)} {family.noun}",
        "instruction_attributes": list(chosen),
    }


def _instruction_record(
    asin: str, family: Family, chosen: tuple[str, ...], options: Any, rng: random.Random
) -> dict[str, Any]:
    """A human-style instruction: the product's attributes and one value of each of its options."""
    wanted = {name: rng.choice(values)["value"] for name, values in (options or {}).items()}
    clause = ", and ".join(f"{name}: {value}" for name, value in wanted.items())
    text = f"{rng.choice(OPENINGS)} {', '.join(chosen)} {family.noun}" + (f" with {clause}" if clause else "")
    return {
        "asin": asin,
        "instruction": text,
        "attributes": list(chosen),
        "options": [f"{name}: {value}" for name, value in wanted.items()],
        "instruction_attributes": list(chosen),
        "instruction_options": list(wanted.values()),
    }
