"""Fuzzing: any files are refused with a reason or make a playable shop; any action is answered."""

import json
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eef.envs.webshop.index import MANIFEST_FILE, STATE_FILE, index_directory, open_index
from eef.envs.webshop.official import OfficialFiles
from eef.envs.webshop.session import parse
from eef.errors import DataError, EefError
from tests.fakes.small_shop import HUMAN, ITEMS, NOTES, make_shop, write_shop

MANY_OPTIONS = {str(name): [{"value": str(at)} for at in range(40)] for name in range(30)}
FILES = ("items_shuffle.json", "items_ins_v2.json", "items_human_ins.json")
# Includes lone surrogates and control characters.
texts = st.text(st.characters(codec=None), max_size=20)
words = texts | st.sampled_from(
    ["Wool Socks", "wool socks", "Red", "a › b", " ", "buy now", "< prev", "B000000002"]
)
odd = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**25), 10**25) | st.floats(allow_nan=False) | words,
    lambda parts: (
        st.lists(parts, max_size=3) | st.dictionaries(words | st.just("value"), parts, max_size=3)
    ),
    max_leaves=6,
) | st.sampled_from(["$", "12", "$1.5.5", "nan"])
choices = st.dictionaries(
    words, st.none() | st.lists(st.fixed_dictionaries({"value": words}), max_size=3), max_size=3
)
prices = st.sampled_from(["", None, "$1", "$5 - $3", "$" + "9" * 400, "$١٢", "$0", "$1,000 - $2"])


def maybe_broken(whole):
    """A record as is, or without one of its fields, or with an odd value in one."""
    broken = st.tuples(whole, st.randoms(), st.just(...) | odd).map(lambda given: break_one(*given))
    return st.one_of(whole, whole, whole, whole, broken)


def break_one(record, chance, value):
    key = chance.choice(sorted(record))
    return {
        name: value if name == key else kept
        for name, kept in record.items()
        if name != key or value is not ...
    }


def item(asin):
    return maybe_broken(st.fixed_dictionaries({
        "asin": st.just(asin), "name": words, "full_description": words, "pricing": prices,
        "query": words, "small_description": words | st.lists(words, max_size=3),
        "category": words, "product_category": words,
        "customization_options": st.just("") | st.none() | choices,
    }))  # fmt: skip


two_items = st.builds(
    lambda one, more: [one, *more], item("B000000001"), st.lists(item("B000000002"), max_size=1)
)
items = st.one_of(two_items, two_items, two_items, st.lists(odd, max_size=2))
note = st.fixed_dictionaries({
    "attributes": st.lists(words, max_size=3), "instruction": words,
    "instruction_attributes": st.lists(words, min_size=1),
})  # fmt: skip
notes = st.fixed_dictionaries({"B000000001": maybe_broken(note)}, optional={"x": odd})
asked = st.fixed_dictionaries({
    "instruction": words, "instruction_attributes": st.lists(words, min_size=1),
    "instruction_options": st.lists(words),
})  # fmt: skip
human = st.fixed_dictionaries(
    {"B000000001": st.lists(maybe_broken(asked), min_size=1)}, optional={"x": odd}
)


@pytest.fixture(scope="module")
def somewhere(tmp_path_factory):
    return tmp_path_factory.mktemp("somewhere")


def play_all_pages(env):
    """Click everything that can be clicked in an episode of the first goal, then buy."""
    assert env.reset(0)
    env.step(f"search[{env.goal.instruction}]")
    env.step(f"search[{env.shop.product(env.goal.asin).title}]")
    for label in env.available()["clickables"]:
        before = env.snapshot()
        for action in (
            f"click[{label}]",
            "click[description]",
            "click[< prev]",
            "click[features]",
            "click[< prev]",
        ):
            assert isinstance(env.step(action).observation, str)
        for choice in env.available()["clickables"]:
            env.step(f"click[{choice}]")
        result = env.step("click[buy now]")
        assert 0 <= result.reward <= 1
        env.restore(before)
    assert json.loads(json.dumps(env.fingerprint())) == env.fingerprint()


def open_or_refuse(directory, **options):
    """Play the shop; return "", or the one-line message if its files are refused."""
    try:
        env = make_shop(directory, tagger="words", observation="text_rich", **options)
    except EefError as error:
        message = error.message
        assert message.splitlines() == [message]
        return message
    play_all_pages(env)
    return ""


@given(items, notes, human, st.sampled_from(["human", "synthetic"]))
@example(
    ITEMS[:1],
    {"B000000001": NOTES["B000000001"] | {"instruction_attributes": "silk"}},
    {},
    "synthetic",
)
@example([ITEMS[0] | {"customization_options": MANY_OPTIONS}], NOTES, HUMAN, "synthetic")
@example([ITEMS[0] | {"pricing": "$" + "9" * 400}], NOTES, HUMAN, "synthetic")
@example(
    [ITEMS[0] | {"name": "\ud800", "full_description": "\x00\x1b[2J", "query": "\u200d"}],
    NOTES,
    HUMAN,
    "human",
)
def test_any_records_make_a_shop_or_are_refused(somewhere, items, notes, human, goals):
    directory = somewhere / "records"
    directory.mkdir(exist_ok=True)
    for name, content in zip(FILES, (items, notes, human), strict=True):
        (directory / name).write_text(json.dumps(content), encoding="utf-8")
    message = open_or_refuse(directory, goals=goals)
    assert open_or_refuse(directory, goals=goals, index=str(somewhere / "index")) == message


@given(st.sampled_from(FILES), st.data())
def test_damaged_files_make_a_shop_or_are_refused(somewhere, name, data):
    directory = write_shop(somewhere / "bytes")
    whole = (directory / name).read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    damage = data.draw(st.sampled_from(["cut", "lost", "other", "more"]))
    other = data.draw(st.binary(min_size=1, max_size=3))
    changed = {
        "cut": whole[:at], "lost": whole[:at] + whole[at + 2 :], "more": whole + other,
        "other": whole[:at] + other + whole[at + len(other) :],
    }[damage]  # fmt: skip
    (directory / name).write_bytes(changed)
    message = open_or_refuse(directory)
    if damage == "cut":
        assert f"{name}` is not valid JSON" in message


@given(odd, st.sampled_from([MANIFEST_FILE, STATE_FILE]))
@example({"version": 1}, MANIFEST_FILE)
@example({"version": 1}, STATE_FILE)
@settings(max_examples=20)
def test_an_index_with_odd_records_is_rebuilt(somewhere, written, note):
    files = OfficialFiles.find(write_shop(somewhere / "indexed"))
    directory = index_directory(files, somewhere / "notes")
    open_index(files, somewhere / "notes")
    if note == STATE_FILE:
        directory.rename(directory.with_name(directory.name + ".partial"))
        directory = directory.with_name(directory.name + ".partial")
    (directory / note).write_text(json.dumps(written))
    assert len(open_index(files, somewhere / "notes").columns.read("record_ends")) == 5


def test_too_many_goals_are_refused(tmp_path):
    many = {str(name): [{"value": str(at)} for at in range(40)] for name in range(300)}
    with pytest.raises(
        DataError, match=r"product 0 \(B000000001\): its options have more than 10,000,000"
    ):
        make_shop(write_shop(tmp_path, items=[ITEMS[0] | {"customization_options": many}]))


@pytest.fixture(scope="module", params=["text", "text_rich"])
def env(request, tmp_path_factory):
    return make_shop(
        write_shop(tmp_path_factory.mktemp("shop")), observation=request.param, explain_invalid=True
    )


odd_texts = st.text(st.characters(codec=None), max_size=60)
actions = st.one_of(
    odd_texts,
    odd_texts.map(lambda text: f"search[{text}]"),
    odd_texts.map(lambda text: f"click[{text}]"),
    st.sampled_from([
        "", " ", "[", "]", "[]", "search", "search[]", "search[ ]", "search[  ]", "click[]",
        "search[<q>]", "search[<c>]", "search[<c> ]", "search[socks]", "click[b000000001]",
        "click[buy now]", "click[next >]", "click[< prev]", "click[red]", "click[back to search]",
        "search[a\nb]", "search[\x00]", "search[ﬁ ①𝒳 ß İ ς]", "search[\ud800]",
    ]),
)  # fmt: skip


@given(st.integers(0, 6), st.lists(actions, max_size=12))
@settings(max_examples=150)
def test_any_action_is_answered(env, goal, written):
    """Also after the end: a search continues, any other action shows the last page again."""
    player = env.clone()
    player.reset(goal)
    over = False
    for action in written:
        before = player.session
        result = player.step(action)
        assert isinstance(result.observation, str)
        assert result.observation
        assert 0 <= result.reward <= 1
        assert result.reward == 0 or result.terminated
        if over and parse(action)[0] != "search":
            assert (player.session, result.reward) == (before, 0)
        over = player.session.view == "done"


PATTERN = re.compile(r"(.+)\[(.+)\]")


@given(st.text("ab[]\n ", max_size=12) | st.text(st.characters(codec=None), max_size=20))
def test_actions_are_parsed_like_the_originals_pattern(action):
    found = PATTERN.match(action)
    assert parse(action) == ((found[1], found[2].lower()) if found else ("", ""))


@pytest.mark.parametrize(
    "sign", ["[", "]", "[]", "a ", "é", "\u200d", "_", "'", "1,", "a[", "\n", "\ud800", "<q> "]
)
def test_long_actions_take_linear_time(env, sign):
    """100 kB of one character; in quadratic time this would take hours."""
    player = env.clone()
    player.reset(0)
    long = sign * (100_000 // len(sign))
    for action in (long, f"search[{long}]", f"click[{long}]", f"search[{long}"):
        assert player.step(action).observation


def test_a_query_of_many_words(env):
    player = env.clone()
    player.reset(0)
    words = " ".join(f"word{number}" for number in range(10_000))
    assert "(Total results: 3)" in player.step(f"search[{words} socks]").observation
