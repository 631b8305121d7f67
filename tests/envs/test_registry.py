"""Environments by name: settings are checked before anything is loaded, and a mistake names the nearest right word."""

import pytest

from eef.envs.registry import ENVIRONMENTS, env_spec, make_env, make_expert
from eef.errors import ConfigError, EnvError
from eef.trajectory import Author

SMALL = {"synthetic": {"products": 100}}


@pytest.mark.parametrize(("name", "options"), [("webshop", SMALL), ("toy", {"tasks_per_split": 3})])
def test_by_name(name, options):
    env = make_env(name, options)
    assert env.name == name
    assert make_expert(env, "strong").author == Author("expert", "strong")
    with pytest.raises(EnvError, match="unknown scripted expert 'best'"):
        make_expert(env, "best")


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_environment_has_a_spec_and_an_expert(name):
    assert env_spec(name).make.name == name
    assert env_spec(name).make_expert is not None


@pytest.mark.parametrize(
    ("name", "options", "message", "hint"),
    [
        ("webshp", {}, "unknown environment 'webshp'", "did you mean 'webshop'?"),
        (
            "atari",
            {},
            "unknown environment 'atari'",
            "known environments: webshop, scienceworld, textworld-express, toy",
        ),
        (
            "webshop",
            {"step_limits": 3},
            "environment 'webshop': unknown setting 'step_limits'",
            "did you mean 'step_limit'?",
        ),
        (
            "toy",
            {"zzz": 3},
            "environment 'toy': unknown setting 'zzz'",
            "known settings: tasks_per_split, step_limit",
        ),
        ("webshop", {"data": 5}, "`data` is 5; expected a string", ""),
        ("webshop", {"step_limit": "long"}, "`step_limit` is 'long'; expected an integer", ""),
        (
            "webshop",
            {"splits": 5},
            "environment 'webshop': `splits` is 5; expected a string or a table",
            "",
        ),
        (
            "webshop",
            {"splits": {"test": [1]}},
            "`splits",
            "",
        ),
        (
            "webshop",
            {"goals": "easy"},
            "`goals` is 'easy'; expected 'synthetic' or 'human'",
            "",
        ),
        (
            "webshop",
            {"synthetic": {"sed": 1}},
            "unknown setting 'synthetic.sed'",
            "did you mean 'synthetic.seed'?",
        ),
        ("toy", {"tasks_per_split": 1.5}, "`tasks_per_split` is 1.5; expected an integer", ""),
    ],
)
def test_mistakes(name, options, message, hint):
    with pytest.raises(ConfigError) as caught:
        make_env(name, options)
    assert message in caught.value.message
    assert caught.value.hint == hint


def test_lists_of_a_recipe_are_taken_as_pairs():
    env = make_env(
        "webshop", {**SMALL, "goals": "human", "splits": {"test": [0, 30], "train": [30, None]}}
    )
    assert {name: len(env.tasks(name)) for name in ("test", "train")} == {"test": 30, "train": 70}
