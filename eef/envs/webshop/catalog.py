"""Product, Catalog: the products of the shop.

Records (`official.py`, `synthetic.py`) become products, which are written to columns one by one.
The catalog reads them from there, for pages, search and goals.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from eef.envs.webshop.columns import Columns, MemoryColumns
from eef.envs.webshop.official import Records
from eef.errors import DataError

DEFAULT_PRICE = 100.0
MAX_ASIN_LENGTH = 10
CACHED_PRODUCTS = 4096
NO_GOALS = -1
MAX_GOALS = 10_000_000
_NOT_A_PRICE = re.compile(r"[^\d.]")


@dataclass(frozen=True, slots=True)
class Product:
    """One product as the shop shows it.

    `prices` holds one price in dollars, or both ends of a price range. `options` maps an option's
    name to its values, in page order. `instruction` is that of the product's synthetic goals, "" if
    it has none.
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
        """The price or price range as a page shows it."""
        return " to ".join(f"${price}" for price in self.prices)

    @property
    def search_text(self) -> str:
        """The text that the search engine indexes; it includes the first bullet only."""
        options = ", and ".join(
            f"{name}: {', '.join(values)}" for name, values in self.options.items()
        )
        first_bullet = self.bullets[0] if self.bullets else ""
        return " ".join([self.title, self.description, first_bullet, options]).lower()

    @property
    def combinations(self) -> int:
        """Number of synthetic goals for this product; NO_GOALS without an instruction."""
        return prod(map(len, self.options.values())) if self.instruction else NO_GOALS

    def encoded(self) -> bytes:
        """The product as bytes; `decode_product` is the inverse."""
        fields = [getattr(self, name) for name in self.__slots__]
        return json.dumps(fields, separators=(",", ":")).encode()


def decode_product(data: bytes | memoryview) -> Product:
    """The product that `Product.encoded` wrote."""
    (
        asin, title, description, bullets, prices, query, category, product_category, options,
        attributes, instruction, instruction_attributes,
    ) = json.loads(bytes(data))  # fmt: skip
    return Product(
        asin, title, description, tuple(bullets), tuple(prices), query, category, product_category,
        {name: tuple(values) for name, values in options.items()}, tuple(attributes), instruction,
        tuple(instruction_attributes),
    )  # fmt: skip


class Catalog:
    """All products in file order, and the human instructions; read-only, shared by all episodes.

    prices        float64 (products, 2): both ends of a price range; the second is NaN for one price
    combinations  int64 (products): `Product.combinations`
    human         (position, instruction record) pairs, ordered by product
    """

    def __init__(self, columns: Columns) -> None:
        self._records = columns.read("records").data
        self._ends, self._asins = columns.read("record_ends"), columns.read("asins")
        self._by_asin = columns.read("by_asin")
        self._kinds = {"query": columns.read("queries"), "category": columns.read("categories")}
        self._labels = {text: at for at, text in enumerate(_lines(columns, "labels"))}
        self.prices = columns.read("prices").reshape(-1, 2)
        self.combinations = columns.read("combinations")
        self.human: list[tuple[int, dict[str, Any]]] = [
            (at, record) for at, record in _lines(columns, "human")
        ]
        self._recent = lru_cache(CACHED_PRODUCTS)(self._decode)

    @classmethod
    def of(cls, records: Records, *, source: str = "records") -> Catalog:
        """A catalog of official records. DataError names `source` and the malformed record."""
        columns = MemoryColumns()
        writer = CatalogWriter(columns)
        for product in read_products(records, source, writer.known):
            writer.add(product)
        writer.finish(records.human, source)
        return cls(columns)

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[Product]:
        return (self._decode(position) for position in range(len(self)))

    def __getitem__(self, position: int) -> Product:
        return self._recent(position)

    def _decode(self, position: int) -> Product:
        if position >= len(self._ends):
            raise IndexError(position)
        start = self._ends[position - 1] if position else 0
        return decode_product(self._records[start : self._ends[position]])

    def asin(self, position: int) -> str:
        return self._asins[position].decode()

    def position(self, asin: str) -> int | None:
        """The position of the product with this asin, or None if there is no such product."""
        if not asin.isascii() or not 0 < len(asin) <= MAX_ASIN_LENGTH:
            return None
        name = np.bytes_(asin)
        at = int(np.searchsorted(self._asins, name, sorter=self._by_asin))
        found = int(self._by_asin[at]) if at < len(self) else -1
        return found if found >= 0 and self._asins[found] == name else None

    def get(self, asin: str) -> Product:
        position = self.position(asin)
        assert position is not None, f"{asin} is not in the catalog"
        return self[position]

    def of_kind(self, kind: str, text: str) -> list[int]:
        """Positions of all products whose `kind` ("query" or "category") equals `text`."""
        if text not in self._labels:
            return []
        found: list[int] = np.flatnonzero(self._kinds[kind] == self._labels[text]).tolist()
        return found


class CatalogWriter:
    """Appends products to columns, which may already hold some; `known` are the asins they hold."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        ends = columns.read("record_ends")
        self._end = int(ends[-1]) if len(ends) else 0
        self.known = {asin.decode() for asin in columns.read("asins")}
        self._labels = {text: at for at, text in enumerate(_lines(columns, "labels"))}

    def add(self, product: Product) -> None:
        columns, data = self._columns, product.encoded()
        self._end += len(data)
        columns.append("records", data)
        columns.append("record_ends", [self._end])
        columns.append("asins", [product.asin.encode()])
        columns.append(
            "prices", [product.prices[0], product.prices[1] if len(product.prices) > 1 else np.nan]
        )
        columns.append("queries", [self._label(product.query)])
        columns.append("categories", [self._label(product.category)])
        columns.append("combinations", [product.combinations])

    def finish(self, human: Mapping[str, Any], source: str) -> None:
        """Write the order of the asins, and the human instructions. DataError if malformed."""
        asins = self._columns.read("asins")
        by_asin, ranks = (
            self._columns.allocate("by_asin", len(asins)),
            self._columns.allocate("ranks", len(asins)),
        )
        by_asin[:] = np.argsort(asins, kind="stable")
        ranks[by_asin] = np.arange(len(asins), dtype=np.int32)
        asked = [name for name in human if name in self.known]
        places = dict(zip(asins.tolist(), range(len(asins)), strict=True)) if asked else {}
        for position, asin in sorted((places[asin.encode()], asin) for asin in asked):
            for record in _asked(human[asin], f"beside {source}: human instruction of {asin}"):
                self._columns.append("human", _line([position, record]))

    def _label(self, text: str) -> int:
        if text not in self._labels:
            self._labels[text] = len(self._labels)
            self._columns.append("labels", _line(text))
        return self._labels[text]


def _line(value: Any) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _lines(columns: Columns, name: str) -> list[Any]:
    return [json.loads(line) for line in columns.read(name).tobytes().splitlines()]


def _asked(records: Any, place: str) -> Iterator[dict[str, Any]]:
    """The human instructions of a product that ask for an attribute, reduced to a goal's fields."""
    if not isinstance(records, list):
        raise DataError(f"{place} is {records!r:.60}; expected a list of records")
    for record in records:
        if not isinstance(record, dict) or not isinstance(record.get("instruction"), str):
            raise DataError(
                f"{place}: expected objects with `instruction` and `instruction_attributes`"
            )
        attributes = _texts(record.get("instruction_attributes"), "instruction_attributes", place)
        options = _texts(record.get("instruction_options", []), "instruction_options", place)
        if attributes:
            yield {
                "instruction": record["instruction"],
                "attributes": attributes,
                "options": options,
            }


def read_products(
    records: Records, source: str, seen: set[str], *, first: int = 0
) -> Iterator[Product]:
    """The usable products: an asin of at most ten characters, not `nan`, first occurrences only.

    `seen` holds the asins so far and is extended. `first` is the number of the first item in its
    file. DataError names `source` and the malformed record.
    """
    for number, item in enumerate(records.items, start=first):
        place = f"{source}: product {number}"
        if not isinstance(item, dict):
            raise DataError(f"{place} is a {type(item).__name__}; expected an object")
        asin = _text(item, "asin", place)
        if asin == "nan" or len(asin) > MAX_ASIN_LENGTH or asin in seen:
            continue
        if not (asin.isascii() and asin.isalnum() and asin == asin.upper()):
            raise DataError(f"{place}: `asin` is {asin!r}; expected capital letters and digits")
        seen.add(asin)
        notes = records.attributes.get(asin, {})
        if not isinstance(notes, dict):
            raise DataError(
                f"beside {source}: the attributes record of {asin} is a {type(notes).__name__}; "
                "expected an object"
            )
        yield make_product(
            item, notes, f"{place} ({asin})", f"beside {source}: the attributes record of {asin}"
        )


def make_product(
    item: Mapping[str, Any], notes: Mapping[str, Any], place: str, beside: str
) -> Product:
    """A product from its record in the items file and its record in the attributes file (`notes`).

    DataError names `place` if the former is malformed, `beside` if the latter is.
    """
    bullets = item.get("small_description", "")
    product = Product(
        asin=_text(item, "asin", place),
        title=_text(item, "name", place),
        description=_text(item, "full_description", place),
        bullets=_texts(
            [bullets] if isinstance(bullets, str) else bullets, "small_description", place
        ),
        prices=parse_prices(item.get("pricing"), place),
        query=_text(item, "query", place).lower().strip(),
        category=_text(item, "category", place),
        product_category=_text(item, "product_category", place),
        options=parse_options(item.get("customization_options"), place),
        attributes=_texts(notes.get("attributes", ["DUMMY_ATTR"]), "attributes", beside),
        instruction=_instruction(notes, beside),
        instruction_attributes=_texts(
            notes.get("instruction_attributes") or [], "instruction_attributes", beside
        ),
    )
    if product.combinations > MAX_GOALS:
        raise DataError(
            f"{place}: its options have more than {MAX_GOALS:,} combinations; each is a goal"
        )
    return product


def _instruction(notes: Mapping[str, Any], place: str) -> str:
    text = notes.get("instruction") or ""
    if not isinstance(text, str):
        raise DataError(f"{place}: `instruction` is {text!r}; expected a string")
    if text and not notes.get("instruction_attributes"):
        raise DataError(f"{place} has an `instruction` but no `instruction_attributes`")
    return text


def parse_prices(pricing: Any, place: str) -> tuple[float, ...]:
    """One or two prices from `$12.99` or `$6.63 - $8.37`; DEFAULT_PRICE if there is no pricing."""
    if not pricing:
        return (DEFAULT_PRICE,)
    try:
        amounts = [float(Decimal(_NOT_A_PRICE.sub("", piece))) for piece in pricing.split("$")[1:]]
    except (AttributeError, InvalidOperation):
        amounts = []
    if not amounts:
        raise DataError(f"{place}: `pricing` is {pricing!r}; expected '$12.99' or '$6.63 - $8.37'")
    return tuple(amounts[:2])


def parse_options(options: Any, place: str) -> dict[str, tuple[str, ...]]:
    """Option name → values, in lower case; a `/` in a value becomes ` | `."""
    try:
        return {
            name.lower(): tuple(
                choice["value"].strip().replace("/", " | ").lower() for choice in choices
            )
            for name, choices in (options or {}).items()
            if choices is not None
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise DataError(
            f"{place}: `customization_options` is malformed; expected {{name: [{{value}}]}}"
        ) from error


def _text(item: Mapping[str, Any], key: str, place: str) -> str:
    value = item.get(key)
    if not isinstance(value, str):
        raise DataError(f"{place}: `{key}` is {value!r}; expected a string")
    return value


def _texts(value: Any, key: str, place: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise DataError(f"{place}: `{key}` is {value!r}; expected a list of strings")
    return tuple(value)
