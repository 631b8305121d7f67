"""Write a catalog in the schema of WebShop's official files: `python benchmarks/catalog.py DIR`.

Each product is as large as an official one (about 4.6 kB), and similar in everything measured on
the official 1,000 products: words of titles and descriptions, bullets, options, prices, attributes,
instructions, queries. Most words are coined; they follow Zipf's law. Fields that no loader reads
(pictures, facts, sellers) come from a stock of 1,000. Products are written one by one, so memory
use does not depend on `--products`.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

OFFICIAL = 1_181_430
HUMAN = 12_087
SHELVES = ("beauty", "electronics", "garden", "fashion", "grocery")
_COMMON = (
    "for the with and of women men black white color size pack long sleeve shirt shoes gift home "
    "kitchen set free gluten steel leather cotton casual light water oil hair skin table chair "
    "lamp cable phone case bag cover wall art wood dress pants high quality soft waterproof "
    "portable natural organic fresh sugar coffee tea snack bars dry heavy duty easy clean summer "
    "winter fashion large small medium blue red green"
)
COMMON = _COMMON.split()
# With the frequencies of the official products.
OPTION_NAMES = (
    ["color"] * 286 + ["size"] * 268 + ["style"] * 21 + ["flavor name"] * 12 + ["fit type"] * 11
)
SYLLABLES = (
    "ba", "cor", "den", "fi", "gal", "hu", "ki", "lor", "men", "no", "pra", "qui", "ras", "tel",
    "vo", "zan",
)  # fmt: skip


class Words:
    """Random words that follow Zipf's law, drawn 100,000 at a time."""

    def __init__(self, seed: int, size: int = 400_000) -> None:
        self._rng = np.random.default_rng(seed)
        self._words = np.array(
            [*COMMON, *(_coined(at) for at in range(size - len(COMMON)))], dtype=object
        )
        weights = 1 / (np.arange(size) + 5.0)
        self._cumulative = np.cumsum(weights / weights.sum())
        self._drawn: list[str] = []
        self._at = 0

    def take(self, count: int) -> list[str]:
        if self._at + count > len(self._drawn):
            places = np.searchsorted(self._cumulative, self._rng.random(100_000))
            self._drawn, self._at = (
                self._words[np.minimum(places, len(self._words) - 1)].tolist(),
                0,
            )
        self._at += count
        return self._drawn[self._at - count : self._at]


def _coined(number: int) -> str:
    parts = []
    while number or not parts:
        number, digit = divmod(number, len(SYLLABLES))
        parts.append(SYLLABLES[digit])
    return "".join(parts)


def products(count: int, seed: int) -> Iterator[tuple[dict[str, Any], dict[str, Any], str]]:
    """Items in order, each with its attributes record and the JSON text of its unread fields."""
    rng, words = random.Random(seed), Words(seed)
    phrases = [" ".join(words.take(2)) for _ in range(600)]
    queries = [" ".join(words.take(2)) for _ in range(246)]
    stock = [json.dumps(_unread_fields(number, rng, words)) for number in range(1000)]
    for number in range(count):
        yield (
            _item(number, rng, words, queries),
            _notes(rng, words, phrases),
            stock[number % len(stock)],
        )


def _item(number: int, rng: random.Random, words: Words, queries: list[str]) -> dict[str, Any]:
    query = queries[int(rng.random() * len(queries))]
    asin = f"B{number * 387_420_489 % 10**9:09d}"
    title = " ".join(words.take(min(41, max(4, int(rng.gauss(18, 6)))))).title()
    bullets = [
        " ".join(words.take(4 + int(28 * rng.random()))) for _ in range(3 + int(5 * rng.random()))
    ]
    if rng.random() < 0.07:
        bullets[0] = ""
    return {
        "asin": asin, "name": title, "pricing": _pricing(rng), "small_description": bullets,
        "full_description": _description(rng, words),
        "product_category": f"Shop › {query.title()} › {title.split(' ', 1)[0]}",
        "customization_options": _options(rng, words, asin), "category": SHELVES[number % 5],
        "query": query,
    }  # fmt: skip


def _description(rng: random.Random, words: Words) -> str:
    if rng.random() < 0.3:
        return ""
    return " ".join(words.take(3 + int(rng.lognormvariate(4.1, 0.8))))


def _unread_fields(number: int, rng: random.Random, words: Words) -> dict[str, Any]:
    return {
        "product_information": {f"fact {at}": " ".join(words.take(3)) for at in range(12)},
        "list_price": "", "brand": "Visit the Store",
        "brand_url": f"https://shop.example/stores/{number}", "availability_quantity": None,
        "availability_status": "In Stock.",
        "images": [f"https://images.example/{number}-{at}.jpg" for at in range(6)],
        "average_rating": round(rng.uniform(1, 5), 1), "total_reviews": rng.randrange(5000),
        "seller_name": None, "total_answered_questions": None, "model": str(number),
        "seller_id": None, "fulfilled_by_amazon": None, "fast_track_message": "",
        "aplus_present": "", "page": rng.randint(1, 20),
        "small_description_old": "About this item " + " ".join(words.take(150)),
    }  # fmt: skip


def _pricing(rng: random.Random) -> str:
    price, kind = rng.lognormvariate(3.4, 0.8), rng.random()
    if kind < 0.089:
        return ""
    return f"${price:.2f}" if kind < 0.907 else f"${price:.2f} - ${price + rng.uniform(1, 40):.2f}"


def _options(rng: random.Random, words: Words, asin: str) -> dict[str, Any] | str:
    types = rng.choices((0, 1, 2, 3), (577, 245, 165, 13))[0]
    return {
        name: [
            {
                "is_selected": False, "url": f"https://shop.example/dp/{asin}?option={at}",
                "price_string": "", "value": " ".join(words.take(1 + at % 2)), "price": 0,
                "image": f"https://images.example/{asin}-{at}.jpg",
            }
            for at in range(min(45, 2 + int(rng.expovariate(1 / 3.7))))
        ]
        for name in {rng.choice(OPTION_NAMES) for _ in range(types)}
    } or ""  # fmt: skip


def _notes(rng: random.Random, words: Words, phrases: list[str]) -> dict[str, Any]:
    attributes = rng.sample(
        phrases, 0 if rng.random() < 0.185 else min(27, 1 + int(rng.expovariate(1 / 2.4)))
    )
    notes: dict[str, Any] = {"attributes": attributes}
    if attributes and rng.random() < 0.5:
        wanted = attributes[:3]
        text = f"Find me {', '.join(wanted)} {' '.join(words.take(3))}"
        notes |= {"instruction": text, "instruction_attributes": wanted}
    return notes


def write(directory: Path, count: int, seed: int) -> None:
    """Write the three official files, with human instructions for up to HUMAN products."""
    directory.mkdir(parents=True, exist_ok=True)
    human: dict[str, Any] = {}
    with (
        (directory / "items_shuffle.json").open("w", encoding="utf-8") as items,
        (directory / "items_ins_v2.json").open("w", encoding="utf-8") as attributes,
    ):
        for number, (item, notes, unread) in enumerate(products(count, seed)):
            items.write(f"{', ' if number else '['}{json.dumps(item)[:-1]}, {unread[1:]}")
            attributes.write(f'{", " if number else "{"}"{item["asin"]}": {json.dumps(notes)}')
            if (
                notes.get("instruction")
                and len(human) < HUMAN
                and number % max(1, count // (3 * HUMAN)) == 0
            ):
                human[item["asin"]] = [_asked(item, notes)]
        items.write("]")
        attributes.write("}")
    (directory / "items_human_ins.json").write_text(json.dumps(human), encoding="utf-8")


def _asked(item: dict[str, Any], notes: dict[str, Any]) -> dict[str, Any]:
    options = [values[0]["value"] for values in (item["customization_options"] or {}).values()]
    return {
        "asin": item["asin"], "instruction": f"i want {notes['instruction'][8:]}.",
        "attributes": notes["attributes"], "options": options,
        "instruction_attributes": notes["instruction_attributes"], "instruction_options": options,
        "assignment_id": "", "worker_id": "",
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write a catalog in the schema of WebShop's official files."
    )
    parser.add_argument("directory", type=Path, help="output directory")
    parser.add_argument("--products", type=int, default=OFFICIAL, help="number of products")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    write(given.directory, given.products, given.seed)


if __name__ == "__main__":
    main()
