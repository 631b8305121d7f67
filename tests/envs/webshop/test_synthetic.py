"""The synthetic shop: winnable goals, determinism, and the effect of each setting."""

import random
from collections import Counter
from itertools import pairwise
from math import gcd
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eef.envs.webshop import lexicon
from eef.envs.webshop.analysis import term
from eef.envs.webshop.expert import BACK, NEXT, make_shop_expert
from eef.envs.webshop.reward import count_attributes, count_options
from eef.envs.webshop.settings import SyntheticSettings
from eef.envs.webshop.synthetic import STRIDE, _coined, generate
from eef.errors import ConfigError
from tests.fakes.shopping import buy, mean_of, open_shop, play_all, rank, win_rate
from tests.fakes.small_shop import make_shop

SHOPS = (
    {"products": 100},
    {"products": 100, "family_size": 1},
    {
        "products": 203,
        "family_size": 40,
        "option_types": 3,
        "missing_options": 0.8,
        "attribute_pool": 10,
    },
    {
        "products": 300,
        "family_size": 40,
        "option_types": 0,
        "attribute_pool": 2,
        "look_alikes": 1.0,
    },
    {
        "products": 400,
        "family_size": 25,
        "search_noise": 0.0,
        "missing_options": 0.0,
        "price_spread": 500,
        "seed": 3,
    },
    {"products": 2000, "seed": 1},
    {"products": 2000, "family_size": 2},
)
ANY_SETTINGS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**31),
        "products": st.integers(100, 160),
        "family_size": st.integers(1, 40),
        "attribute_pool": st.integers(2, 10),
        "look_alikes": st.floats(0, 1),
        "missing_options": st.floats(0, 0.8),
        "option_types": st.integers(0, 3),
        "search_noise": st.floats(0, 1),
        "price_spread": st.integers(0, 500),
    }
)
GOALS = ("human", "synthetic")


def some_goals(env, number=150):
    """A random sample of goals; a synthetic shop has tens of thousands."""
    indices = range(len(env.shop.goals))
    return [
        env.shop.goals[index]
        for index in random.Random(0).sample(indices, min(number, len(indices)))
    ]


def assert_winnable(env, number=150):
    for goal in some_goals(env, number):
        assert rank(env, goal), f"a search does not find {goal}"
        assert buy(env, goal) == 1.0, goal


# --- winnable goals -------------------------------------------------------------------------------


@pytest.mark.parametrize("shop", SHOPS, ids=str)
@pytest.mark.parametrize("goals", GOALS)
def test_every_goal_can_be_won(goals, shop):
    assert_winnable(open_shop(goals, **shop))


@pytest.mark.parametrize("goals", GOALS)
@given(shop=ANY_SETTINGS)
@settings(max_examples=15)
def test_every_goal_of_any_shop_can_be_won(goals, shop):
    assert_winnable(open_shop(goals, **shop), number=40)


@pytest.mark.parametrize("products", [5_000, pytest.param(20_000, marks=pytest.mark.long)])
def test_lexicon_families_are_found_among_coined_ones(products):
    """A search for `shirt` must not be flooded by coined families."""
    env = open_shop(products=products)
    nouns = {family.noun for family in lexicon.families()}
    plain = [goal for goal in env.shop.goals if goal.query in nouns]
    assert len(plain) == 720
    assert all(rank(env, goal) for goal in plain)


@pytest.mark.long
@pytest.mark.parametrize("family_size", [12, 40])
def test_every_goal_of_a_very_large_shop_can_be_won(family_size):
    env = open_shop(products=100_000, family_size=family_size)
    assert len(env.shop.catalog) == 100_000
    assert_winnable(env, number=1000)


def test_compat_makes_some_goals_unwinnable():
    """Compared as pairs, `rustic` and `sandalwood` fail: they contain colors (`rust`, `sand`)."""
    env = open_shop("synthetic", compat=True, products=120, option_types=3)
    goals = some_goals(env, 500)
    lost = {goal for goal in goals if buy(env, goal) < 1}
    slipped = {
        goal for goal in goals if {"rustic", "sandalwood"} & {value for _, value in goal.options}
    }
    assert lost == slipped != set()
    assert [open_shop(compat=compat).rules.compat for compat in (None, True)] == [False, True]


# --- contents of a shop ---------------------------------------------------------------------------


@given(ANY_SETTINGS)
@settings(max_examples=15)
def test_equal_settings_make_equal_shops(shop):
    assert generate(SyntheticSettings(**shop)) == generate(SyntheticSettings(**shop))


@given(ANY_SETTINGS)
@settings(max_examples=15)
def test_another_seed_makes_another_shop(shop):
    one, other = SyntheticSettings(**shop), SyntheticSettings(**{**shop, "seed": shop["seed"] + 1})
    assert generate(one).items != generate(other).items


def test_the_fingerprint_holds_the_settings():
    prints = [
        open_shop(**shop).fingerprint() for shop in ({}, {}, {"seed": 1}, {"search_noise": 0.5})
    ]
    assert prints[0] == prints[1]
    assert prints[0] != prints[2] != prints[3]
    assert prints[3]["synthetic"]["search_noise"] == 0.5


@pytest.mark.parametrize(("products", "family_size"), [(100, 12), (500, 40), (2000, 7), (1000, 1)])
def test_sizes(products, family_size):
    records = generate(SyntheticSettings(products=products, family_size=family_size))
    assert len({item["asin"] for item in records.items}) == len(records.items) == products
    assert set(records.attributes) == set(records.human) == {item["asin"] for item in records.items}
    sizes = Counter(item["query"] for item in records.items)
    assert set(sizes.values()) <= {family_size, products % family_size}


@pytest.mark.parametrize(
    ("products", "numbers"), [(100, 1_000), (1_000, 1_000), (2_000, 1_000_000)]
)
def test_asins_are_scattered(products, numbers):
    """Ties are ordered by asin, so those of a family must be far apart."""
    families = {}
    for item in generate(SyntheticSettings(products=products)).items:
        assert len(item["asin"]) == 10
        families.setdefault(item["query"], []).append(int(item["asin"][1:]))
    assert all(0 <= number < numbers for family in families.values() for number in family)
    assert all(
        later - earlier > 1
        for family in families.values()
        for earlier, later in pairwise(sorted(family))
    )


def test_asins_are_unique():
    assert gcd(STRIDE, 1_000) == gcd(STRIDE, 1_000_000) == 1


def test_coined_words_have_distinct_terms():
    coined = [_coined(index) for index in range(100_000)]
    assert (
        len({term(word) for word in coined} | {term(family.noun) for family in lexicon.families()})
        == 100_060
    )


@given(ANY_SETTINGS)
@settings(max_examples=10)
def test_a_product_has_exactly_its_attributes(shop):
    """The description does not add any: the reward matches phrases."""
    env = open_shop(**shop)
    pools = {department.category: department.attributes for department in lexicon.DEPARTMENTS}
    for product in env.shop.catalog:
        found = [name for name in pools[product.category] if count_attributes(product, [name])]
        assert sorted(found) == sorted(product.attributes)


def test_no_option_value_matches_another():
    for name, values in lexicon.OPTION_VALUES.items():
        for wanted in values:
            for option in (wanted, (name, wanted)):
                assert [
                    value for value in values if count_options([value], [option], compat=False)
                ] == [wanted]


def test_the_lexicon_has_no_duplicates():
    nouns = [family.noun for family in lexicon.families()]
    assert len(set(nouns)) == len(nouns) == 60
    for family in lexicon.families():
        assert len(set(family.attributes)) == len(family.attributes) == 10
        assert {len(attribute.split()) for attribute in family.attributes} == {2}


@pytest.mark.parametrize(
    ("shop", "message"),
    [
        ({"products": 99}, "`synthetic.products` is 99"),
        ({"products": 1_000_001}, "products` is 1000001"),
        ({"family_size": 41}, "family_size` is 41"),
        ({"missing_options": 0.9}, "missing_options` is 0.9"),
        ({"seed": "a"}, "seed` is 'a'"),
        ({"familysize": 3}, "unknown setting 'synthetic.familysize'"),
    ],
)
def test_settings_out_of_bounds(shop, message):
    with pytest.raises(ConfigError, match=message):
        open_shop(**shop)


def test_settings_that_are_not_a_table():
    with pytest.raises(ConfigError, match="`synthetic` is 5; expected a table"):
        make_shop(synthetic=5)
    given_whole = make_shop(synthetic=SyntheticSettings(products=100))
    assert given_whole.fingerprint() == make_shop(synthetic={"products": 100}).fingerprint()


# --- sources of difficulty ------------------------------------------------------------------------


def flawless(**shop):
    """The flawless expert's episodes in a shop; it wins them all."""
    env = open_shop(**{"products": 400, **shop})
    played = play_all(env, make_shop_expert(env, "flawless"), 60)
    assert win_rate(played) == 1.0
    return played


def rising(values):
    return all(before < after for before, after in pairwise(values))


def test_larger_families_need_more_page_turns():
    assert rising([mean_of(flawless(family_size=size), NEXT) for size in (4, 12, 24, 40)])


def test_more_noise_lowers_the_rank_of_the_right_product():
    assert rising([mean_of(flawless(search_noise=noise), NEXT) for noise in (0.0, 0.5, 1.0)])


def test_without_noise_only_look_alikes_rank_higher():
    env = open_shop(products=400, search_noise=0.0)
    for goal in some_goals(env):
        hits = [
            env.shop.product(asin)
            for asin, _ in env.search(f"{' '.join(goal.attributes)} {goal.query}")
        ]
        ahead = [product for product in hits[: rank(env, goal) - 1] if product.query == goal.query]
        assert len(ahead) == rank(env, goal) - 1
        assert {frozenset(product.attributes) for product in ahead} <= {frozenset(goal.attributes)}


def test_without_noise_and_look_alikes_the_right_product_is_first():
    env = open_shop(
        products=400, search_noise=0.0, look_alikes=0.0, attribute_pool=10, family_size=4
    )
    assert fmean(rank(env, goal) == 1 for goal in some_goals(env)) > 0.95


def test_missing_options_require_going_back():
    assert rising(
        [mean_of(flawless(missing_options=share), BACK) for share in (0.0, 0.25, 0.5, 0.8)]
    )
    assert mean_of(flawless(missing_options=0.0), BACK) == 0.0


def test_look_alikes_require_going_back():
    assert rising([mean_of(flawless(look_alikes=share), BACK) for share in (0.0, 0.5, 1.0)])


def test_more_options_make_longer_episodes():
    """A family has three options; each takes a click."""
    lengths = [
        fmean(item.length for item in flawless(option_types=number).values()) for number in range(4)
    ]
    assert all(later - earlier > 0.5 for earlier, later in pairwise(lengths))


def too_expensive(env):
    """The share of products with a goal's attributes that exceed its upper price."""
    alike = [
        env.shop.prices[position] > goal.price_upper
        for goal in some_goals(env)
        for position, product in enumerate(env.shop.catalog)
        if product.query == goal.query and set(goal.attributes) <= set(product.attributes)
    ]
    return fmean(alike)


def test_a_wide_price_spread_makes_look_alikes_too_expensive():
    shares = [too_expensive(open_shop(price_spread=spread)) for spread in (0, 30, 200)]
    assert shares[0] == 0.0
    assert rising(shares)
