"""Encodable text: lone surrogates, which no tokenizer or server accepts, are replaced."""

from __future__ import annotations

import re

_SURROGATE = re.compile("[\ud800-\udfff]")


def replace_surrogates(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair without its other half.

    JSON can hold one (`"\\ud83d"`, a cut emoji), UTF-8 cannot.

    >>> replace_surrogates("a" + chr(0xD83D))
    'a\ufffd'
    """
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)
