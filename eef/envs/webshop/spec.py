"""WebShop's entry in the registry of environments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from eef.envs.spec import EnvSpec
from eef.envs.webshop.behaviors import BEHAVIORS, NOTE
from eef.envs.webshop.env import WebShop
from eef.envs.webshop.expert import make_shop_expert, make_shop_role
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


def find_instruction(observation: str) -> str:
    """The goal on a page: the part after `Instruction:`.

    >>> find_instruction("WebShop [SEP] Instruction: [SEP] i want a hat [SEP] Search")
    'i want a hat'
    """
    parts = split_observation(observation)
    place = next((i for i, part in enumerate(parts) if part.startswith("Instruction:")), None)
    if place is None:
        return parts[0] if parts else ""
    rest = parts[place].removeprefix("Instruction:").strip()
    return rest or (parts[place + 1] if place + 1 < len(parts) else "")


SPEC = EnvSpec(
    settings=WebShopSettings,
    make=WebShop,
    make_expert=make_shop_expert,
    make_role=make_shop_role,
    prepare=prepare,
    behaviors=BEHAVIORS,
    behaviors_note=NOTE,
    describe=describe,
    split_observation=split_observation,
    find_instruction=find_instruction,
)
