"""Whatever stands in the files, they are refused with a word of why or make a shop that can be played; whatever an
agent writes is answered."""

import json
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eef.envs.webshop import WebShop
from eef.envs.webshop.index import MANIFEST_FILE, STATE_FILE, index_directory, open_index
from eef.envs.webshop.official import OfficialFiles
from eef.envs.webshop.session import parse
from eef.errors import DataError, EefError
from tests.fakes.small_shop import HUMAN, ITEMS, NOTES, write_shop

FILES = ("items_shuffle.json", "items_ins_v2.json", "items_human_ins.json")
texts = st.text(
    st.characters(codec=None), max_size=20
)  # lone surrogates and control characters among them
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


def perhaps_spoilt(whole):
    """A record as it is, or without one of its fields, or with one that is odd."""
    spoilt = st.tuples(whole, st.randoms(), st.just(...) | odd).map(lambda given: spoil(*given))
    return st.one_of(whole, whole, whole, whole, spoilt)


def spoil(record, chance, value):
    key = chance.choice(sorted(record))
    return {
        name: value if name == key else kept
        for name, kept in record.items()
        if name != key or value is not ...
    }


def item(asin):
    return perhaps_spoilt(st.fixed_dictionaries({
        "asin": st.just(asin), "name": words, "full_description": words, "pricing": prices, "query": words,
        "small_description": words | st.lists(words, max_size=3), "category": words, "product_category": words,
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
notes = st.fixed_dictionaries({"B000000001": perhaps_spoilt(note)}, optional={"x": odd})
asked = st.fixed_dictionaries({
    "instruction": words, "instruction_attributes": st.lists(words, min_size=1), "instruction_options": st.lists(words)
})  # fmt: skip
human = st.fixed_dictionaries(
    {"B000000001": st.lists(perhaps_spoilt(asked), min_size=1)}, optional={"x": odd}
)


@pytest.fixture(scope="module")
def somewhere(tmp_path_factory):
    return tmp_path_factory.mktemp("somewhere")


def play_all_pages(env):
    """Everything that can be clicked in an episode of the first goal, on the way to buying."""
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
    """The shop played, or what is wrong with its files in one line."""
    try:
        env = WebShop(directory, tagger="words", observation="text_rich", **options)
    except EefError as error:
        said = error.message
        assert said.splitlines() == [said]
        return said
    play_all_pages(env)
    return ""


@given(items, notes, human, st.sampled_from(["human", "synthetic"]))
@example(
    ITEMS[:1],
    {"B000000001": NOTES["B000000001"] | {"instruction_attributes": "silk"}},
    {},
    "synthetic",
)
@example([ITEMS[0] | {"customization_options": {str(n): [{"value": str(at)} for at in range(40)] for n in range(30)}}],
         NOTES, HUMAN, "synthetic")  # fmt: skip
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
    said = open_or_refuse(directory, goals=goals)
    assert open_or_refuse(directory, goals=goals, index=str(somewhere / "index")) == said


@given(st.sampled_from(FILES), st.data())
def test_damaged_files_make_a_shop_or_are_refused(somewhere, name, data):
    directory = write_shop(somewhere / "bytes")
    whole = (directory / name).read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    damage = data.draw(st.sampled_from(["cut", "lost", "other", "more"]))
    other = data.draw(st.binary(min_size=1, max_size=3))
    changed = {
        "cut": whole[:at], "lost": whole[:at] + whole[at + 2 :], "other": whole[:at] + other + whole[at + len(other) :],
        "more": whole + other,
    }[damage]  # fmt: skip
    (directory / name).write_bytes(changed)
    said = open_or_refuse(directory)
    if damage == "cut":
        assert f"{name}` is not JSON" in said


@given(odd, st.sampled_from([MANIFEST_FILE, STATE_FILE]))
@example({"version": 1}, MANIFEST_FILE)
@example({"version": 1}, STATE_FILE)
@settings(max_examples=20)
def test_an_index_whose_notes_are_odd_is_built_anew(somewhere, written, note):
    files = OfficialFiles.find(write_shop(somewhere / "indexed"))
    directory = index_directory(files, somewhere / "notes")
    open_index(files, somewhere / "notes")
    if note == STATE_FILE:
        directory.rename(directory.with_name(directory.name + ".partial"))
        directory = directory.with_name(directory.name + ".partial")
    (directory / note).write_text(json.dumps(written))
    assert len(open_index(files, somewhere / "notes").columns.read("record_ends")) == 5


def test_more_goals_than_can_be_made(tmp_path):
    many = {str(name): [{"value": str(at)} for at in range(40)] for name in range(300)}
    with pytest.raises(
        DataError, match=r"product 0 \(B000000001\): its options have more than 10,000,000"
    ):
        WebShop(write_shop(tmp_path, items=[ITEMS[0] | {"customization_options": many}]))


@pytest.fixture(scope="module", params=["text", "text_rich"])
def env(request, tmp_path_factory):
    return WebShop(
        write_shop(tmp_path_factory.mktemp("shop")), observation=request.param, explain_invalid=True
    )


odd_texts = st.text(st.characters(codec=None), max_size=60)
actions = st.one_of(
    odd_texts, odd_texts.map(lambda text: f"search[{text}]"), odd_texts.map(lambda text: f"click[{text}]"),
    st.sampled_from([
        "", " ", "[", "]", "[]", "search", "search[]", "search[ ]", "search[  ]", "click[]", "search[<q>]",
        "search[<c>]", "search[<c> ]", "search[socks]", "click[b000000001]", "click[buy now]", "click[next >]",
        "click[< prev]", "click[red]", "click[back to search]",
        "search[a\nb]", "search[\x00]", "search[ﬁ ①𝒳 ß İ ς]", "search[\ud800]",
    ]),
)  # fmt: skip


@given(st.integers(0, 6), st.lists(actions, max_size=12))
@settings(max_examples=150)
def test_any_action_is_answered(env, goal, written):
    """Also after the end, where a search goes on and all else shows the last page again."""
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
def test_actions_are_parsed_as_the_originals_pattern_does(action):
    found = PATTERN.match(action)
    assert parse(action) == ((found[1], found[2].lower()) if found else ("", ""))


@pytest.mark.parametrize(
    "sign", ["[", "]", "[]", "a ", "é", "\u200d", "_", "'", "1,", "a[", "\n", "\ud800", "<q> "]
)
def test_a_long_action_takes_no_long_time(env, sign):
    """100 kB of one sign are gone over once; square, it would take hours."""
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
