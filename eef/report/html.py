"""HTML and SVG elements as values. Text that is not `Html` is escaped when it becomes part of one.

Everything on a page passes through `tag`, so no text of a task, page or model can become markup.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape


class Html(str):
    """Text that is markup, made by `join` and `tag`; a plain `str` is content."""

    __slots__ = ()

    def __html__(self) -> str:
        """The markup itself: templates with autoescaping insert it as it is."""
        return str(self)


Content = str | int | float


def tag(name: str, *content: Content, **attributes: Content | None) -> Html:
    """An element. Attributes of None are omitted.

    In the name of an attribute, a final `_` is dropped and any other `_` becomes `-`.

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
    """The contents in order, each escaped unless it is markup."""
    return Html("".join(item if isinstance(item, Html) else escape(str(item)) for item in content))
