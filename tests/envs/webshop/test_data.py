"""Official files → products, prices, goals and splits; errors for malformed files."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eef.envs.webshop import Records
from eef.envs.webshop.catalog import Catalog, parse_options, parse_prices
from eef.envs.webshop.goals import NO_BOUND, Goals, Prices, draw_bound
from eef.envs.webshop.splits import Splits
from eef.errors import ConfigError, DataError, EnvError
from tests.fakes.small_shop import HUMAN, ITEMS, NOTES, make_shop, write_shop

RECORDS = Records(items=ITEMS, attributes=NOTES, human=HUMAN)


@pytest.fixture(scope="module")
def catalog():
    return Catalog.of(RECORDS)


def test_usable_products(catalog):
    """Skipped: a second record of an asin, the asin `nan`, an asin of over ten characters."""
    assert [product.asin for product in catalog] == [f"B00000000{at}" for at in range(1, 6)]
    assert catalog.position("B000000003") == 2
    assert catalog.position("B000000009") is None


def test_a_product(catalog):
    socks = catalog[0]
    assert socks.query == "wool socks"
    assert socks.options == {"color": ("dark blue", "red", 'an "odd" one'), "size": ("s | m", "l")}
    assert socks.attributes == ("machine wash", "merino wool")
    assert socks.search_text == (
        "merino wool socks socks for cold feet.\nwash cold. soft "
        'color: dark blue, red, an "odd" one, and size: s | m, l'
    )
    assert catalog[4].attributes == ("DUMMY_ATTR",)
    assert catalog[1].options == {}


@pytest.mark.parametrize(
    ("pricing", "prices"),
    [
        (None, (100.0,)),
        ("", (100.0,)),
        ("$12.99", (12.99,)),
        ("$1,234.50", (1234.5,)),
        ("$6.63 - $8.37", (6.63, 8.37)),
        ("$1 $2 $3", (1.0, 2.0)),
    ],
)
def test_prices(pricing, prices):
    assert parse_prices(pricing, "here") == prices


@pytest.mark.parametrize("pricing", ["12.99", "$", "$a"])
def test_malformed_prices(pricing):
    with pytest.raises(DataError, match="here: `pricing`"):
        parse_prices(pricing, "here")


@pytest.mark.parametrize(
    "options", [["a"], {"color": [{}]}, {"color": ["red"]}, {"color": [{"value": 3}]}]
)
def test_malformed_options(options):
    with pytest.raises(DataError, match="here: `customization_options`"):
        parse_options(options, "here")


def test_draws_are_in_product_order(catalog):
    """First the prices from ranges, then two of the next four tens per source of goals."""
    rng = random.Random(3)
    prices = Prices(catalog, rng)
    again = random.Random(3)
    assert [prices[at] for at in range(5)] == [12.5, again.uniform(5.0, 9.5), 100.0, 12.5, 12.5]
    goals = Goals.synthetic(catalog, prices, rng)
    bounds = [max(again.sample([20, 30, 40, 50], 2)) for _ in range(2)]
    assert {goal.asin: goal.price_upper for goal in goals} == dict(
        zip(["B000000001", "B000000004"], bounds, strict=True)
    )


def test_synthetic_goals_are_all_combinations_in_official_order(catalog):
    goals = Goals.synthetic(catalog, Prices(catalog, random.Random(0)), random.Random(0))
    combinations = [
        (("color", color), ("size", size))
        for color in ("dark blue", "red", 'an "odd" one')
        for size in ("s | m", "l")
    ]
    expected = [*combinations, ()]
    random.Random(233).shuffle(expected)
    assert [goal.options for goal in goals] == expected
    assert [goal.index for goal in goals] == list(range(7))
    bound = goals[0].price_upper
    whole = next(goal for goal in goals if goal.options == combinations[3])
    assert whole.instruction == (
        "Find me wool socks with merino wool with color: red, and size: l, and price lower than "
        f"{whole.price_upper:.2f} dollars"
    )
    assert bound in (20, 30, 40, 50)
    assert whole.attributes == ("merino wool",)


def test_human_goals(catalog):
    """A record without attributes yields no goal; a final period is removed before the price."""
    goals = Goals.human(catalog, Prices(catalog, random.Random(0)), random.Random(0))
    assert len(goals) == 1
    goal = goals[0]
    assert (
        goal.instruction
        == f"i want merino socks, dark blue, and price lower than {goal.price_upper:.2f} dollars"
    )
    assert (goal.options, goal.attributes, goal.query) == (
        ("dark blue",),
        ("merino wool",),
        "wool socks",
    )


@given(st.floats(0.01, 2000), st.integers(0, 9))
def test_bounds_are_above_the_price(price, seed):
    bound = draw_bound(price, random.Random(seed))
    assert bound == NO_BOUND if price >= 980 else price < bound <= price + 50


def test_goal_indices_out_of_range(catalog):
    goals = Goals.synthetic(catalog, Prices(catalog, random.Random(0)), random.Random(0))
    with pytest.raises(IndexError):
        goals[7]


@given(st.integers(0, 20_000))
def test_default_splits_partition_the_goals(goals):
    ranges = Splits.default(goals).indices
    assert sorted(index for part in ranges.values() for index in part) == list(range(goals))


def test_default_splits():
    assert Splits.default(12_087).indices == {
        "test": range(500),
        "validation": range(500, 1500),
        "train": range(1500, 12_087),
    }
    assert Splits.default(1).split_of(0) == "train"


def test_given_splits():
    splits = Splits.of({"test": (0, 10), "train": (10, None), "late": (90, 300)}, "human", 90)
    assert splits["train"] == range(10, 90)
    assert (splits.split_of(9), splits.split_of(10), len(splits["late"])) == ("test", "train", 0)
    with pytest.raises(EnvError, match="unknown split 'dev'"):
        splits["dev"]
    with pytest.raises(ConfigError, match="overlap, first at goal 5"):
        Splits.of({"test": (0, 10), "train": (5, None)}, "human", 90)


@pytest.mark.parametrize("bounds", [(10, 5), (-1, 5), (0,), "all", 7, ("0", None)])
def test_malformed_splits(bounds):
    with pytest.raises(ConfigError, match=r"`splits\.test`"):
        Splits.of({"test": bounds}, "human", 90)


def test_presets():
    train = {
        name: Splits.of(name, "human", 12_087)["train"]
        for name in ("canonical", "eef-11k", "eef-3k")
    }
    assert [len(part) for part in train.values()] == [10_587, 10_587, 3000]
    assert all(part[0] == 1500 for part in train.values())
    assert Splits.of("synthetic-1k", "synthetic", 6910)["test"] == range(500)


@pytest.mark.parametrize(
    ("name", "kind", "goals", "message"),
    [
        (
            "canonical",
            "human",
            13,
            "'canonical', which needs at least 1,501 goals; this shop has 13 human goals",
        ),
        ("eef-3k", "synthetic", 12_087, "'eef-3k', which needs at least 12,087 human goals"),
        ("synthetic-1k", "human", 12_087, "6,910 synthetic goals"),
        ("eef-12k", "human", 12_087, "unknown split preset 'eef-12k'"),
    ],
)
def test_presets_that_do_not_fit_the_shop(name, kind, goals, message):
    with pytest.raises(ConfigError, match=message):
        Splits.of(name, kind, goals)


@pytest.fixture
def lists(tmp_path):
    (tmp_path / "train_indices.json").write_text("[30, 20, 5, 40]")
    (tmp_path / "test_indices.json").write_text("[5, 6]")
    return tmp_path


def test_splits_from_lists_of_goals(lists):
    """As in ETO's lists, the two share a goal: refused, or removed from training."""
    with pytest.raises(
        ConfigError, match=r"train and test overlap, first at goal 5 \(1 in all\)"
    ) as caught:
        Splits.of(f"eto:{lists}", "human", 50)
    assert "drop" in caught.value.hint
    splits = Splits.of(f"eto:{lists}", "human", 50, "drop")
    assert dict(splits.indices) == {"train": (30, 20, 40), "test": (5, 6)}
    assert (splits.split_of(20), splits.split_of(5), splits.split_of(0)) == ("train", "test", "")
    assert splits.to_record()["test"][0] == 2
    assert splits.to_record() != Splits.of(f"eto:{lists}", "human", 41, "drop").to_record() | {
        "train": [0, ""]
    }


@pytest.mark.parametrize(
    "content", ["[1, 50]", "[-1]", '["1"]', "{}", "3", "[true]", "[1, 1]", "[1", "[1.0]"]
)
def test_malformed_lists(lists, content):
    (lists / "test_indices.json").write_text(content)
    with pytest.raises(DataError, match=r"test_indices.json"):
        Splits.of(f"eto:{lists}", "human", 50)


def test_tasks_follow_the_order_of_their_list(tmp_path, lists):
    (lists / "train_indices.json").write_text("[6, 3]")
    (lists / "test_indices.json").write_text("[0]")
    env = make_shop(write_shop(tmp_path / "shop"), splits=f"eto:{lists}")
    assert [(task.index, task.split) for task in env.tasks("train")] == [(6, "train"), (3, "train")]
    assert json.loads(json.dumps(env.fingerprint())) == env.fingerprint()


def test_a_missing_directory(tmp_path):
    with pytest.raises(DataError, match="no such directory"):
        make_shop(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no such file `.*items_shuffle"):
        make_shop(tmp_path)


def test_two_catalogs_in_a_directory(tmp_path):
    write_shop(tmp_path)
    (tmp_path / "items_shuffle_1000.json").write_text(json.dumps(ITEMS[:1]))
    (tmp_path / "items_ins_v2_1000.json").write_text(json.dumps(NOTES))
    with pytest.raises(DataError, match="several catalogs"):
        make_shop(tmp_path)
    assert len(make_shop(tmp_path / "items_shuffle_1000.json").shop.catalog) == 1


def test_a_missing_file(tmp_path):
    write_shop(tmp_path)
    (tmp_path / "items_human_ins.json").unlink()
    assert len(make_shop(tmp_path).shop.goals) == 7
    with pytest.raises(DataError, match="no human goals"):
        make_shop(tmp_path, goals="human")
    (tmp_path / "items_ins_v2.json").unlink()
    with pytest.raises(DataError, match=r"no such file `.*items_ins_v2.json`"):
        make_shop(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"items": {}}, "holds a dict; expected a list"),
        ({"notes": []}, "holds a list; expected a dict"),
        ({"items": [*ITEMS, "a"]}, "product 8 is a str; expected an object"),
        (
            {"items": [{**ITEMS[0], "name": None}]},
            r"product 0 \(B000000001\): `name` is None; expected a string",
        ),
        (
            {"items": [{**ITEMS[0], "pricing": "12"}]},
            r"product 0 \(B000000001\): `pricing` is '12'",
        ),
        ({"items": [{**ITEMS[0], "small_description": [1]}]}, "`small_description`"),
        ({"notes": {"B000000001": []}}, "the attributes record of B000000001"),
        (
            {"notes": {"B000000001": {"attributes": "silk"}}},
            r"beside items_shuffle.json: the attributes record of B0+1: `attr",
        ),
        (
            {"notes": {"B000000001": {"instruction": "Find me socks"}}},
            "no `instruction_attributes`",
        ),
        ({"notes": {"B000000001": {"instruction": 3}}}, "`instruction` is 3"),
        (
            {"items": [{**ITEMS[0], "asin": "b000000001"}]},
            "`asin` is 'b000000001'; expected capital letters",
        ),
        ({"items": [{**ITEMS[0], "asin": 5}]}, "product 0: `asin` is 5; expected a string"),
        ({"items": [{**ITEMS[0], "pricing": 12}]}, "`pricing` is 12"),
        (
            {"human": {"B000000001": {}}},
            r"beside items_shuffle.json: human instruction of B000000001",
        ),
        ({"human": {"B000000001": ["a"]}}, "human instruction of B000000001"),
    ],
)
def test_malformed_files(tmp_path, files, message):
    with pytest.raises(DataError, match=message):
        make_shop(write_shop(tmp_path, **files))


def test_malformed_human_records(tmp_path):
    with pytest.raises(DataError, match="human instruction of B000000001"):
        make_shop(write_shop(tmp_path, human={"B000000001": [{}]}), goals="human")


def test_a_file_that_is_not_json(tmp_path):
    write_shop(tmp_path)
    (tmp_path / "items_shuffle.json").write_text('[{"asin": ')
    with pytest.raises(
        DataError, match=r"items_shuffle.json` is not valid JSON: .*member 0, near byte"
    ):
        make_shop(tmp_path)
