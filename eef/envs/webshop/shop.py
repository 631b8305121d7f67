"""Shop: the immutable data that all episodes share – catalog, search index, prices, goals, nouns.

The environment builds it once, from a data directory or synthetic settings; its clones share it.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eef.config import parse_settings
from eef.envs.webshop.catalog import Catalog, Product
from eef.envs.webshop.columns import TEMPORARY, Columns, MemoryColumns
from eef.envs.webshop.goals import Goals, Prices
from eef.envs.webshop.index import fill, is_large, open_index
from eef.envs.webshop.nouns import Tagger, choose_tagger
from eef.envs.webshop.official import OfficialFiles, Records
from eef.envs.webshop.search import Hits, SearchIndex
from eef.errors import ConfigError, DataError
from eef.utils.progress import OnProgress

GoalKind = Literal["synthetic", "human"]


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
    def open(
        cls,
        data: str | Path,
        *,
        goals: GoalKind,
        price_seed: int,
        tagger: str,
        synthetic: Any,
        index: str = "auto",
    ) -> Shop:
        """The shop of `synthetic` settings, or of the official files in `data`.

        DataError if a file is missing or malformed, or if there are no goals of this kind.
        """
        columns, source = load(data, synthetic, index)
        catalog = Catalog(columns)
        rng = random.Random(price_seed)
        prices = Prices(catalog, rng)
        if goals == "synthetic":
            asked = Goals.synthetic(catalog, prices, rng, columns.read("goal_order"))
        else:
            asked = Goals.human(catalog, prices, rng)
        if not len(asked):
            raise DataError(
                f"WebShop: no {goals} goals in `{data}`",
                hint="human goals need `items_human_ins.json`, synthetic ones `items_ins_v2*.json`",
            )
        name, nouns = choose_tagger(tagger)
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


def prepare(options: Mapping[str, Any], on_progress: OnProgress) -> None:
    """Build the index that a shop with these settings needs, unless it exists. Raises DataError."""
    data, index = options.get("data", "synthetic"), options.get("index", "auto")
    if data != "synthetic":
        files = OfficialFiles.find(Path(data))
        if _on_disk(files, index):
            open_index(files, _directory(index), on_progress=on_progress)


def load(data: str | Path, synthetic: Any, index: str) -> tuple[Columns, dict[str, Any]]:
    """The shop's columns, and their description for the fingerprint."""
    if data == "synthetic":
        if index != "auto":
            raise ConfigError(
                "WebShop: `index` has no effect on a synthetic shop", hint="remove `env.index`"
            )
        records, about = _generate(synthetic)
        return _in_memory(records, "synthetic"), about
    if synthetic is not None:
        raise ConfigError(
            "WebShop: `synthetic` has no effect on a data directory", hint="remove `env.synthetic`"
        )
    files = OfficialFiles.find(Path(data))
    if _on_disk(files, index):
        found = open_index(files, _directory(index))
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


def _generate(given: Any) -> tuple[Records, dict[str, Any]]:
    # Imported here, since official data does not need the generator.
    from eef.envs.webshop.synthetic import SyntheticSettings, generate

    if isinstance(given, Mapping) or given is None:
        given = parse_settings(SyntheticSettings, given or {}, source="WebShop: `synthetic`")
    if not isinstance(given, SyntheticSettings):
        raise ConfigError(f"WebShop: `synthetic` is {given!r}; expected a table of settings")
    return generate(given), {"data": "synthetic", "synthetic": given.model_dump(mode="json")}
