"""Records, Product, Catalogue: what the shop sells.

The first stage of WebShop's data: the official files' parsed
contents (read from a directory, or made by `synthetic.py`) become products, with pages, search and goals
after it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from eef.errors import DataError

DEFAULT_PRICE = 100.0
_NOT_A_PRICE = re.compile(r"[^\d.]")


@dataclass(frozen=True, slots=True)
class Records:
    """The parsed contents of the three official files, in the official schema.

    items       `items_shuffle*.json`: one dict a product
    attributes  `items_ins_v2*.json`: asin → {attributes, instruction?, instruction_attributes?}
    human       `items_human_ins.json`: asin → instruction records written by people
    """

    items: list[dict[str, Any]]
    attributes: dict[str, dict[str, Any]]
    human: dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Product:
    """One product as the shop shows it.

    `prices` are one or two dollars amounts (two: a range), `price_text` is how a page shows them. `options`
    maps an option's name to its values, in the order of the page. `instruction` is the synthetic one ("" for
    none).
    """

    asin: str
    title: str
    description: str
    bullets: tuple[str, ...]
    prices: tuple[float, ...]
    query: str
    category: str
    product_category: str
    options: dict[str, tuple[str, ...]]
    attributes: tuple[str, ...]
    instruction: str = ""
    instruction_attributes: tuple[str, ...] = ()

    @property
    def price_text(self) -> str:
        return " to ".join(f"${price}" for price in self.prices)

    @property
    def search_text(self) -> str:
        """What the search engine knows of the product: of the bullets only the first."""
        options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in self.options.items())
        first_bullet = self.bullets[0] if self.bullets else ""
        return " ".join([self.title, self.description, first_bullet, options]).lower()


class Catalogue:
    """All products in the order of the file, and the human instructions; read-only, shared by episodes."""

    def __init__(self, products: Iterable[Product], human: Mapping[str, list[dict[str, Any]]]) -> None:
        self._products = list(products)
        self._positions = {product.asin: at for at, product in enumerate(self._products)}
        self.human = human

    @classmethod
    def of(cls, records: Records, *, source: str = "records") -> Catalogue:
        """Make products of official records; raises DataError naming `source` and the malformed record."""
        return cls(read_products(records, source), records.human)

    def __len__(self) -> int:
        return len(self._products)

    def __iter__(self) -> Iterator[Product]:
        return iter(self._products)

    def __getitem__(self, position: int) -> Product:
        return self._products[position]

    def position(self, asin: str) -> int | None:
        """Where the product with this asin stands, None when the shop has no such product."""
        return self._positions.get(asin)

    def get(self, asin: str) -> Product:
        return self._products[self._positions[asin]]


def read_products(records: Records, source: str) -> Iterator[Product]:
    """The usable products: an asin of at most ten characters, not `nan`, each once (the first)."""
    seen: set[str] = set()
    for number, item in enumerate(records.items):
        place = f"{source}: product {number}"
        if not isinstance(item, dict):
            raise DataError(f"{place}: expected an object, got {type(item).__name__}")
        asin = _text(item, "asin", place)
        if asin == "nan" or len(asin) > 10 or asin in seen:
            continue
        seen.add(asin)
        notes = records.attributes.get(asin, {})
        if not isinstance(notes, dict):
            raise DataError(f"{source}: the notes of {asin} are a {type(notes).__name__}, expected an object")
        yield make_product(item, notes, f"{place} ({asin})")


def make_product(item: Mapping[str, Any], notes: Mapping[str, Any], place: str) -> Product:
    """A product from its record in the items file and its notes in the attributes file."""
    bullets = item.get("small_description", "")
    return Product(
        asin=_text(item, "asin", place),
        title=_text(item, "name", place),
        description=_text(item, "full_description", place),
        bullets=_texts([bullets] if isinstance(bullets, str) else bullets, "small_description", place),
        prices=parse_prices(item.get("pricing"), place),
        query=_text(item, "query", place).lower().strip(),
        category=_text(item, "category", place),
        product_category=_text(item, "product_category", place),
        options=parse_options(item.get("customization_options"), place),
        attributes=_texts(notes.get("attributes", ["DUMMY_ATTR"]), "attributes", place),
        instruction=notes.get("instruction") or "",
        instruction_attributes=_texts(
            notes.get("instruction_attributes") or [], "instruction_attributes", place
        ),
    )


def parse_prices(pricing: str | None, place: str) -> tuple[float, ...]:
    """One or two amounts from `$12.99` or `$6.63 - $8.37`; no pricing costs 100 dollars."""
    if not pricing:
        return (DEFAULT_PRICE,)
    try:
        amounts = [float(Decimal(_NOT_A_PRICE.sub("", piece))) for piece in pricing.split("$")[1:]]
    except InvalidOperation:
        amounts = []
    if not amounts:
        raise DataError(f"{place}: `pricing` is {pricing!r}, expected like '$12.99' or '$6.63 - $8.37'")
    return tuple(amounts[:2])


def parse_options(options: Any, place: str) -> dict[str, tuple[str, ...]]:
    """Option name → values, all lower case; a `/` in a value is written ` | `."""
    try:
        return {
            name.lower(): tuple(choice["value"].strip().replace("/", " | ").lower() for choice in choices)
            for name, choices in (options or {}).items()
            if choices is not None
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError(
            f"{place}: `customization_options` is malformed, expected {{name: [{{value}}]}}"
        ) from error


def _text(item: Mapping[str, Any], key: str, place: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise DataError(f"{place}: `{key}` is {value!r}, expected a string")
    return value


def _texts(value: Any, key: str, place: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise DataError(f"{place}: `{key}` is {value!r}, expected a list of strings")
    return tuple(value)


def read_directory(data: Path) -> Records:
    """Read the official files from a directory (or beside a given items file).

    Names may carry a suffix: `items_shuffle_1000.json` goes with `items_ins_v2_1000.json`. A missing
    `items_human_ins.json` leaves the shop without human goals. Raises DataError.
    """
    items_path = find_items(data)
    suffix = items_path.stem.removeprefix("items_shuffle")
    attributes_path = items_path.with_name(f"items_ins_v2{suffix}.json")
    human_path = items_path.with_name("items_human_ins.json")
    return Records(
        items=_read_json(items_path, list),
        attributes=_read_json(attributes_path, dict),
        human=_read_json(human_path, dict) if human_path.exists() else {},
    )


def find_items(data: Path) -> Path:
    """The items file: `data` itself, or the only `items_shuffle*.json` in the directory `data`."""
    if data.is_file():
        return data
    hint = (
        "give a directory with WebShop's `items_shuffle*.json`, `items_ins_v2*.json`, `items_human_ins.json`"
    )
    if not data.is_dir():
        raise DataError(f"WebShop data: `{data}` is not a directory", hint=hint)
    found = sorted(data.glob("items_shuffle*.json"))
    if not found:
        raise DataError(f"WebShop data: no `items_shuffle*.json` in `{data}`", hint=hint)
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise DataError(
            f"WebShop data: `{data}` has several catalogues ({names})", hint="give the file's path"
        )
    return found[0]


def _read_json(path: Path, kind: type) -> Any:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"WebShop data: `{path}` is missing") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"WebShop data: `{path}` is not JSON: {error}") from error
    if not isinstance(content, kind):
        raise DataError(
            f"WebShop data: `{path}` holds a {type(content).__name__}, expected a {kind.__name__}"
        )
    return content
