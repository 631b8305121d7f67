"""Text analysis for search: tokens by Unicode's word rules, stop words removed, stems.

Reproduces Lucene's English analyzer: tokenizer (UAX #29, section 4.1, and UTS #51 for emoji) →
possessive → lower case → stop words → Porter's stemmer. `postings.py` and `search.py` count the
resulting terms.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import regex

_STOP_WORDS = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then "
    "there these they this to was will with"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())
MAX_TOKEN = 255
CACHED_TOKENS = 100_000

# Word_Break classes. Punctuation is spelled out, since later Unicode versions moved some of it.
_FOLLOW = r"[\p{WB=Extend}\p{WB=Format}\p{WB=ZWJ}]*"
_LETTER = rf"(?:[\p{{WB=ALetter}}\p{{WB=Hebrew_Letter}}]{_FOLLOW})"
_NUMBER = rf"(?:[\p{{WB=Numeric}}\uFF10-\uFF19]{_FOLLOW})"
_KATAKANA = rf"(?:\p{{WB=Katakana}}{_FOLLOW})"
_JOINER = rf"(?:\p{{WB=ExtendNumLet}}{_FOLLOW})"
_MID_BOTH = r".'\u2018\u2019\u2024\uFE52\uFF07\uFF0E"
_MID_LETTER = rf"(?:[:\u00B7\u0387\u055F\u05F4\u2027\uFE13\uFE55\uFF1A{_MID_BOTH}]{_FOLLOW})"
_MID_SIGNS = r",;\u037E\u0589\u060C\u060D\u066C\u07F8\u2044\uFE10\uFE14\uFE50\uFE54\uFF0C\uFF1B"
_MID_NUMBER = rf"(?:[{_MID_SIGNS}{_MID_BOTH}]{_FOLLOW})"
_HEBREW = rf"\p{{WB=Hebrew_Letter}}{_FOLLOW}"
_QUOTED = rf"(?:{_HEBREW}(?:'{_FOLLOW}|\"{_FOLLOW}{_HEBREW}))"
_RUN = (
    rf"(?:{_NUMBER}(?:(?:{_JOINER}*|{_MID_NUMBER}){_NUMBER})*"
    rf"|{_QUOTED}|{_LETTER}(?:(?:{_JOINER}*|{_MID_LETTER}){_LETTER})*)+"
)
_KATAKANA_RUN = rf"{_KATAKANA}(?:{_JOINER}*{_KATAKANA})*"
# Possessive, with a lookbehind: a long run of joiners is scanned once, not from each character.
_START = rf"(?:(?<!\p{{WB=ExtendNumLet}}){_JOINER}{{1,{MAX_TOKEN}}}+)?"
_WORD = rf"{_START}(?:{_KATAKANA_RUN}|{_RUN})(?:{_JOINER}+(?:{_KATAKANA_RUN}|{_RUN}))*{_JOINER}*"
_COMPLEX = rf"(?:\p{{Line_Break=Complex_Context}}{_FOLLOW})+"
_SINGLE = rf"[\p{{Han}}\p{{Hiragana}}]{_FOLLOW}"
# Extended_Pictographic of Unicode 12; later versions removed ★, ☞ and others.
_PICTOGRAPH = (
    r"[\u00A9\u00AE\u203C\u2049\u2122\u2139\u2194-\u2199\u21A9\u21AA\u231A\u231B\u2328\u2388\u23CF"
    r"\u23E9-\u23F3\u23F8-\u23FA\u24C2\u25AA\u25AB\u25B6\u25C0\u25FB-\u25FE\u2600-\u2605\u2607-\u2612"
    r"\u2614-\u2685\u2690-\u2705\u2708-\u2712\u2714\u2716\u271D\u2721\u2728\u2733\u2734\u2744\u2747"
    r"\u274C\u274E\u2753-\u2755\u2757\u2763-\u2767\u2795-\u2797\u27A1\u27B0\u27BF\u2934\u2935"
    r"\u2B05-\u2B07\u2B1B\u2B1C\u2B50\u2B55\u3030\u303D\u3297\u3299\U0001F000-\U0001F0FF"
    r"\U0001F10D-\U0001F10F\U0001F12F\U0001F16C-\U0001F171\U0001F17E\U0001F17F\U0001F18E"
    r"\U0001F191-\U0001F19A\U0001F1AD-\U0001F1E5\U0001F201-\U0001F20F\U0001F21A\U0001F22F"
    r"\U0001F232-\U0001F23A\U0001F23C-\U0001F23F\U0001F249-\U0001F3FA\U0001F400-\U0001F53D"
    r"\U0001F546-\U0001F64F\U0001F680-\U0001F6FF\U0001F774-\U0001F77F\U0001F7D5-\U0001F7FF"
    r"\U0001F80C-\U0001F80F\U0001F848-\U0001F84F\U0001F85A-\U0001F85F\U0001F888-\U0001F88F"
    r"\U0001F8AE-\U0001F8FF\U0001F90C-\U0001F93A\U0001F93C-\U0001F945\U0001F947-\U0001FFFD]"
)
# An emoji with its modifier. Emoji that are linked by joiners (U+200D) form one token.
_MARKS = r"[[\p{WB=Extend}\p{WB=Format}\p{WB=ZWJ}]--[\uFE0E\uFE0F\p{Emoji_Modifier}]]*"
_MODIFIER = rf"\p{{Emoji_Modifier}}{_MARKS}"
_MODIFIED = rf"(?:(?<=\p{{Emoji_Modifier_Base}}{_MARKS}){_MODIFIER})?"
_EMOJI_PART = rf"(?:{_PICTOGRAPH}{_MARKS}{_MODIFIED}|{_MODIFIER})"
_TAGS = r"[\U000E0020-\U000E007E]+\U000E007F"
_EMOJI = (
    rf"(?:(?<!\u200D)\u200D{{1,{MAX_TOKEN}}}+)?{_EMOJI_PART}"
    rf"(?:(?:{_TAGS})|(?:(?:\uFE0F\u200D+|(?<=\u200D)){_EMOJI_PART})*\uFE0F?)"
    rf"|[#*]{_MARKS}\uFE0F?(?:(?<=\u20E3)|\u20E3{_MARKS})"
    rf"|(?:\p{{Regional_Indicator}}{_FOLLOW}){{2}}"
)
_TOKEN = regex.compile(rf"{_WORD}|{_EMOJI}|{_COMPLEX}|{_SINGLE}", regex.VERSION1)


def tokens(text: str) -> list[str]:
    """Split a text at Unicode's word boundaries; keep words, numbers, ideographs and emoji."""
    found: list[str] = _TOKEN.findall(text)
    if any(len(token) > MAX_TOKEN for token in found):
        return [
            token[at : at + MAX_TOKEN] for token in found for at in range(0, len(token), MAX_TOKEN)
        ]
    return found


@lru_cache(CACHED_TOKENS)
def term(token: str) -> str:
    """The index term of a token; "" for a stop word."""
    if len(token) >= 2 and token[-1] in "sS" and token[-2] in "'\u2019\uff07":
        token = token[:-2]
    token = _lower(token)
    return "" if token in STOP_WORDS else stem(token)


def _lower(token: str) -> str:
    """Lower case letter by letter, as in Java: no final sigma rule, and `İ` becomes a plain i."""
    return token.lower() if token.isascii() else "".join(letter.lower()[0] for letter in token)


def stem(word: str) -> str:
    """Porter's stem of a lower-case word, with his later changes (`bli` → `ble`, `logi` → `log`).

    Words of one or two characters are returned unchanged. Source: M. F. Porter, An algorithm for
    suffix stripping, Program 14(3), 1980.

    >>> [stem(word) for word in ("caresses", "ponies", "relational", "hopping", "sky")]
    ['caress', 'poni', 'relat', 'hop', 'sky']
    """
    if len(word) <= 2:
        return word
    for step in (_plurals, _past, _y_to_i, _double_suffixes, _full_ness, _latin_suffixes, _final_e):
        word = step(word)
    return word


def _is_consonant(word: str, at: int) -> bool:
    letter = word[at]
    if letter in "aeiou":
        return False
    return letter != "y" or at == 0 or not _is_consonant(word, at - 1)


def _measure(start: str) -> int:
    """Number of vowel-consonant sequences: Porter's m in [C](VC)^m[V]."""
    kinds = [_is_consonant(start, at) for at in range(len(start))]
    return sum(1 for before, after in pairwise(kinds) if after and not before)


def _has_vowel(start: str) -> bool:
    return any(not _is_consonant(start, at) for at in range(len(start)))


def _doubled(word: str) -> bool:
    return len(word) >= 2 and word[-1] == word[-2] and _is_consonant(word, len(word) - 1)


def _closed(word: str) -> bool:
    """Whether a word ends consonant-vowel-consonant, the last not w, x or y (Porter's *o)."""
    end = len(word) - 1
    if end < 2 or word[end] in "wxy":
        return False
    return (
        _is_consonant(word, end)
        and not _is_consonant(word, end - 1)
        and _is_consonant(word, end - 2)
    )


def _plurals(word: str) -> str:
    if not word.endswith("s"):
        return word
    if word.endswith(("sses", "ies")):
        return word[:-2]
    return word if word.endswith("ss") else word[:-1]


def _past(word: str) -> str:
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    for suffix in ("ed", "ing"):
        if word.endswith(suffix):
            start = word[: -len(suffix)]
            return _restore_ending(start) if _has_vowel(start) else word
    return word


def _restore_ending(word: str) -> str:
    """Repair a stem after -ed or -ing: `conflat` → `conflate`, `hopp` → `hop`, `fil` → `file`."""
    if word.endswith(("at", "bl", "iz")):
        return word + "e"
    if _doubled(word):
        return word if word[-1] in "lsz" else word[:-1]
    return word + "e" if _measure(word) == 1 and _closed(word) else word


def _y_to_i(word: str) -> str:
    return word[:-1] + "i" if word.endswith("y") and _has_vowel(word[:-1]) else word


_DOUBLE = (
    ("ational", "ate"), ("tional", "tion"), ("enci", "ence"), ("anci", "ance"), ("izer", "ize"),
    ("bli", "ble"), ("alli", "al"), ("entli", "ent"), ("eli", "e"), ("ousli", "ous"),
    ("ization", "ize"), ("ation", "ate"), ("ator", "ate"), ("alism", "al"),
    ("iveness", "ive"), ("fulness", "ful"), ("ousness", "ous"),
    ("aliti", "al"), ("iviti", "ive"), ("biliti", "ble"), ("logi", "log"),
)  # fmt: skip
_FULL = (
    ("icate", "ic"), ("ative", ""), ("alize", "al"), ("iciti", "ic"), ("ical", "ic"), ("ful", ""),
    ("ness", ""),
)  # fmt: skip
_LATIN = (
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou",
    "ism", "ate", "iti", "ous", "ive", "ize",
)  # fmt: skip


def _replace(word: str, table: tuple[tuple[str, str], ...]) -> str:
    """Replace the first matching suffix, if what precedes it has a measure above 0."""
    for suffix, new in table:
        if word.endswith(suffix):
            start = word[: -len(suffix)]
            return start + new if _measure(start) > 0 else word
    return word


def _double_suffixes(word: str) -> str:
    return _replace(word, _DOUBLE)


def _full_ness(word: str) -> str:
    return _replace(word, _FULL)


def _latin_suffixes(word: str) -> str:
    for suffix in _LATIN:
        if word.endswith(suffix):
            start = word[: -len(suffix)]
            if suffix == "ion" and not start.endswith(("s", "t")):
                continue
            return start if _measure(start) > 1 else word
    return word


def _final_e(word: str) -> str:
    if word.endswith("e"):
        start = word[:-1]
        measure = _measure(start)
        if measure > 1 or (measure == 1 and not _closed(start)):
            word = start
    return word[:-1] if word.endswith("ll") and _measure(word) > 1 else word
