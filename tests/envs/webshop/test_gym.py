"""WebShop in Gymnasium: its checker, seeds, options, termination and truncation."""

import pickle
import subprocess
import sys

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from eef.envs.registry import make_env
from eef.envs.webshop.gym import ID, AnyText
from eef.errors import ConfigError, EnvError
from tests.fakes.small_shop import write_shop

SHOP = {"synthetic": {"products": 100}, "tagger": "words"}


@pytest.fixture
def env():
    return gymnasium.make(ID, **SHOP)


@pytest.mark.parametrize("observation", ["text", "text_rich"])
def test_gymnasiums_checker_passes(observation):
    check_env(gymnasium.make(ID, observation=observation, **SHOP).unwrapped)


def test_it_is_made_by_its_name():
    """In a fresh interpreter, with the module named before the id."""
    make = f"gymnasium.make('eef.envs.webshop.gym:{ID}', **{SHOP})"
    script = f"import gymnasium; print({make}.reset(seed=1)[0])"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith("WebShop [SEP] Instruction:"), done.stderr


def test_it_plays_like_the_environment(env):
    plain = make_env("webshop", SHOP)
    page, info = env.reset(options={"task": 2})
    assert (page, info["task"]) == (plain.reset(2), "webshop/2")
    goal = plain.goal
    assert info["instruction"] == goal.instruction
    for action in (
        f"search[{goal.query}]",
        "click[next >]",
        "Sesame",
        "",
        f"search[{goal.instruction}]",
    ):
        page, reward, terminated, truncated, info = env.step(action)
        assert (page, reward, terminated, truncated) == (
            plain.step(action).observation,
            0.0,
            False,
            False,
        )
        assert {key: info[key] for key in ("has_search_bar", "clickables")} == plain.available()
        assert info["reward_parts"] == {}
    for action in (f"click[{goal.asin}]", "click[buy now]"):
        page, reward, terminated, truncated, info = env.step(action)
        result = plain.step(action)
    assert (page, reward, terminated, truncated) == (result.observation, result.reward, True, False)
    assert info["reward_parts"] == plain.reward_parts()
    assert type(reward) is float
    assert info["clickables"] == []


def test_a_limit_truncates(env):
    env.reset(seed=0)
    assert [env.step("nothing")[2:4] for _ in range(10)] == [(False, False)] * 9 + [(False, True)]
    longer = gymnasium.make(ID, max_episode_steps=3, **SHOP)
    longer.reset(seed=0)
    assert [longer.step("nothing")[3] for _ in range(3)] == [False, False, True]


def test_seeds_draw_tasks_of_the_split(env):
    def drawn(seed):
        return [env.reset(seed=seed)[1]["task"], *(env.reset()[1]["task"] for _ in range(5))]

    assert drawn(3) == drawn(3) != drawn(4)
    test = gymnasium.make(ID, split="test", **SHOP)
    known = {task.id for task in make_env("webshop", SHOP).tasks("test")}
    assert {test.reset(seed=seed)[1]["task"] for seed in range(20)} <= known
    assert set(drawn(3)).isdisjoint(known)


def test_returned_values_can_be_modified(env):
    _, info = env.reset(seed=0)
    info["clickables"].append("x")
    assert env.step("nothing")[4]["clickables"] == ["search"]


def test_many_side_by_side():
    envs = gymnasium.make_vec(
        ID, num_envs=3, vectorization_mode="sync", vector_kwargs={"copy": False}, **SHOP
    )
    pages, infos = envs.reset(seed=5)
    assert len(pages) == len(set(infos["task"])) == 3
    pages, rewards, *_ = envs.step(("search[shirt]",) * 3)
    assert all("Page 1" in page for page in pages)
    assert list(rewards) == [0, 0, 0]
    envs.close()


def test_render(env):
    shown = gymnasium.make(ID, render_mode="ansi", **SHOP)
    page, _ = shown.reset(seed=0)
    assert shown.render() == page
    assert env.unwrapped.render_mode is None


def test_any_text_is_in_both_spaces():
    texts = AnyText(seed=0)
    assert all(text in texts for text in ("", "é" * 100_000, "\x00", "\ud800", texts.sample()))
    assert 5 not in texts
    assert AnyText(seed=1).sample() == AnyText(seed=1).sample()
    assert pickle.loads(pickle.dumps(texts)) == texts


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task": 10**6}, "unknown goal 1000000"),
        ({"task": -1}, "unknown goal -1"),
        ({"task": "3"}, "expected a goal index"),
        ({"task": 1.5}, "expected a goal index"),
        ({"goal": 1}, "unknown reset option 'goal'"),
    ],
)
def test_invalid_reset_options(env, options, words):
    with pytest.raises(EnvError, match=words):
        env.reset(options=options)


def test_invalid_settings(tmp_path):
    with pytest.raises(ConfigError, match="`step_limit` has no effect"):
        gymnasium.make(ID, step_limit=5)
    with pytest.raises(ConfigError, match="unknown setting 'color'"):
        gymnasium.make(ID, color="red")
    with pytest.raises(EnvError, match="no tasks in split 'dev'"):
        gymnasium.make(ID, data=str(write_shop(tmp_path)), split="dev")
