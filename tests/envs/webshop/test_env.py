"""WebShop as an environment: protocol, snapshots equal to replay, robust to any action."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eef.env_check import check_env
from eef.errors import ConfigError, EnvError
from eef.replay import replay
from eef.trajectory import PathStep, Step
from tests.fakes.small_shop import make_shop, write_shop


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    return make_shop(write_shop(tmp_path_factory.mktemp("shop")), observation="text_rich")


def test_protocol(env):
    actions = [
        "search[socks]",
        "click[b000000001]",
        "click[red]",
        "click[features]",
        "click[< prev]",
        "click[buy now]",
    ]
    assert check_env(env, actions=actions)
    assert check_env(make_shop(synthetic={"products": 100}))


ACTIONS = st.one_of(
    st.sampled_from(
        [
            "search[socks]",
            "search[wool]",
            "search[ ]",
            "search[<q> hats]",
            "click[next >]",
            "click[< prev]",
            "click[back to search]",
            "click[b000000001]",
            "click[b000000004]",
            "click[red]",
            "click[l]",
            'click[an "odd" one]',
            "click[description]",
            "click[features]",
            "click[reviews]",
            "click[buy now]",
            "",
        ]
    ),
    st.text(max_size=12).map(lambda text: f"search[{text}]"),
    st.text(max_size=12),
)


@given(st.integers(0, 6), st.lists(ACTIONS, max_size=14))
def test_snapshot_agrees_with_replay(env, goal, actions):
    """From any state, a restored snapshot continues like the same actions from the start."""
    player, other = env.clone(), env.clone()
    snapshots, observations, results = [], [player.reset(goal)], []
    for action in actions:
        snapshots.append(player.snapshot())
        results.append(player.step(action))
        observations.append(results[-1].observation)
    for snapshot, action, result in zip(snapshots, actions, results, strict=True):
        other.restore(snapshot)
        assert other.step(action) == result
    assert other.reset(goal) == observations[0]
    assert [other.step(action) for action in actions] == results


@given(st.lists(ACTIONS, max_size=14))
def test_every_action_is_answered(env, actions):
    player = env.clone()
    player.reset(0)
    for action in actions:
        before = player.session
        result = player.step(action)
        assert result.observation
        assert 0.0 <= result.reward <= 1.0
        assert result.terminated == (player.session is not before and player.session.view == "done")
        assert result.terminated or result.reward == 0.0
        assert player.available()["has_search_bar"] == (player.session.view == "search")


def test_verified_replay(env):
    player = env.clone()
    task = env.tasks("train")[0]
    steps, observation = [], player.reset(task)
    for action in ("search[socks]", "click[b000000001]", "nonsense", "click[red]"):
        steps.append(Step(observation=observation, completion="", action=action))
        observation = player.step(action).observation
    replay(env.clone(), task, [PathStep(step, "e", at) for at, step in enumerate(steps)])


def test_clones_are_independent_episodes(env):
    one, other = env.clone(), env.clone()
    one.reset(0)
    other.reset(1)
    one.step("search[socks]")
    assert other.session.view == "search"
    assert one.shop is other.shop
    with pytest.raises(EnvError, match="no episode has been started"):
        one.clone().step("search[socks]")


def test_a_clone_restores_another_clones_snapshot(env):
    one, other = env.clone(), env.clone()
    one.reset(0)
    one.step("search[socks]")
    other.restore(one.snapshot())
    assert other.step("click[b000000001]") == one.step("click[b000000001]")
    with pytest.raises(EnvError, match="cannot restore a dict"):
        one.restore({})


def test_tasks(env):
    train = env.tasks("train")
    assert [task.index for task in train] == list(env.splits["train"])
    task = train[0]
    assert (task.id, task.env, task.split) == (f"webshop/{task.index}", "webshop", "train")
    assert env.task(task.index) == task
    assert task.instruction in env.clone().reset(task)
    with pytest.raises(EnvError, match="unknown goal 7; there are 7"):
        env.task(7)
    with pytest.raises(EnvError, match="unknown goal -1"):
        env.clone().reset(-1)
    with pytest.raises(EnvError, match="unknown split 'dev'"):
        env.tasks("dev")


def test_a_task_of_another_shop_is_refused(env, tmp_path):
    other = make_shop(write_shop(tmp_path), goals="human")
    with pytest.raises(EnvError, match="not of this shop") as caught:
        env.clone().reset(other.task(0))
    assert "price_seed" in caught.value.hint


def test_reward_parts(env):
    player = env.clone()
    player.reset(0)
    with pytest.raises(EnvError, match="nothing has been bought"):
        player.reward_parts()
    for action in ("search[socks]", "click[b000000001]"):
        player.step(action)
    result = player.step("click[buy now]")
    assert player.reward_parts()["reward"] == result.reward
    assert player.score([0.0, 0.0, result.reward]) == result.reward
    assert player.score([]) == 0.0


def test_search(env):
    hits = env.search("wool hat")
    assert hits[0][0] == "B000000004"
    assert all(isinstance(asin, str) and isinstance(score, float) for asin, score in hits)


def test_the_fingerprint_covers_every_setting(env, tmp_path):
    directory = write_shop(tmp_path)
    base = make_shop(directory).fingerprint()
    assert json.loads(json.dumps(base)) == base
    assert make_shop(directory).fingerprint() == base
    others = [
        make_shop(directory, goals="human"),
        make_shop(directory, price_seed=1),
        make_shop(directory, observation="text_rich"),
        make_shop(directory, products_per_page=3),
        make_shop(directory, splits={"train": (0, 3)}),
        make_shop(directory, prompt="none"),
        make_shop(directory, compat=False),
        make_shop(directory, attributes_page=True),
        make_shop(write_shop(tmp_path / "other", human={})),
        make_shop(synthetic={"products": 100}),
        make_shop(synthetic={"products": 100, "seed": 1}),
    ]
    prints = [json.dumps(other.fingerprint(), sort_keys=True) for other in [*others, env]]
    assert len({json.dumps(base, sort_keys=True), *prints}) == len(others) + 1
    assert base["tagger"] == env.shop.tagger


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"goals": "official"}, "`goals` is 'official'"),
        ({"observation": "html"}, "`observation` is 'html'"),
        ({"prompt": "act"}, "`prompt` is 'act'"),
        ({"products_per_page": 0}, "`products_per_page` is 0"),
        ({"step_limit": 0}, "`step_limit` is 0"),
        ({"synthetic": {"product": 5}}, "unknown setting 'synthetic.product'"),
    ],
)
def test_invalid_settings(setting, message):
    with pytest.raises(ConfigError, match=message):
        make_shop(**setting)


def test_settings_without_effect_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no effect"):
        make_shop(write_shop(tmp_path), synthetic={"products": 100})


def test_prompt(env, tmp_path):
    assert "search[" in env.prompt
    assert "Action:" in env.prompt
    assert make_shop(write_shop(tmp_path), prompt="none").prompt == ""
