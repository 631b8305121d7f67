"""Texts of tasks and models as markup: nothing in them can act, and nothing is invisible."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

from eef.report.html import Html
from eef.utils.text import replace_surrogates

SHOWN = 400
"""Characters of a text that are shown before it is folded."""

_BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_HIDDEN = re.compile(f"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u2028\u2029\ufeff{_BIDI}]")


def visible(text: str) -> Markup:
    """A text as markup: escaped, with a mark for each control and direction character.

    >>> visible("<b>a" + chr(0x202E))
    Markup('&lt;b&gt;a<span class="control">U+202E</span>')
    """
    parts: list[Markup] = []
    end = 0
    text = replace_surrogates(text)
    for match in _HIDDEN.finditer(text):
        parts += [escape(text[end : match.start()]), _mark(match.group())]
        end = match.end()
    return Markup("").join([*parts, escape(text[end:])])


def _mark(character: str) -> Markup:
    return Markup('<span class="control">U+{}</span>').format(f"{ord(character):04X}")


def highlighted(text: str, terms: Sequence[str]) -> Markup:
    """A text as markup with `mark` around each occurrence of a search term.

    >>> highlighted("Red shoes", ["red"])
    Markup('<mark>Red</mark> shoes')
    """
    if not terms:
        return visible(text)
    pattern = re.compile("|".join(map(re.escape, terms)), re.IGNORECASE)
    parts: list[Markup] = []
    end = 0
    for match in pattern.finditer(text):
        parts.append(visible(text[end : match.start()]))
        parts.append(Markup("<mark>{}</mark>").format(visible(match.group())))
        end = match.end()
    return Markup("").join([*parts, visible(text[end:])])


def embedded(data: Any) -> Html:
    r"""A value as JSON inside a `script` element, which nothing in it can end.

    >>> embedded(["</script>"])
    '["\\u003c/script>"]'
    """
    return Html(json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"))


def shorten(text: str, length: int = SHOWN) -> str:
    """The start of a text up to a word, with an ellipsis; the text itself if it is short.

    >>> shorten("one two three", 9)
    'one two …'
    """
    if len(text) <= length:
        return text
    start = text[:length]
    return (start.rsplit(" ", 1)[0] if " " in start else start) + " …"
