"""The shop's base student: a lossless tokenizer for the synthetic shop, lessons, and its build."""

import hashlib
import json
import random
import re
import string

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eef.envs.webshop import lexicon
from eef.envs.webshop.expert import BACK, NEXT, make_shop_expert
from eef.errors import ConfigError
from eef.models.loading import load_model
from eef.models.location import BASE_STUDENT
from eef.react import format_completion, parse_completion
from eef.renderer import Renderer
from eef.students.builder import build_student
from eef.students.curriculum import copying
from eef.students.shop_roles import KINDS, ShopRoles
from eef.students.tokenizer import build_tokenizer
from eef.students.webshop import (
    DECISIONS,
    MARKS,
    ShopStudentSettings,
    _helped_lesson,
    _lesson,
    _looking_up,
    play_shop,
    shop_vocabulary,
)
from tests.fakes.shopping import open_shop, play_all

pytestmark = pytest.mark.torch

SHOPS = (
    {},
    {"products": 400, "family_size": 5, "option_types": 3},
    {"products": 1200, "family_size": 2},
)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(shop_vocabulary())


@pytest.fixture(scope="module")
def renderer(tokenizer):
    return Renderer(tokenizer)


@pytest.fixture(scope="module")
def episodes():
    """Episodes of the weak expert, which takes every kind of turn, each with its shop."""
    shops = [open_shop(goals, **shop) for shop in SHOPS for goals in ("human", "synthetic")]
    return [
        (env, played)
        for env in shops
        for played in play_all(env, make_shop_expert(env, "weak"), 40).values()
    ]


# --- tokenizer ------------------------------------------------------------------------------------


def encode(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_completions_round_trip(tokenizer, episodes):
    """Decoded and encoded again, the ids are the same; the decoded action has the same effect."""
    for env, trajectory in episodes:
        env.reset(int(trajectory.task.removeprefix("webshop/")))
        for step in trajectory.steps:
            ids = encode(tokenizer, step.completion)
            written = tokenizer.decode(ids)
            assert encode(tokenizer, written) == ids
            assert parse_completion(written)[1] == step.action.lower()
            before = env.snapshot()
            expected = env.step(step.action)
            env.restore(before)
            assert env.step(parse_completion(written)[1]) == expected


def test_no_text_of_a_synthetic_shop_is_unknown(tokenizer, episodes):
    for env, trajectory in episodes:
        texts = [each for step in trajectory.steps for each in (step.observation, step.completion)]
        texts.append(trajectory.final_observation)
        product = env.shop.catalog[0]
        texts += [product.description, *product.bullets, product.title]
        for text in texts:
            assert tokenizer.unk_token_id not in encode(tokenizer, text), text


def test_the_words_of_the_shop_are_one_token_each(tokenizer):
    for word in [*lexicon.words(), "webshop", "instruction:", "[SEP]", *MARKS, *DECISIONS]:
        assert len(encode(tokenizer, word)) == 1, word


@given(
    st.lists(
        st.text(string.ascii_letters + string.digits + string.punctuation, min_size=1, max_size=9),
        max_size=6,
    )
)
def test_any_ascii_text_can_be_spelled(tokenizer, words):
    """Case and the width of spaces are lost; square brackets are reserved for actions."""
    text = " ".join(words).replace("[", "(").replace("]", ")").replace("<|", "<")
    ids = encode(tokenizer, text)
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text.lower()


def test_a_product_number_of_a_small_shop_is_two_tokens(tokenizer):
    assert tokenizer.tokenize("B000000042") == ["b000000", "##042"]
    assert tokenizer.tokenize("b000123456") == ["b000", "##123", "##456"]


def test_special_tokens_separate_the_turns(renderer, tokenizer):
    conversation = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "page"},
        {"role": "assistant", "content": "Action: click[red]"},
        {"role": "user", "content": "page"},
    ]
    text = tokenizer.decode(renderer.prompt(conversation))
    assert text.startswith("<|system|>")
    assert text.endswith("<|assistant|>")
    assert renderer.stop_ids == {tokenizer.convert_tokens_to_ids("<|end|>")}


# --- lessons --------------------------------------------------------------------------------------


def turns(rendered, tokenizer):
    """(ids, weights) of each student turn, end token included; weights of all other tokens."""
    begin, end = tokenizer.convert_tokens_to_ids(["<|assistant|>", "<|end|>"])
    own, others, speaking = [], [], False
    for token, weight in zip(rendered.ids, rendered.weights, strict=True):
        if speaking:
            own[-1][0].append(token)
            own[-1][1].append(weight)
        else:
            others.append(weight)
        if token == begin:
            own.append(([], []))
        speaking = token == begin or (speaking and token != end)
    return own, others


@pytest.fixture(scope="module")
def played():
    return list(play_shop(open_shop(missing_options=0.6), 40, seed=1))


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_page_turns_carry_loss_on_the_reading_but_not_on_the_decision(
    played, renderer, tokenizer, share
):
    """The reading ends with a mark. After it there is loss only if page turns are taught."""
    settings = ShopStudentSettings(turning_share=share, mark_weight=1.0)
    turned = 0
    for trajectory in played:
        own, others = turns(_lesson(trajectory, renderer, settings, random.Random(0)), tokenizer)
        assert len(own) == len(trajectory.steps)
        assert set(others) == {0.0}
        for step, (ids, weights) in zip(trajectory.steps, own, strict=True):
            assert ids[:-1] == encode(tokenizer, step.completion)
            if step.action not in (NEXT, BACK):
                assert set(weights) == {1.0}
                continue
            turned += 1
            read = weights.index(share) if not share else len(ids)
            assert weights == [1.0] * read + [0.0] * (len(ids) - read)
            if not share:  # the loss ends after a mark; the rest is the decision
                left = tokenizer.decode(ids[read:-1])
                assert re.fullmatch(
                    r"(thought: )?((none fits\. )?next page\.|go back\.) action: .*", left
                ), left
    assert turned > 20


def test_marks_and_decisions_weigh_more(played, renderer, tokenizer):
    lesson = _lesson(played[0], renderer, ShopStudentSettings(mark_weight=5.0), random.Random(0))
    weighty = set(tokenizer.convert_tokens_to_ids([*MARKS, *DECISIONS]))
    for token, weight in zip(lesson.ids, lesson.weights, strict=True):
        assert weight in ((0.0, 5.0) if token in weighty else (0.0, 1.0))
    assert 5.0 in lesson.weights


@pytest.fixture(scope="module")
def helpers():
    """Roles that are never wrong, in the shop of `played`."""
    env = open_shop(missing_options=0.6)
    return ShopRoles(env, {task.id: task.instruction for task in env.tasks("train")}, "flawless")


def test_a_plan_in_the_prompt_names_every_action(played, helpers):
    for trajectory in played:
        for kind in ("plan", "reflection"):
            path = helpers.help(trajectory, kind, random.Random(0))
            assert path.named == set(range(len(trajectory.steps)))
            written = [line.split(": ", 1)[1] for line in path.prompt_suffix.splitlines()[1:]]
            assert written == [step.action for step in trajectory.steps]


def test_advice_before_each_turn_names_its_action(played, helpers):
    for trajectory in played[:10]:
        path = helpers.help(trajectory, "advice", random.Random(0))
        assert [step.advice[0].text for step in path.steps] == [
            f"Aim at this next: {step.action}" for step in trajectory.steps
        ]
        assert (path.shown, path.first) == ("all", 0)


def test_critiques_compare_proposals_with_what_the_flawless_expert_does(played, helpers):
    agreed = 0
    for number, trajectory in enumerate(played):
        path = helpers.help(trajectory, "critique", random.Random(number))
        step = path.steps[-1]
        assert path.first == len(path.steps) - 1
        for each in step.advice:
            right = parse_completion(each.candidate)[1] == step.action
            agreed += right
            assert ("excellent" in each.text) == right
            assert each.text.endswith("none" if right else step.action)
    assert 0 < agreed < 3 * len(played)


@pytest.mark.parametrize("preset", ["flawless", "weak"])
def test_with_roles_the_turns_that_a_text_names_are_taught(played, renderer, tokenizer, preset):
    """Others that change the page carry loss on their reading alone; a critique is about the last
    turn."""
    env = open_shop(missing_options=0.6)
    instructions = {task.id: task.instruction for task in env.tasks("train")}
    roles = ShopRoles(env, instructions, preset)
    settings, whole, parts = ShopStudentSettings(mark_weight=1.0), 0, 0
    for number, trajectory in enumerate(played):
        lesson = _helped_lesson(trajectory, roles, renderer, settings, random.Random(number))
        rng = random.Random(number)
        path = roles.help(trajectory, rng.choice(KINDS), rng)
        own, others = turns(lesson, tokenizer)
        assert set(others) == {0.0}
        assert len(own) == len(path.steps)
        for t, (step, (ids, weights)) in enumerate(zip(path.steps, own, strict=True)):
            assert ids[:-1] == encode(tokenizer, step.completion)
            if t < path.first:
                assert not any(weights)
            elif step.action in (NEXT, BACK):
                assert (weights[-1] == 1.0) == (t in path.named)
                whole, parts = whole + (t in path.named), parts + (t not in path.named)
            else:
                assert set(weights) == {1.0}
    assert whole > 5
    assert parts > 0 if preset == "weak" else parts == 0


def test_with_roles_their_words_are_one_token_each(played, helpers):
    known = build_tokenizer(shop_vocabulary(roles=True))
    vocabulary = set(known.get_vocab())
    frames = re.compile(r"click\[.*?\]|search\[.*?\]")
    for number, trajectory in enumerate(played):
        for kind in KINDS:
            path = helpers.help(trajectory, kind, random.Random(number))
            texts = [path.prompt_suffix]
            texts += [each.text for step in path.steps for each in step.advice]
            words = frames.sub("", " ".join(texts)).lower().split()
            assert vocabulary.issuperset(words)


def test_a_share_of_page_turns_can_be_taught(played, renderer, tokenizer):
    rng = random.Random(0)
    lessons = [
        _lesson(trajectory, renderer, ShopStudentSettings(turning_share=0.5), rng)
        for trajectory in played
    ]
    taught = [
        weights[-1] > 0
        for trajectory, lesson in zip(played, lessons, strict=True)
        for step, (_, weights) in zip(trajectory.steps, turns(lesson, tokenizer)[0], strict=True)
        if step.action in (NEXT, BACK)
    ]
    assert 0.3 < sum(taught) / len(taught) < 0.7


@given(st.integers(0, 2**31))
def test_a_lookup_drill_opens_the_first_product_with_both_attributes(renderer, tokenizer, seed):
    drill = _looking_up(renderer, ShopStudentSettings(mark_weight=2.0), random.Random(seed))
    question, answer = tokenizer.decode(drill.ids).split("<|assistant|>")
    wanted, *shown = (part.strip() for part in question.replace("<|end|>", "").split("[sep]"))
    attributes = [part.strip() for part in wanted.removeprefix("<|user|>").split(",")]
    attributes[1] = " ".join(attributes[1].split()[:2])
    titles = dict(zip(shown[::2], shown[1::2], strict=True))
    assert len(titles) == len(shown) // 2, "product numbers are unique"
    thought, action = parse_completion(answer.replace("<|end|>", ""))
    fitting = next(
        asin for asin, title in titles.items() if all(name in title for name in attributes)
    )
    assert action == f"click[{fitting}]"
    need, *read = re.split(r" (?=b000)", thought)
    assert need == f"need {' '.join(attributes)}."
    for reading, (asin, title) in zip(read, titles.items(), strict=False):
        named = re.findall(r"([\w-]+ [\w-]+) (yes|not)\b", reading.removeprefix(f"{asin} "))
        assert [mark for _, mark in named] == [
            "yes" if name in attributes else "not" for name, _ in named
        ]
        assert f" {' '.join(name for name, _ in named)} " in title
        assert reading.endswith(" fits." if asin == fitting else " no.")
    assert len(read) == list(titles).index(fitting) + 1
    assert set(drill.weights) == {0.0, 1.0, 2.0}
    assert drill.trained == len(encode(tokenizer, format_completion(thought, action))) + 1


@given(st.integers(0, 2**31))
def test_a_copying_drill_repeats_the_row(renderer, seed):
    drill = copying(renderer, [range(100), range(500, 600)], random.Random(seed))
    middle = len(drill.ids) // 2
    assert drill.ids[1:middle] == drill.ids[middle + 1 :]
    assert drill.weights == (0.0,) * (middle + 1) + (1.0,) * (middle - 1)


# --- the shipped student --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    return load_model("base", dtype="float32", device="cpu", lora=None)


def test_the_shipped_student_has_this_tokenizer_and_intact_weights(shipped):
    model, tokenizer = shipped
    manifest = json.loads((BASE_STUDENT / "manifest.json").read_text())
    weights = (BASE_STUDENT / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == manifest["sha256"]["model.safetensors"]
    assert tokenizer.get_vocab() == build_tokenizer(shop_vocabulary()).get_vocab()
    assert model.config.vocab_size == len(tokenizer)


def test_the_shipped_student_reads_unseen_shops(shipped):
    """Its verdicts are right in over 95 % of cases, in drills and in whole episodes."""
    model, tokenizer = shipped
    renderer, rng, plain = (
        Renderer(tokenizer),
        random.Random(4_242),
        ShopStudentSettings(mark_weight=1.0),
    )
    lessons = [_looking_up(renderer, plain, rng) for _ in range(20)]
    lessons += [
        _lesson(trajectory, renderer, plain, rng)
        for trajectory in play_shop(open_shop(seed=4_242, price_spread=0), 12, seed=1)
    ]
    marks = set(tokenizer.convert_tokens_to_ids(list(MARKS)))
    right = []
    for lesson in lessons:
        with torch.no_grad():
            predicted = (
                model(input_ids=torch.tensor([lesson.ids])).logits[0, :-1].argmax(-1).tolist()
            )
        right += [
            guess == token
            for guess, token, weight in zip(
                predicted, lesson.ids[1:], lesson.weights[1:], strict=True
            )
            if weight and token in marks
        ]
    assert len(right) > 200
    assert sum(right) / len(right) > 0.95


# --- the build ------------------------------------------------------------------------------------

SMALL = ShopStudentSettings(
    width=32,
    layers=1,
    drills=20,
    drill_updates=2,
    shops=2,
    tasks=6,
    updates=3,
    batch_size=4,
    threads=1,
)


def test_the_build_is_deterministic_and_its_student_loads(tmp_path):
    reports = []
    for name in ("one", "two"):
        build_student(
            "webshop",
            tmp_path / name,
            SMALL,
            on_progress=lambda each: reports.append((each.subject, each.done, each.total)),
        )
    assert reports[: len(reports) // 2] == [
        ("playing", 1, 2),
        ("playing", 2, 2),
        ("training on drills", 1, 2),
        ("training on drills", 2, 2),
        ("training on lessons", 1, 3),
        ("training on lessons", 2, 3),
        ("training on lessons", 3, 3),
    ]
    models = []
    for name in ("one", "two", "one"):
        model, tokenizer = load_model(
            str(tmp_path / name), dtype="float32", device="cpu", lora=None
        )
        assert tokenizer.get_vocab() == build_tokenizer(shop_vocabulary()).get_vocab()
        assert model.config.hidden_size == 32
        models.append(model.state_dict())
    assert all(torch.equal(models[0][key], other[key]) for other in models for key in models[0])


def test_another_seed_builds_another_student(tmp_path):
    weights = []
    for seed in (1, 2):
        build_student(
            "webshop", tmp_path / str(seed), SMALL.model_copy(update={"seed": seed, "updates": 1})
        )
        model, _ = load_model(str(tmp_path / str(seed)), dtype="float32", device="cpu", lora=None)
        weights.append(model.get_input_embeddings().weight)
    assert not torch.equal(*weights)


def test_a_build_without_short_enough_episodes_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="longer than `max_episode_tokens` = 100"):
        build_student(
            "webshop", tmp_path / "none", SMALL.model_copy(update={"max_episode_tokens": 100})
        )
    assert not (tmp_path / "none").exists()
