"""Shop: all that episodes share and never change – catalogue, search index, prices, goals, nouns.

Built once by the environment from a data directory or a generated catalogue; its clones hold the same Shop.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eef.config import parse_settings
from eef.envs.webshop.catalogue import Catalogue, Product, Records, find_items, read_directory
from eef.envs.webshop.goals import Goals, Prices
from eef.envs.webshop.nouns import Tagger, choose_tagger
from eef.envs.webshop.search import Hits, SearchIndex
from eef.errors import ConfigError, DataError

GoalKind = Literal["synthetic", "human"]


@dataclass(frozen=True, slots=True)
class Shop:
    """What there is to buy and to be asked for. `source` describes the data in the fingerprint."""

    catalogue: Catalogue
    index: SearchIndex
    prices: Prices
    goals: Goals
    nouns: Tagger
    tagger: str
    source: Mapping[str, Any]

    @classmethod
    def open(cls, data: str | Path, *, goals: GoalKind, price_seed: int, tagger: str, synthetic: Any) -> Shop:
        """Make the shop of `synthetic` settings, or of the official files in `data`. Raises DataError."""
        records, source = load(data, synthetic)
        catalogue = Catalogue.of(records, source=str(source["data"]))
        rng = random.Random(price_seed)
        prices = Prices(catalogue, rng)
        make = Goals.synthetic if goals == "synthetic" else Goals.written
        asked = make(catalogue, prices, rng)
        if not len(asked):
            raise DataError(
                f"WebShop: no {goals} goals in `{data}`",
                hint="human goals come from `items_human_ins.json`, synthetic ones from `items_ins_v2*.json`",
            )
        name, nouns = choose_tagger(tagger)
        return cls(
            catalogue=catalogue,
            index=SearchIndex.build(
                (product.search_text for product in catalogue), [product.asin for product in catalogue]
            ),
            prices=prices,
            goals=asked,
            nouns=nouns,
            tagger=name,
            source=source,
        )

    def search(self, query: str) -> Hits:
        return self.index.search(query)

    def product(self, asin: str) -> Product:
        return self.catalogue.get(asin)


def load(data: str | Path, synthetic: Any) -> tuple[Records, dict[str, Any]]:
    """Records and what they are (for the fingerprint)."""
    if data == "synthetic":
        return _generate(synthetic)
    if synthetic is not None:
        raise ConfigError("WebShop: `synthetic` has no effect on a data directory", hint="leave it out")
    items = find_items(Path(data))
    records = read_directory(items)
    return records, {"data": items.name, "sha256": digest(records)}


def _generate(given: Any) -> tuple[Records, dict[str, Any]]:
    # Imported here: whoever plays on official data has no use for the generator.
    from eef.envs.webshop.synthetic import SyntheticSettings, generate

    if isinstance(given, Mapping) or given is None:
        given = parse_settings(SyntheticSettings, given or {}, source="WebShop: `synthetic`")
    if not isinstance(given, SyntheticSettings):
        raise ConfigError(f"WebShop: `synthetic` is {given!r}, expected a table of settings")
    return generate(given), {"data": "synthetic", "synthetic": given.model_dump(mode="json")}


def digest(records: Records) -> str:
    """A fingerprint of the data: the first 16 hex digits of the SHA-256 of its JSON."""
    total = hashlib.sha256()
    for part in (records.items, records.attributes, records.human):
        total.update(json.dumps(part, sort_keys=True).encode())
    return total.hexdigest()[:16]
