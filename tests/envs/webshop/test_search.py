"""The search engine: tokens, stems, length codes, and ranks equal to the formula."""

import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eef.envs.webshop.analysis import stem, term, tokens
from eef.envs.webshop.postings import encode_length
from eef.envs.webshop.search import K1, TOP, B, SearchIndex, decode_length

# Word and stem, from the examples in Porter's paper.
_STEMS = """
caresses caress ponies poni ties ti caress caress cats cat feed feed agreed agre plastered plaster
bled bled motoring motor sing sing conflated conflat troubled troubl sized size hopping hop tanned
tan falling fall hissing hiss fizzed fizz failing fail filing file happy happi sky sky relational
relat conditional condit rational ration valenci valenc hesitanci hesit digitizer digit conformabli
conform radicalli radic differentli differ vileli vile analogousli analog vietnamization vietnam
predication predic operator oper feudalism feudal decisiveness decis hopefulness hope callousness
callous formaliti formal sensitiviti sensit sensibiliti sensibl triplicate triplic formative form
formalize formal electriciti electr electrical electr hopeful hope goodness good revival reviv
allowance allow inference infer airliner airlin gyroscopic gyroscop adjustable adjust defensible
defens irritant irrit replacement replac adjustment adjust dependent depend adoption adopt homologou
homolog communism commun activate activ angulariti angular homologous homolog effective effect
bowdlerize bowdler probate probat rate rate cease ceas controll control roll roll analogies analog
apology apolog as as by by generalizations gener
"""
STEMS = _STEMS.split()


@pytest.mark.parametrize(("word", "expected"), list(zip(STEMS[::2], STEMS[1::2], strict=True)))
def test_stems(word, expected):
    assert stem(word) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("men's t-shirts & tanks", ["men's", "t", "shirts", "tanks"]),
        ("3.5mm 1,000 u.s.a. 12x16 5'2", ["3.5mm", "1,000", "u.s.a", "12x16", "5'2"]),
        ("color:red a_b _ __c", ["color:red", "a_b", "__c"]),
        ("wi-fi/usb (2pcs)", ["wi", "fi", "usb", "2pcs"]),
        ("décor 琥珀 ひ カタカナ", ["décor", "琥", "珀", "ひ", "カタカナ"]),
        ("★best☞ ❤️❤ ✿", ["★", "best", "☞", "❤️", "❤"]),
        ("👍🏻 👨‍👩‍👧x ❤🏻", ["👍🏻", "👨‍👩‍👧", "x", "❤", "🏻"]),
        ("🇺🇸🇬🇧 #️⃣ 12⃣", ["🇺🇸", "🇬🇧", "#️⃣", "12⃣"]),
        ("א״ב ג'ד ה' א\"ב", ["א״ב", "ג'ד", "ה'", 'א"ב']),
        ("ไทย 한국 ℹ️info ™x", ["ไทย", "한국", "ℹ️info", "™", "x"]),
        ("", []),
    ],
)
def test_tokens(text, expected):
    assert tokens(text) == expected


def test_a_token_over_the_limit_is_split():
    assert [len(token) for token in tokens("a" * 600 + " b")] == [255, 255, 90, 1]


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("ΛΌΓΟΣ", "λόγοσ"),
        ("İ", "i"),
        ("The", ""),
        ("men's", "men"),
        ("women’s", "women"),
        ("s", "s"),
        ("ROLLS", "roll"),
    ],
)
def test_terms(token, expected):
    assert term(token) == expected


@pytest.mark.parametrize(
    ("length", "code"), [(0, 0), (39, 39), (40, 40), (41, 40), (42, 41), (56, 48), (376, 75)]
)
def test_length_codes(length, code):
    assert encode_length(length) == code


@given(st.integers(0, 2**31 - 1))
def test_a_decoded_length_is_at_most_the_length(length):
    code = encode_length(length)
    assert 0 <= code <= 255
    assert decode_length(code) <= length < decode_length(code + 1)


def scores(texts, query):
    """BM25 by its formula, one document at a time."""
    found = [Counter(filter(None, map(term, tokens(text)))) for text in texts]
    filled = max(1, sum(1 for words in found if words))
    mean = sum(sum(words.values()) for words in found) / filled
    asked = Counter(filter(None, map(term, tokens(query))))
    result = []
    for words in found:
        length = decode_length(encode_length(sum(words.values())))
        total = 0.0
        for word, times in asked.items():
            holding = sum(1 for other in found if word in other)
            weight = times * math.log(1 + (filled - holding + 0.5) / (holding + 0.5))
            if word in words:
                total += weight - weight / (1 + words[word] / (K1 * (1 - B + B * length / mean)))
        result.append(total)
    return result


WORDS = st.lists(
    st.sampled_from(["socks", "sock", "wool", "blue", "red", "tables", "oak", "the"]), max_size=60
)


@given(st.lists(WORDS, min_size=1, max_size=12), WORDS)
def test_ranks_equal_the_formula(documents, query):
    texts = [" ".join(words) for words in documents]
    names = [f"D{(at * 7) % 13:02}" for at in range(len(texts))]
    expected = scores(texts, " ".join(query))
    hits = SearchIndex.build(texts, names).search(" ".join(query))
    assert {at for at, _ in hits} == {at for at, score in enumerate(expected) if score > 0}
    assert all(score == pytest.approx(expected[at], rel=1e-6) for at, score in hits)
    assert [(-score, names[at]) for at, score in hits] == sorted(
        (-score, names[at]) for at, score in hits
    )


@given(st.integers(0, 10_000), st.integers(1, 12))
def test_pruning_changes_no_result(seed, asked):
    """Compared with the scores of all products; common terms are skipped or looked up."""
    rng = random.Random(seed)
    weights = [1 / (1 + at) for at in range(300)]
    texts = [
        " ".join(f"w{at}" for at in rng.choices(range(300), weights, k=rng.randint(1, 40)))
        for _ in range(400)
    ]
    index = SearchIndex.build(texts, [f"N{(at * 37) % 400:03}" for at in range(400)])
    words = Counter(f"w{at}" for at in rng.choices(range(300), k=asked))
    totals = np.zeros(400)
    for clause in filter(None, (index._clause(word, times) for word, times in words.items())):
        totals[index.documents[clause.postings]] += clause.by_pair[
            index.pair_numbers[clause.postings]
        ]
    everything = np.lexsort((index.ranks, -totals.astype(np.float32)))[:TOP]
    expected = [(int(at), float(np.float32(totals[at]))) for at in everything if totals[at] > 0]
    for small, cost in ((400, 16), (0, 0), (0, 1), (0, 16)):  # the first case does not prune
        index._cache.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("eef.envs.webshop.search.SMALL", small)
            patch.setattr("eef.envs.webshop.search.LOOKUP_COST", cost)
            index._scores[rng.randrange(400)] = 100.0  # left by an interrupted search
            assert list(index.search(" ".join(words.elements()))) == expected


def test_text_between_blanks_is_split_independently():
    """The writer caches the terms of each such piece."""
    text = "men's  t-shirts \u202f_a \u0301b\nc\ufe0f \u200d1.5 ❤️ a\u00a0b"
    pieces = [token for piece in text.replace("\n", " ").split(" ") for token in tokens(piece)]
    assert pieces == tokens(text)


@given(st.text(alphabet="a1_ .'\":\u0301\u200d\ufe0f\u20e3#❤👍🏻🇺אカ한\n", max_size=30))
def test_any_text_is_split_at_blanks(text):
    assert [
        token for piece in text.replace("\n", " ").split(" ") for token in tokens(piece)
    ] == tokens(text)


@pytest.mark.parametrize(
    "sign", ["_", "\u200d", "#", "\u0301", "_\u0301", "❤\u200d", "a_", "1,", "a\u0301", "🇺"]
)
def test_long_runs_of_odd_characters_take_linear_time(sign):
    """100,000 characters; with backtracking, they would take hours."""
    tokens(sign * (100_000 // len(sign)))


def test_at_most_fifty_hits_and_ties_by_asin():
    names = [f"N{(at * 37) % 200:03}" for at in range(200)]
    hits = SearchIndex.build(["same words"] * 200, names).search("words")
    assert [names[at] for at, _ in hits] == sorted(names)[:50]


@pytest.mark.parametrize("query", ["", "the of", "unknown", "  "])
def test_queries_that_find_nothing(query):
    assert SearchIndex.build(["some words", ""], ["A", "B"]).search(query) == ()


def test_an_empty_index():
    assert SearchIndex.build([], []).search("words") == ()
