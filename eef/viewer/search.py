"""Search: what a reader types → a query of the full-text index."""

from __future__ import annotations

import re
from dataclasses import dataclass

FIELDS = ("instruction", "observation", "thought", "action")
_PART = re.compile(r'(?:(\w+):)?(?:"([^"]*)"|(\S+))')


@dataclass(frozen=True, slots=True)
class Search:
    """A parsed search.

    `query` is for FTS5, "" without a word to search for. It finds the rollouts that contain all
    words. The index has no positions of words, so `phrases` have to be looked for in the rollouts
    found. `terms` are what to highlight.
    """

    query: str
    phrases: tuple[str, ...]
    terms: tuple[str, ...]


def parse_search(text: str) -> Search:
    """The search of a text. All parts must occur in a rollout.

    Quotes make a phrase, `action:` and the other fields restrict a part to one kind of text, and
    the last word may be incomplete.

    >>> parse_search('action:buy "red shoe" siz').query
    '{action} : ("buy") AND ("red" AND "shoe") AND ("siz" *)'
    >>> parse_search('action:buy "red shoe" siz').phrases
    ('red shoe',)
    >>> parse_search("[]")
    Search(query='', phrases=(), terms=())
    """
    parts, terms, phrases = [], [], []
    for field, phrase, word in _PART.findall(text):
        value = phrase or word
        if field and field.lower() not in FIELDS:
            field, value = "", f"{field}:{value}"
        words = [f'"{each}"' for each in re.findall(r"[^\W_]+", value)]
        if not words:
            continue
        parts.append((f"{{{field.lower()}}} : " if field else "", words))
        terms.append(value)
        if len(words) > 1:
            phrases.append(value.strip())
    if parts and re.search(r"\w$", text):
        parts[-1][1][-1] += " *"
    query = " AND ".join(f"{field}({' AND '.join(words)})" for field, words in parts)
    return Search(query, tuple(phrases), tuple(terms))
