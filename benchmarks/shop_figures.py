"""Figures of `docs/webshop.md` on difficulty: `python -m benchmarks.shop_figures`.

Run from the repository root. Without arguments it measures the synthetic shop; with `--data DIR`,
the official files in DIR; with `--data DIR --tagger MODEL`, how often a spaCy model and the word
lists agree on the kind of two products. Speed is measured by `benchmarks.webshop`.
"""

from __future__ import annotations

import argparse
import random
from itertools import combinations, groupby
from statistics import fmean
from typing import Any

from eef.envs.webshop import Product, WebShop, WebShopSettings
from eef.envs.webshop.expert import BACK, NEXT, PRESETS, make_shop_expert
from eef.envs.webshop.nouns import STAND_IN, choose_tagger
from eef.envs.webshop.reward import count_options, match_type
from tests.fakes.shopping import mean_of, open_shop, play_all, win_rate

KNOBS: tuple[dict[str, Any], ...] = (
    {},
    {"family_size": 4},
    {"family_size": 24},
    {"family_size": 40},
    {"look_alikes": 0.0},
    {"look_alikes": 1.0},
    {"missing_options": 0.0},
    {"missing_options": 0.8},
    {"search_noise": 0.0},
    {"search_noise": 0.5},
    {"option_types": 0},
    {"option_types": 3},
    {"attribute_pool": 2},
    {"attribute_pool": 10},
    {"price_spread": 0},
    {"price_spread": 200},
)


def experts(env: WebShop, tasks: int, limit: int) -> None:
    """Print the win rates of the scripted experts."""
    for preset in PRESETS:
        rate = win_rate(play_all(env, make_shop_expert(env, preset), tasks, limit=limit))
        print(f"{preset}: wins {100 * rate:.1f} % of {tasks} training tasks in {limit} steps")


def unwinnable(env: WebShop) -> None:
    """Print the number of goals that their own options do not satisfy."""
    goals = list(env.shop.goals)
    for compat in (True, False):
        lost = sum(
            count_options(_values(goal), goal.options, compat=compat) < len(goal.options)
            for goal in goals
        )
        share = 100 * lost / len(goals)
        print(f"compat={compat}: {lost} of {len(goals)} goals cannot be won ({share:.1f} %)")


def _values(goal: Any) -> list[str]:
    return [option if isinstance(option, str) else option[1] for option in goal.options]


def knobs() -> None:
    """Print the effect of each setting on the flawless expert, with four products per page."""
    print("| setting | steps | page turns | products backed out of |\n|:--|--:|--:|--:|")
    for knob in KNOBS:
        env = open_shop(products=400, **knob)
        played = play_all(env, make_shop_expert(env, "flawless"), 250)
        name = ", ".join(f"`{key} = {value}`" for key, value in knob.items()) or "defaults"
        steps = fmean(trajectory.length for trajectory in played.values())
        print(
            f"| {name} | {steps:.1f} | {mean_of(played, NEXT):.2f} | {mean_of(played, BACK):.2f} |"
        )


def taggers(env: WebShop, model: str) -> None:
    """Print how often the word lists and a spaCy model give two products the same `r_type`."""
    nouns = [choose_tagger(name)[1] for name in (STAND_IN, model)]
    products = sorted(env.shop.catalog, key=_query)
    same = [pair for _, group in groupby(products, key=_query) for pair in combinations(group, 2)]
    rng = random.Random(0)
    arbitrary = [tuple(rng.sample(products, 2)) for _ in range(5000)]
    for kind, pairs in (("same-query", same), ("arbitrary", arbitrary)):
        agree = fmean(_agree(one, other, nouns) for one, other in pairs)
        print(f"{model} and `words` agree on {100 * agree:.1f} % of {len(pairs)} {kind} pairs")


def _query(product: Product) -> str:
    return product.query


def _agree(one: Product, other: Product, nouns: list[Any]) -> bool:
    return len({match_type(one, other, each).r_type for each in nouns}) == 1


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the difficulty of the shop.")
    parser.add_argument("--data", help="directory with the official files")
    parser.add_argument("--tagger", help="name of an installed spaCy model")
    given = parser.parse_args()
    if given.tagger:
        taggers(WebShop(WebShopSettings(data=given.data, tagger=STAND_IN)), given.tagger)
    elif given.data:
        for goals in ("human", "synthetic"):
            settings = WebShopSettings(data=given.data, prompt="none", goals=goals, tagger=STAND_IN)
            env = WebShop(settings)
            unwinnable(env)
            experts(env, min(300, len(env.tasks("train"))), 60)
    else:
        env = WebShop(WebShopSettings(prompt="none", tagger=STAND_IN))
        unwinnable(env)
        experts(env, 300, 60)
        knobs()


if __name__ == "__main__":
    main()
