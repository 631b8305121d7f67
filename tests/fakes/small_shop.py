"""A hand-made shop of six products in the official schema, small enough to check by eye."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from eef.envs.registry import make_env
from eef.envs.webshop import WebShop


def make_shop(data: Path | str = "synthetic", **settings: Any) -> WebShop:
    """A shop, with its settings checked as those of a recipe are."""
    env = make_env("webshop", {"data": str(data), **settings})
    assert isinstance(env, WebShop)
    return env


def item(asin: str, name: str, query: str, **fields: Any) -> dict[str, Any]:
    """A product in the official schema; `fields` replace the defaults."""
    return {
        "asin": asin,
        "name": name,
        "full_description": "",
        "pricing": "$12.5",
        "small_description": ["soft", "warm & light"],
        "customization_options": "",
        "category": "fashion",
        "query": query,
        "product_category": "Clothing › Women › Socks",
        **fields,
    }


def choices(*values: str) -> list[dict[str, Any]]:
    return [{"value": value, "url": None, "price": None} for value in values]


ITEMS = [
    item(
        "B000000001",
        "Merino Wool Socks",
        " Wool Socks ",
        full_description="Socks for cold feet.\nWash cold.",
        customization_options={
            "Color": choices("Dark Blue", "red", 'an "odd" one'),
            "Size": choices("S/M", "L"),
        },
    ),
    item(
        "B000000002",
        "Cotton Socks",
        "wool socks",
        pricing="$5.00 - $9.50",
        customization_options={"Size": None},
    ),
    item(
        "B000000003",
        "Oak Table",
        "tables",
        product_category="Home › Furniture › Tables",
        category="garden",
        pricing="",
    ),
    item("B000000004", "Wool Hat", "hats", small_description=["", "knitted"]),
    item("B000000005", "Plain Socks", "wool socks"),
    item("B000000001", "A second entry of the first", "wool socks"),
    item("nan", "Not usable", "wool socks"),
    item("B0000000061", "Its asin is too long", "wool socks"),
]
NOTES = {
    "B000000001": {
        "attributes": ["machine wash", "merino wool"],
        "instruction": "Find me wool socks with merino wool",
        "instruction_attributes": ["merino wool"],
    },
    "B000000002": {"attributes": ["cotton"]},
    "B000000004": {
        "attributes": ["hand wash"],
        "instruction": "Find me a hat",
        "instruction_attributes": ["hand wash", "knitted"],
    },
}
HUMAN = {
    "B000000001": [
        {
            "asin": "B000000001",
            "instruction": "i want merino socks, dark blue.",
            "instruction_attributes": ["merino wool"],
            "instruction_options": ["dark blue"],
        },
        {
            "asin": "B000000001",
            "instruction": "skipped",
            "instruction_attributes": [],
            "instruction_options": [],
        },
    ]
}


def write_shop(
    directory: Path, *, items: Any = ITEMS, notes: Any = NOTES, human: Any = HUMAN
) -> Path:
    """The three official files."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("items_shuffle", items),
        ("items_ins_v2", notes),
        ("items_human_ins", human),
    ):
        (directory / f"{name}.json").write_text(
            json.dumps(content, ensure_ascii=False), encoding="utf-8"
        )
    return directory


def first_of(env: WebShop, asin: str) -> int:
    """The first goal of a product."""
    return next(goal.index for goal in env.shop.goals if goal.asin == asin)
