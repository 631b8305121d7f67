"""Recipes: files, overrides, defaults, and one clear line for every mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eef.config import SettingRow, Settings, apply_override, parse_settings, settings_table
from eef.envs.registry import make_env
from eef.errors import ConfigError
from eef.methods.registry import METHODS, make_method, method_class
from eef.models.settings import LoraSettings
from eef.pipeline.recipe import Recipe, load_recipe
from eef.training.settings import TrainSettings

TOML = """
name = "shop"
seed = 7
methods = ["bc", "eef"]

[env]
name = "webshop"
products = 1000

[model.lora]
rank = 8

[train]
updates = 200

[options.eef]
M = 3
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(TOML, encoding="utf-8")
    return path


def recipe(**settings) -> Recipe:
    return parse_settings(Recipe, {"env": {"name": "toy"}, **settings}, source="recipe")


def test_a_toml_recipe(recipe_file):
    loaded = load_recipe(recipe_file)
    assert (loaded.name, loaded.methods, loaded.options) == (
        "shop",
        ("bc", "eef"),
        {"eef": {"M": 3}},
    )
    assert (loaded.env.name, loaded.env.options) == ("webshop", {"products": 1000})
    assert loaded.model.lora == LoraSettings(rank=8)
    assert (loaded.train.updates, loaded.train.epochs, loaded.train.seed) == (200, None, 7)


def test_a_yaml_recipe_is_equal(recipe_file, tmp_path):
    written = tmp_path / "recipe.yaml"
    written.write_text(
        "name: shop\nseed: 7\nmethods: [bc, eef]\nenv: {name: webshop, products: 1000}\n"
        "model: {lora: {rank: 8}}\ntrain: {updates: 200}\noptions: {eef: {M: 3}}\n",
        encoding="utf-8",
    )
    assert load_recipe(written) == load_recipe(recipe_file)


def test_a_resolved_recipe_loads_to_an_equal_one(recipe_file, tmp_path):
    first = load_recipe(recipe_file, ["tasks.train=null"])
    resolved = tmp_path / "resolved.json"
    resolved.write_text(first.to_json(), encoding="utf-8")
    assert load_recipe(resolved) == first
    assert json.loads(first.to_json())["train"]["warmup_ratio"] == first.train.warmup_ratio


def test_overrides(recipe_file):
    overrides = ["train.updates=null", "train.epochs=2.5", "env.split=human", "model.lora.rank=4"]
    loaded = load_recipe(recipe_file, [*overrides, "methods=['eef']"])
    assert (loaded.train.epochs, loaded.env.options["split"]) == (2.5, "human")
    assert (loaded.model.lora, loaded.methods) == (LoraSettings(rank=4), ("eef",))


@given(st.text("abc=.\n #'\"[]{}1", max_size=8))
def test_an_override_changes_only_its_key(text):
    data = {"name": "a"}
    apply_override(data, f"x.y={text}")
    assert data.keys() == {"name", "x"}
    assert data["x"].keys() == {"y"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.updates", "not `key=value`"),
        ("=3", "not `key=value`"),
        ("train..updates=3", "not `key=value`"),
        ("seed.x=3", "`seed` is a value, not a table"),
    ],
)
def test_invalid_overrides_are_refused(recipe_file, override, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe(recipe_file, [override])


@pytest.mark.parametrize(
    ("settings", "message", "hint"),
    [
        (
            {"train": {"learnin_rate": 1}},
            "unknown setting 'train.learnin_rate'",
            "mean 'train.learning_rate'?",
        ),
        (
            {"learning_rate": 1},
            "unknown setting 'learning_rate'",
            "did you mean 'train.learning_rate'?",
        ),
        ({"trian": {"updates": 1}}, "unknown setting 'trian'", "did you mean 'train'?"),
        (
            {"model": {"lora": {"rnk": 8}}},
            "unknown setting 'model.lora.rnk'",
            "did you mean 'model.lora.rank'?",
        ),
        (
            {"chat": {"zzz": 8}},
            "unknown setting 'chat.zzz'",
            "known settings: format, loss_on, thoughts",
        ),
        ({"train": {"updates": "5"}}, "`train.updates` is '5'; expected an integer", ""),
        ({"train": 3}, "`train` is 3; expected a table", ""),
        ({"methods": "eef"}, "`methods` is 'eef'; expected a list", '`["eef"]`'),
        ({"methods": "[bc, eef]"}, "expected a list", '`["bc", "eef"]`'),
        ({"methods": '["bc","eef"'}, "expected a list", "the list is not closed: add `]`"),
        ({"methods": 3}, "`methods` is 3; expected a list", "`[3]`"),
        ({"TRAIN": {}}, "unknown setting 'TRAIN'", "did you mean 'train'?"),
        ({"expert": {"names": "scripted/weak"}}, "expected a list", '`["scripted/weak"]`'),
        ({"methods": []}, r"`methods` is \[\]; expected at least 1 item", ""),
        ({"methods": ["bc", "bc"]}, "twice", ""),
        ({"env": {}}, "`env.name` is missing", "no default"),
        (
            {"sampling": {"temperature": -1.0}},
            "`sampling.temperature` is -1.0; expected 0 or more",
            "",
        ),
        ({"train": {"updates": 0}}, "`train.updates` is 0; expected 1 or more", ""),
        ({"train": {"schedule": "step"}}, "is 'step'; expected 'cosine', 'linear' or", ""),
        (
            {"train": {"start": "last"}},
            "unknown setting 'train.start'",
            "named 'train.init_from' now",
        ),
        (
            {"train": {"micro_tokens": 9}},
            "unknown setting 'train.micro_tokens'",
            "it is named 'train.max_tokens_per_microbatch' now",
        ),
        ({"train": {"oven": 9}}, "unknown setting 'train.oven'", "known settings: updates"),
        ({"sampling": {"temperature": 0.0, "top_p": 0.5}}, "`top_p` has no effect", ""),
        ({"train": {"updates": 5, "epochs": 1.0}}, "both set; remove one", ""),
        ({"methods": ["bc"], "options": {"eef": {}}}, "`options.eef` has no effect", ""),
    ],
)
def test_a_mistake_is_reported_in_one_line(settings, message, hint):
    with pytest.raises(ConfigError, match=message) as error:
        recipe(**settings)
    assert error.value.message.startswith("recipe: ")
    assert "\n" not in error.value.message
    assert hint in error.value.hint


@pytest.mark.parametrize(
    "override", ["train.seed=null", "model.lora=null", "chat.x=null", "x=null"]
)
def test_null_removes_a_setting(recipe_file, override):
    loaded = load_recipe(recipe_file, ["train.seed=5", "model.lora.rank=4", override])
    assert loaded.train.seed == (7 if "seed" in override else 5)
    assert (loaded.model.lora is None) == ("lora" in override)


def test_a_setting_without_effect_comes_with_the_way_out():
    with pytest.raises(ConfigError, match="`synthetic` has no effect on a data dir") as error:
        make_env("webshop", {"data": "nowhere", "synthetic": {"seed": 1}})
    assert "`--set env.synthetic=null`" in error.value.hint


def test_an_option_in_another_case_is_suggested():
    with pytest.raises(ConfigError, match="unknown setting 'm'") as error:
        make_method("eef", {"m": 3})
    assert error.value.hint == "did you mean 'M'?"


def test_a_default_that_is_another_setting_is_shown_as_null():
    assert {row.key: row.default for row in settings_table(Recipe)}["train.seed"] == "null"


def test_a_value_that_may_have_several_types():
    class Either(Settings):
        size: int | str

    with pytest.raises(ConfigError, match=r"^x: `size` is 1\.5; expected an integer or a string$"):
        parse_settings(Either, {"size": 1.5}, source="x")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.toml", "name = ", "not valid toml"),
        ("a.yaml", "name: [", "not valid yaml"),
        ("a.json", "{", "not valid json"),
        ("a.yaml", "- 1", "found list"),
        ("a.yaml", "", "found NoneType"),
        ("a.ini", "x", "cannot read recipe"),
    ],
)
def test_a_file_that_is_not_a_recipe(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as error:
        load_recipe(path)
    assert name in error.value.message


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"missing\.toml"):
        load_recipe(tmp_path / "missing.toml")


def test_training_takes_the_seed_of_the_recipe():
    assert recipe(seed=3).train.seed == 3
    assert recipe(seed=3, train={"seed": 4}).train.seed == 4


def test_updates_and_epochs_exclude_each_other():
    assert TrainSettings().epochs == recipe().train.epochs == 3.0
    assert TrainSettings(updates=5).epochs is None
    assert TrainSettings(updates=None, epochs=1.0).epochs == 1.0


def test_evaluation_is_greedy_and_otherwise_like_exploration():
    loaded = recipe(sampling={"max_tokens": 64, "temperature": 1.0})
    assert loaded.evaluation_sampling.temperature == 0.0
    assert loaded.evaluation_sampling.max_tokens == 64


def test_settings_are_immutable():
    with pytest.raises(ValueError, match="frozen"):
        recipe().train.updates = 3


@pytest.mark.parametrize("kind", [Recipe, *(method_class(name).Options for name in METHODS)])
def test_every_setting_has_help(kind: type[Settings]):
    rows = settings_table(kind)
    assert all(row.description.endswith(".") and row.type for row in rows)
    assert len({row.key for row in rows}) == len(rows)


def test_the_table_of_settings():
    rows = {row.key: row for row in settings_table(Recipe)}
    assert rows["train.updates"] == SettingRow(
        "train.updates", "integer", "null", "Optimizer updates per round (instead of `epochs`)."
    )
    assert rows["env.name"].default == "required"
    assert rows["methods"].type == "list of strings"
    assert rows["train.schedule"].type == "`cosine` or `linear` or `constant`"


def test_a_key_with_half_a_character_is_refused():
    with pytest.raises(ConfigError, match=r"recipe: a key contains '\\ud800'") as refused:
        recipe(options={"\ud800": {"M": 3}})
    assert "`options.\\ud800` has no effect" in refused.value.hint


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("r.yaml", "env: {name: toy}\nrounds: 1\nrounds: 2\n", "the key 'rounds' occurs twice"),
        ("r.yaml", "env: {name: toy, name: webshop}\n", "the key 'name' occurs twice"),
        ("r.yaml", "env: {name: toy}\n{a: 1}: 2\n", "unhashable key"),
        ("r.json", '{"env": {"name": "toy"}, "seed": 1, "seed": 2}', "the key 'seed' occurs twice"),
        ("r.json", "[" * 200_000, "not valid json"),
        ("r.toml", "[env]\nname = 'toy'\n[tasks]\ntrain = " + "9" * 5000, "not valid toml"),
        ("r.toml", "[env]\nname = 'toy'\n[train]\nlearning_rate = inf", "finite number"),
    ],
)
def test_a_recipe_that_cannot_be_meant_is_refused(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_recipe(path)


def test_a_byte_order_mark_is_no_part_of_a_recipe(recipe_file):
    before = load_recipe(recipe_file)
    recipe_file.write_bytes(b"\xef\xbb\xbf" + recipe_file.read_bytes())
    assert load_recipe(recipe_file) == before


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 3000])
def test_a_value_that_toml_cannot_parse_is_text(value):
    data = {}
    apply_override(data, f"name={value}")
    assert data == {"name": value}


def test_a_yaml_recipe_may_replace_what_it_merges(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        "env: {name: toy}\nmethods: [bc, eef]\n"
        "options: {bc: &o {bc_experts: [strong]}, eef: {<<: *o, M: 2, bc_experts: [weak]}}\n"
    )
    options = load_recipe(path).options["eef"]
    assert options == {"M": 2, "bc_experts": ["weak"]}
