"""The scripted expert: wins when flawless, loses wins by each lapse, depends on seeds only."""

import os
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eef.chat import build_conversation
from eef.env import execute
from eef.envs.registry import make_env, make_expert
from eef.envs.webshop.expert import BACK, PRESETS, Lapses, ShopExpert, make_shop_expert
from eef.errors import EnvError
from eef.pipeline.recipe import load_recipe
from eef.policy import GREEDY
from eef.react import parse_completion
from eef.trajectory import Author
from tests.fakes import ROOT
from tests.fakes.shopping import buy, open_shop, play_all, rank, win_rate
from tests.fakes.small_shop import make_shop

DATA = Path(os.environ.get("EEF_WEBSHOP_DATA") or ROOT.parent / "shared" / "data" / "webshop")
SHOPS = (
    {"products": 100},
    {"family_size": 40, "option_types": 3},
    {"family_size": 4, "missing_options": 0.8},
    {"products": 2000, "look_alikes": 1.0},
    {"attribute_pool": 2, "price_spread": 60},
)


@pytest.fixture(scope="module")
def demo():
    """The shop of the demo recipe, its step limit and its number of training tasks."""
    recipe = load_recipe(ROOT / "recipes" / "demo.toml")
    return make_env(recipe.env.name, recipe.env.options), recipe.tasks.train


@pytest.fixture(scope="module")
def strong(demo):
    """The training tasks of the demo, played by its expert with several seeds."""
    env, tasks = demo
    expert = make_expert(env, "strong")
    return [play_all(env, expert, tasks, limit=env.step_limit, seed=seed) for seed in range(6)]


def lapsing(env, **lapses):
    return ShopExpert(env, Author("expert", "lapsing"), Lapses(**lapses))


# --- win rates ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shop", SHOPS, ids=str)
@pytest.mark.parametrize("goals", ["human", "synthetic"])
def test_flawless_wins_every_task_given_enough_steps(goals, shop):
    env = open_shop(goals, **shop)
    played = play_all(env, make_shop_expert(env, "flawless"), 60)
    assert [task for task, trajectory in played.items() if not trajectory.success] == []


@pytest.mark.skipif(
    not list(DATA.glob("items_shuffle*.json")), reason=f"no official data at {DATA}"
)
@pytest.mark.parametrize(("goals", "least"), [("human", 1.0), ("synthetic", 0.85)])
def test_flawless_wins_every_winnable_task_on_official_data(goals, least):
    """Goals are lost if search misses the product, or if options are compared as pairs."""
    env = make_shop(DATA, goals=goals, prompt="none")
    played = play_all(env, make_shop_expert(env, "flawless"))
    assert win_rate(played) >= least
    for task in env.tasks("train").head(len(played)):
        goal = env.shop.goals[task.index]
        assert played[task.id].success or not rank(env, goal) or buy(env, goal) < 1.0


@pytest.mark.parametrize("lapse", ["wrong_product", "settle_early", "forget_option", "buy_anyway"])
def test_each_lapse_costs_wins(lapse):
    env = open_shop(products=400)
    rates = [win_rate(play_all(env, lapsing(env, **{lapse: rate}), 60)) for rate in (0.0, 0.3, 0.9)]
    assert rates[0] == 1.0
    assert rates[0] > rates[1] > rates[2]


def test_one_rate_for_all_lapses():
    assert Lapses.rate(0.2) == Lapses(
        wrong_product=0.2, settle_early=0.2, forget_option=0.2, buy_anyway=0.2
    )
    assert Lapses.rate(0.0) == Lapses() == PRESETS["flawless"]


def test_strong_wins_about_a_third_of_the_demo_and_weak_less(strong, demo):
    env, tasks = demo
    rates = [win_rate(played) for played in strong]
    weak = [
        win_rate(play_all(env, make_expert(env, "weak"), tasks, limit=env.step_limit, seed=seed))
        for seed in range(3)
    ]
    assert 0.30 <= fmean(rates) <= 0.42
    assert 0.10 <= fmean(weak) < fmean(rates) - 0.1
    assert all(0.25 <= rate <= 0.45 for rate in rates)


def test_long_tasks_fail_more_often_than_short_ones(strong, demo):
    env, tasks = demo
    flawless = play_all(env, make_expert(env, "flawless"), tasks, limit=env.step_limit)
    assert win_rate(flawless) > 0.95
    needed = {task: item.length for task, item in flawless.items()}

    def won(lengths):
        return fmean(
            item[task].success for item in strong for task in needed if needed[task] in lengths
        )

    assert won(range(7)) > won(range(7, 9)) > won(range(9, 61))
    assert won(range(7)) > 1.5 * won(range(8, 61))


def test_a_careless_expert_shows_in_its_failures_what_its_wins_lack(demo):
    """The more careless it is after turning or returning, the fewer of its wins hold either."""
    env, tasks = demo
    counts = []
    for preset in ("careless-31", "careless-85"):
        played = play_all(env, make_expert(env, preset), tasks, limit=env.step_limit).values()
        shown = [
            item
            for item in played
            if any(step.action in ("click[next >]", "click[< prev]") for step in item.steps)
        ]
        counts.append(
            (sum(item.success for item in shown), sum(not item.success for item in shown))
        )
    (taught, lost), (few, many) = counts
    assert few <= 3 < 20 < taught
    assert lost + 20 < many
    assert abs((taught + lost) - (few + many)) <= 5, "it turns pages and returns equally often"


def test_failed_episodes_end_in_purchases(demo):
    """Failures are wrong purchases, not timeouts: EEF branches from complete episodes."""
    env, tasks = demo
    lost = [
        each
        for each in play_all(env, make_expert(env, "strong"), tasks, limit=15).values()
        if not each.success
    ]
    assert fmean(each.status == "terminated" for each in lost) > 0.9
    assert fmean(each.reward > 0 for each in lost) > 0.8


# --- determinism ----------------------------------------------------------------------------------


@given(st.integers(0, 2**31), st.sampled_from(["flawless", "strong", "weak"]))
@settings(max_examples=10)
def test_equal_seeds_play_equally_in_any_batching(seed, preset):
    env = open_shop()
    one, other = (
        play_all(env, make_shop_expert(env, preset), 15, seed=seed, batch_size=size)
        for size in (15, 4)
    )
    assert {task: one[task].steps for task in one} == {task: other[task].steps for task in one}


def test_other_seeds_play_differently():
    env = open_shop()
    plays = [play_all(env, make_shop_expert(env, "strong"), 30, seed=seed) for seed in (0, 1)]
    assert any(plays[0][task].steps != plays[1][task].steps for task in plays[0])


def test_a_turn_depends_only_on_conversation_and_seed():
    env = open_shop()
    expert = make_shop_expert(env, "strong")
    conversations = [
        build_conversation("", trajectory.steps[:at], trajectory.steps[at].observation)
        for trajectory in play_all(env, expert, 10).values()
        for at in range(len(trajectory.steps))
    ]
    seeds = list(range(len(conversations)))
    together = expert.act(conversations, seeds, GREEDY)
    backwards = expert.act(conversations[::-1], seeds[::-1], GREEDY)[::-1]
    alone = [
        make_shop_expert(env, "strong").act([conversation], [seed], GREEDY)[0]
        for conversation, seed in zip(conversations, seeds, strict=True)
    ]
    assert together == backwards == alone


def test_acting_does_not_change_the_episode():
    env = open_shop()
    env.reset(0)
    before = env.snapshot()
    play_all(env, make_shop_expert(env, "strong"), 5)
    assert env.snapshot() is before


@pytest.mark.parametrize("options", [{"observation": "text_rich"}, {"prompt": "react"}])
def test_play_does_not_depend_on_observation_or_prompt(options):
    shops = [
        make_shop(goals="human", tagger="words", synthetic={"products": 100}, **more)
        for more in ({}, options)
    ]
    plays = [play_all(env, make_shop_expert(env, "strong"), 20) for env in shops]
    for task in plays[0]:
        assert [step.action for step in plays[0][task].steps] == [
            step.action for step in plays[1][task].steps
        ]


# --- completions ----------------------------------------------------------------------------------


def test_every_turn_has_a_thought_and_an_effective_action():
    env = open_shop()
    played = play_all(env, make_shop_expert(env, "weak"), 40)
    for task in env.tasks("train").head(40):
        env.reset(task)
        for step in played[task.id].steps:
            assert parse_completion(step.completion)[0]
            before = env.session
            env.step(parse_completion(step.completion)[1])
            assert env.session is not before, step


def test_every_product_before_the_opened_one_gets_a_verdict():
    env = open_shop()
    opened = 0
    for trajectory in play_all(env, make_shop_expert(env, "flawless"), 40).values():
        for step in trajectory.steps:
            thought, action = parse_completion(step.completion)
            if action.startswith("click[B"):
                named = [word for word in thought.split() if word.startswith("B0")]
                shown = [word for word in step.observation.split() if word.startswith("B0")]
                assert named == shown[: len(named)]
                assert action == f"click[{named[-1]}]"
                assert thought.endswith(" fits.")
                opened += 1
    assert opened >= 40


def test_each_item_read_is_marked_as_needed_or_not():
    """Attributes on result pages, and options on item pages, are marked `yes` if needed."""
    env = open_shop(missing_options=0.6)
    for task, trajectory in play_all(env, make_shop_expert(env, "flawless"), 40).items():
        goal = env.shop.goals[int(task.removeprefix("webshop/"))]
        for step in trajectory.steps:
            thought, action = parse_completion(step.completion)
            words = thought.split()
            for at, word in enumerate(words):
                if word in ("yes", "not"):
                    thing = (" ".join(words[at - 2 : at]), words[at - 1])
                    assert (word == "yes") == bool({*goal.attributes, *goal.options} & {*thing}), (
                        thought
                    )
            if "missing." in words:
                assert action == BACK
            if action == BACK:
                assert words[-2:] == ["go", "back."]


def test_a_lapse_shows_in_the_thought():
    """A wrong product's attributes are marked as needed; buying anyway skips the reading."""
    env = open_shop(missing_options=0.6)
    wrong = [
        step
        for item in play_all(env, lapsing(env, wrong_product=1.0), 40).values()
        for step in item.steps
    ]
    opened = [
        parse_completion(step.completion)[0] for step in wrong if step.action.startswith("click[B0")
    ]
    assert opened
    assert all(thought.endswith(" yes fits.") for thought in opened)
    bought = [
        step
        for item in play_all(env, lapsing(env, buy_anyway=1.0), 40).values()
        for step in item.steps
    ]
    assert not any("missing." in step.completion or step.action == BACK for step in bought)


def test_long_lists_of_options_are_not_read():
    env = open_shop(missing_options=0.0)
    played = play_all(env, make_shop_expert(env, "flawless"), 20)
    read = [
        step.completion
        for item in played.values()
        for step in item.steps
        if "choose" in step.completion
    ]
    assert any(" not " in text for text in read)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eef.envs.webshop.expert.MAX_VALUES_READ", 7)
        played = play_all(env, make_shop_expert(env, "flawless"), 20)
    read = [
        step.completion
        for item in played.values()
        for step in item.steps
        if "choose" in step.completion
    ]
    assert not any(" not " in text for text in read)


def answer_to(env, *completions):
    """The flawless expert's turn after given completions in the first task."""
    conversation = build_conversation("", (), env.reset(0))
    for completion in completions:
        result = execute(env, parse_completion(completion)[1] or "")
        conversation += [
            {"role": "assistant", "content": completion},
            {"role": "user", "content": result.observation},
        ]
    return parse_completion(
        make_shop_expert(env, "flawless").act([conversation], [0], GREEDY)[0].text
    )[1]


def test_it_continues_from_other_policies_turns():
    env = open_shop()
    goal = env.shop.goals[0]
    searched = answer_to(env)
    opened = f"Action: click[{goal.asin}]"
    assert searched == f"search[{' '.join(goal.attributes)} {goal.query}]"
    assert answer_to(env, "I would buy it") == searched
    assert answer_to(env, "Action: search[zzz]") == "click[back to search]"
    way = [f"Action: {searched}", *turns_to(env, goal), opened]
    assert answer_to(env, *way) == f"click[{goal.options[0]}]"
    assert answer_to(env, *way, "Action: click[features]") == BACK


def turns_to(env, goal):
    """The number of page turns from the first results page to the goal's product."""
    return ["Action: click[next >]"] * ((rank(env, goal) - 1) // env.rules.products_per_page)


def test_a_conversation_of_another_shop():
    env = open_shop()
    conversation = [
        {"role": "user", "content": "WebShop [SEP] Instruction: [SEP] find me a moon [SEP] Search"}
    ]
    with pytest.raises(EnvError, match="is not a goal of this shop"):
        make_shop_expert(env, "strong").act([conversation], [0], GREEDY)


def test_an_unknown_preset():
    with pytest.raises(EnvError, match="unknown scripted expert 'perfect'") as caught:
        make_shop_expert(open_shop(), "perfect")
    assert "flawless" in caught.value.hint
    assert "careless-1 to careless-99" in caught.value.hint
