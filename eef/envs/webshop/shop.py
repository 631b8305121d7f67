"""Shop: the immutable data that all episodes share – catalog, search index, prices, goals, nouns.

The environment builds it once, from a data directory or synthetic settings; its clones share it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eef.envs.webshop.catalog import Catalog, Product
from eef.envs.webshop.columns import TEMPORARY, Columns, MemoryColumns
from eef.envs.webshop.goals import Goals, Prices
from eef.envs.webshop.index import fill, is_large, open_index
from eef.envs.webshop.nouns import Tagger, choose_tagger
from eef.envs.webshop.official import OfficialFiles, Records
from eef.envs.webshop.search import Hits, SearchIndex
from eef.envs.webshop.settings import SyntheticSettings, WebShopSettings
from eef.errors import DataError
from eef.utils.progress import OnProgress


@dataclass(frozen=True, slots=True)
class Shop:
    """The shared data of all episodes. `source` describes it in the fingerprint."""

    catalog: Catalog
    index: SearchIndex
    prices: Prices
    goals: Goals
    nouns: Tagger
    tagger: str
    source: Mapping[str, Any]

    @classmethod
    def open(cls, settings: WebShopSettings) -> Shop:
        """The shop of these settings.

        DataError if a file is missing or malformed, or if there are no goals of this kind.
        """
        columns, source = load(settings)
        catalog = Catalog(columns)
        rng = random.Random(settings.price_seed)
        prices = Prices(catalog, rng)
        if settings.goals == "synthetic":
            asked = Goals.synthetic(catalog, prices, rng, columns.read("goal_order"))
        else:
            asked = Goals.human(catalog, prices, rng)
        if not len(asked):
            raise DataError(
                f"WebShop: no {settings.goals} goals in `{settings.data}`",
                hint="human goals need `items_human_ins.json`, synthetic ones `items_ins_v2*.json`",
            )
        name, nouns = choose_tagger(settings.tagger)
        return cls(
            catalog=catalog,
            index=SearchIndex(columns),
            prices=prices,
            goals=asked,
            nouns=nouns,
            tagger=name,
            source=source,
        )

    def search(self, query: str) -> Hits:
        """The top 50 products as (position, score), best first."""
        return self.index.search(query)

    def product(self, asin: str) -> Product:
        return self.catalog.get(asin)


def prepare(settings: WebShopSettings, on_progress: OnProgress) -> None:
    """Build the index that a shop with these settings needs, unless it exists. Raises DataError."""
    if settings.data != "synthetic":
        files = OfficialFiles.find(Path(settings.data))
        if _on_disk(files, settings.index):
            open_index(files, _directory(settings.index), on_progress=on_progress)


def load(settings: WebShopSettings) -> tuple[Columns, dict[str, Any]]:
    """The shop's columns, and their description for the fingerprint."""
    if settings.data == "synthetic":
        return _generate(settings.synthetic)
    files = OfficialFiles.find(Path(settings.data))
    if _on_disk(files, settings.index):
        found = open_index(files, _directory(settings.index))
        return found.columns, {"data": files.items.name, "sha256": found.digest}
    return _in_memory(files.records()[1], files.items.name), {
        "data": files.items.name,
        "sha256": files.digest(),
    }


def _on_disk(files: OfficialFiles, index: str) -> bool:
    return index != "memory" and (index != "auto" or is_large(files))


def _directory(index: str) -> Path | None:
    return None if index == "auto" else Path(index)


def _in_memory(records: Records, source: str) -> Columns:
    columns = MemoryColumns()
    fill(columns, records, source)
    for name in TEMPORARY:
        columns.drop(name)
    return columns


def _generate(settings: SyntheticSettings) -> tuple[Columns, dict[str, Any]]:
    # Imported here, since official data does not need the generator.
    from eef.envs.webshop.synthetic import generate

    columns = _in_memory(generate(settings), "synthetic")
    return columns, {"data": "synthetic", "synthetic": settings.model_dump(mode="json")}
