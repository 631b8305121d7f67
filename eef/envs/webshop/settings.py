"""Settings of WebShop, and of its synthetic catalog."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, Strict, model_validator

from eef.config import SettingError, Settings

GoalKind = Literal["synthetic", "human"]
Observation = Literal["text", "text_rich"]
Range = Annotated[tuple[int, int | None], Strict(False)]
STEP_LIMIT = 10


class SyntheticSettings(Settings):
    """Settings of a synthetic shop; equal settings make equal shops."""

    seed: int = 0
    """Seed of the whole catalog."""

    products: int = Field(default=1000, ge=100, le=1_000_000)
    """Number of products."""

    family_size: int = Field(default=12, ge=1, le=40)
    """Products per family; a search finds at most 50."""

    attribute_pool: int = Field(default=6, ge=2, le=10)
    """Attributes that the products of a family draw from; the fewer, the more they share."""

    look_alikes: float = Field(default=0.4, ge=0, le=1)
    """Share of the products that have the same attributes as a sibling."""

    missing_options: float = Field(default=0.5, ge=0, le=0.8)
    """Share of an option's values that a product lacks; every product has at least two of them."""

    option_types: int = Field(default=2, ge=0, le=3)
    """Number of options per product (color, size …)."""

    search_noise: float = Field(default=1.0, ge=0, le=1)
    """Probability that a description names an attribute of the family that the product lacks."""

    price_spread: int = Field(default=8, ge=0, le=500)
    """Maximum price difference in dollars within a family."""


class WebShopSettings(Settings):
    """The shop, its goals and splits, and what an agent sees."""

    data: str = "synthetic"
    """`synthetic`, or a directory with the official files (or the path of its items file)."""

    goals: GoalKind = "synthetic"
    """`synthetic` (generated from products and options) or `human` (written by people)."""

    price_seed: int = 0
    """Seed of the draws from price ranges and of the goals' maximum prices."""

    observation: Observation = "text"
    """`text` (parts joined by `[SEP]`) or `text_rich` (one part per line, clicked ones marked)."""

    synthetic: SyntheticSettings = SyntheticSettings()

    products_per_page: int = Field(default=10, ge=1)
    """Products on a results page."""

    splits: str | dict[str, Range | str] | None = None
    """A preset (`canonical`, `eef-11k`, `eef-3k`, `synthetic-1k`), `eto:DIR`, or a table from split
    to `[first, end]` goal indices (with `null`, up to the last goal) or to the path of a JSON list
    of goal indices. By default the canonical split, or sixths in a small shop."""

    overlap: Literal["refuse", "drop"] = "refuse"
    """`refuse` splits that share goals, or `drop` the shared goals from training."""

    step_limit: int = Field(default=STEP_LIMIT, ge=1)
    """Default step limit of a rollout."""

    prompt: Literal["react", "none"] = "react"
    """`react`: the system message describes the rules and the form of an answer. An agent that
    calls tools (`chat.format`) gets only the rules."""

    tagger: str = "auto"
    """Noun tagger of the reward: `auto`, the name of a spaCy model, or `words`."""

    attributes_page: bool = False
    """Show the fourth button, which lists a product's attributes."""

    compat: bool | None = None
    """Keep the original's quirks: options compared as pairs, `<q>` and `<c>` searches. By default
    only with official data, because no published score was measured in a synthetic shop."""

    explain_invalid: bool = False
    """Explain an invalid action before the page is shown again; the original does not."""

    endless_next: bool = True
    """Show `Next >` after the last results too, as the original does."""

    index: str = "auto"
    """Where large official files are indexed: `auto` (the cache directory, for files of 64 MB or
    more), a directory, or `memory`."""

    @model_validator(mode="after")
    def _every_setting_has_an_effect(self) -> WebShopSettings:
        if self.data == "synthetic" and self.index != "auto":
            raise ValueError("`index` has no effect on a synthetic shop")
        if self.data != "synthetic" and "synthetic" in self.model_fields_set:
            raise SettingError(
                "`synthetic` has no effect on a data directory",
                hint="remove it from the recipe, or add `--set env.synthetic=null`",
            )
        return self
