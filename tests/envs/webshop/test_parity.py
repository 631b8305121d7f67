"""Parity: recorded episodes, searches and goals of the original environment, reproduced exactly.

Needs the official 1,000-product data and its recordings, in the directory `EEF_WEBSHOP_DATA`.
`r_type` was recorded with a replacement of the noun tagger, so it and the total reward are not
compared.
"""

import gzip
import json
import os
import re
from pathlib import Path

import pytest

from eef.envs.webshop.reward import count_options
from eef.envs.webshop.search import SMALL
from tests.fakes.small_shop import make_shop

DATA = Path(os.environ.get("EEF_WEBSHOP_DATA", "recordings"))
PARTS = (
    "r_att",
    "w_att",
    "r_option",
    "w_option",
    "r_price",
    "w_price",
    "query_match",
    "category_match",
)
_SCORE = re.compile(r"(max 1\.0\)(?: \[SEP\] |\n))[\d.]+")

pytestmark = pytest.mark.skipif(
    not (DATA / "traces").is_dir(),
    reason=f"no recordings at {DATA}; set EEF_WEBSHOP_DATA to their directory",
)


def read(name):
    with gzip.open(DATA / name, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def shops():
    return {
        (goals, observation): make_shop(DATA, goals=goals, observation=observation)
        for goals in ("human", "synthetic")
        for observation in ("text", "text_rich")
    }


def blank_score(page):
    return _SCORE.sub(r"\1?", page)


def options_of(steps):
    """The options of each step that can be compared, None for the others.

    The recording kept a reference: a step shows all choices up to the next results page.
    """
    actions = [step["sess"]["actions"].get("search", 0) for step in steps]
    last = [after != before for before, after in zip(actions, [*actions[1:], None], strict=True)]
    return [
        step["sess"]["options"] if ends else None for step, ends in zip(steps, last, strict=True)
    ]


@pytest.mark.parametrize(
    "name", ["oracle_human", "oracle_synthetic", "random_human", "random_synthetic"]
)
def test_traces(shops, name):
    kind = name.split("_")[1]
    plain, rich = shops[kind, "text"], shops[kind, "text_rich"]
    for episode in read(f"traces/{name}.jsonl.gz"):
        assert (
            f"Instruction: {plain.task(episode['goal_idx']).instruction}" == episode["instruction"]
        )
        for step, options in zip(episode["steps"], options_of(episode["steps"]), strict=True):
            place = (name, episode["goal_idx"], step["action"])
            if step["action"] is None:
                pages = plain.reset(episode["goal_idx"]), rich.reset(episode["goal_idx"])
                terminated = False
            else:
                results = plain.step(step["action"]), rich.step(step["action"])
                pages = results[0].observation, results[1].observation
                terminated = results[0].terminated
            assert blank_score(pages[0]) == blank_score(step["obs_text"]), place
            assert blank_score(pages[1]) == blank_score(step["obs_text_rich"]), place
            assert terminated == step["done"], place
            assert plain.available() == step["available"], place
            session, recorded = plain.session, step["sess"]
            for field in ("keywords", "page", "asin", "actions"):
                assert getattr(session, field) == recorded[field], (*place, field)
            assert sorted(session.asins) == sorted(recorded["asins"]), place
            assert options is None or session.options == options, place
            if step["verbose"]:
                parts = plain.reward_parts()
                assert {key: parts.get(key) for key in PARTS} == {
                    key: step["verbose"].get(key) for key in PARTS
                }, place


@pytest.mark.parametrize("small", [SMALL, 0])
def test_searches(shops, small, monkeypatch):
    """With the search of small shops and with that of large ones."""
    monkeypatch.setattr("eef.envs.webshop.search.SMALL", small)
    shop = shops["human", "text"]
    shop.shop.index._cache.clear()
    with gzip.open(DATA / "search_top50.json.gz", "rt", encoding="utf-8") as file:
        recorded = json.load(file)
    assert len(recorded) == 140
    for search in recorded:
        hits = shop.search(search["query"])
        assert [asin for asin, _ in hits] == [asin for asin, _ in search["top"]], search["query"]
        for (_, score), (_, expected) in zip(hits, search["top"], strict=True):
            assert score == pytest.approx(expected, abs=1e-4), search["query"]


def test_goals(shops):
    """The numbers of goals, and of unwinnable synthetic ones, equal those of the original."""
    synthetic, human = shops["synthetic", "text"].shop.goals, shops["human", "text"].shop.goals
    assert (len(synthetic), len(human)) == (6910, 13)
    assert len({goal.asin for goal in synthetic}) == 415
    lost = [
        goal
        for goal in synthetic
        if count_options([value for _, value in goal.options], goal.options, compat=True)
        < len(goal.options)
    ]
    assert len(lost) == 458
    for goal in human:
        assert count_options(goal.options, goal.options, compat=True) == len(goal.options)


def test_human_goals_are_in_the_official_table(shops):
    def bare(text):
        return re.sub(
            r"[^a-z0-9 ]", "", re.sub(r", and price lower than.*", "", text).lower()
        ).strip()

    table = {
        bare(text) for text in json.loads((DATA / "human_goals.json").read_text(encoding="utf-8"))
    }
    assert all(bare(goal.instruction) in table for goal in shops["human", "text"].shop.goals)
