"""WebShop's entry in the registry of environments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from eef.envs.spec import EnvSpec
from eef.envs.webshop.behaviors import BEHAVIORS, NOTE
from eef.envs.webshop.env import WebShop
from eef.envs.webshop.expert import make_shop_expert
from eef.envs.webshop.settings import WebShopSettings
from eef.envs.webshop.shop import prepare

_DETAILS = {"products": "{:,} products", "goals": "{} goals", "tagger": "nouns by {}"}


def describe(fingerprint: Mapping[str, Any]) -> str:
    """The size of the shop, the kind of goals and the tagger.

    >>> describe({"env": "webshop", "products": 1000, "goals": "human", "tagger": "words"})
    '1,000 products, human goals, nouns by words'
    """
    found = [text.format(fingerprint[key]) for key, text in _DETAILS.items() if key in fingerprint]
    return ", ".join(found)


def split_observation(observation: str) -> list[str]:
    """The parts of a page, in either form of observation.

    >>> split_observation("Buy a hat [SEP] Next > [SEP] Hat")
    ['Buy a hat', 'Next >', 'Hat']
    """
    return [part.strip() for part in re.split(r"\[SEP\]|\n", observation) if part.strip()]


SPEC = EnvSpec(
    settings=WebShopSettings,
    make=WebShop,
    make_expert=make_shop_expert,
    prepare=prepare,
    behaviors=BEHAVIORS,
    behaviors_note=NOTE,
    describe=describe,
    split_observation=split_observation,
)
