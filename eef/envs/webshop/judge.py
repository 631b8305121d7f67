"""What a competent shopper knows: whether a product meets a goal, and which options are still to be chosen.

For scripted experts and analysis; stands on the reward's own comparisons and is no part of the environment's answers.
"""

from __future__ import annotations

from collections.abc import Sequence

from eef.envs.webshop.catalogue import Product
from eef.envs.webshop.goals import Goal
from eef.envs.webshop.reward import count_attributes, count_options, match_type
from eef.envs.webshop.shop import Shop


def fits(shop: Shop, goal: Goal, asin: str) -> bool:
    """Whether buying the product, options aside, would earn the full reward."""
    position = shop.catalogue.position(asin)
    if position is None or shop.prices[position] > goal.price_upper:
        return False
    product = shop.catalogue[position]
    if count_attributes(product, goal.attributes) < len(goal.attributes):
        return False
    return match_type(product, shop.product(goal.asin), shop.nouns).r_type == 1.0


def wanted_options(goal: Goal, product: Product, chosen: Sequence[str]) -> tuple[list[str], list[str]]:
    """(values the product lacks, labels to click for those not chosen yet), in the order of the goal's options."""
    labels = [label for values in product.options.values() for label in values]
    missing, left = [], []
    for option in goal.options:
        value = option if isinstance(option, str) else option[1]
        if _match(value, chosen) is not None:
            continue
        label = _match(value, labels)
        if label is None:
            missing.append(value)
        else:
            left.append(label)
    return missing, left


def _match(value: str, labels: Sequence[str]) -> str | None:
    """The label that is the value, else the first which the reward takes for it."""
    if value in labels:
        return value
    return next((label for label in labels if count_options([label], [value], compat=False)), None)
