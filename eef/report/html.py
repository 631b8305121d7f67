"""Markup: HTML and SVG elements as values; whatever is not `Html` already is escaped when it becomes part of one.

Everything on the page passes through `tag`, so that no text of a task, page or model can end up as markup.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


class Html(str):
    """Text that is markup. `join` and `tag` make it; a plain `str` is content."""

    __slots__ = ()


Content = str | int | float


def tag(name: str, *content: Content, **attributes: Content | None) -> Html:
    """An element. An attribute of None is left out; of a name, `_` at the end is dropped and others become `-`.

    >>> tag("p", "1 < 2", class_="note", aria_label='a "b"', id=None)
    '<p class="note" aria-label="a &quot;b&quot;">1 &lt; 2</p>'
    >>> tag("p", tag("b", "&"))
    '<p><b>&amp;</b></p>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(f"<{name}{written}>{join(content)}</{name}>")


def join(content: Iterable[Content]) -> Html:
    """Contents one after the other, each escaped unless it is markup."""
    return Html("".join(item if isinstance(item, Html) else escape(str(item)) for item in content))
