"""Search: what a reader types → a query of the full-text index."""

from __future__ import annotations

import re

FIELDS = ("instruction", "observation", "thought", "action")
_PART = re.compile(r'(?:(\w+):)?(?:"([^"]*)"|(\S+))')


def parse_search(text: str) -> tuple[str, list[str]]:
    """(FTS5 query, terms to highlight) of a search; the query is empty if it has no word.

    All parts must occur in a rollout. Quotes make a phrase, `action:` and the other fields restrict
    a part to one kind of text, and the last word may be incomplete.

    >>> parse_search('action:buy "red shoe" siz')
    ('{action} : "buy" AND "red shoe" AND "siz" *', ['buy', 'red shoe', 'siz'])
    >>> parse_search("[]")
    ('', [])
    """
    parts, terms = [], []
    for field, phrase, word in _PART.findall(text):
        value = phrase or word
        if field and field.lower() not in FIELDS:
            field, value = "", f"{field}:{value}"
        if not re.search(r"\w", value):
            continue
        quoted = '"' + value.replace('"', " ").strip() + '"'
        parts.append(f"{{{field.lower()}}} : {quoted}" if field else quoted)
        terms.append(value)
    if parts and not text.endswith(('"', " ")) and re.search(r"\w$", text):
        parts[-1] += " *"
    return " AND ".join(parts), terms
