"""The text of a rendered example, colored by loss weight."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from rich.text import Text

from eef.renderer import Rendered

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def color_by_weight(rendered: Rendered, tokenizer: PreTrainedTokenizerFast) -> Text:
    """The rendered text: dim = weight 0 (context), green = 1 or more, yellow = in between."""
    text = Text()
    for weight, tokens in groupby(
        zip(rendered.ids, rendered.weights, strict=True), key=lambda pair: pair[1]
    ):
        style = "dim" if weight == 0 else "green" if weight >= 1 else "yellow"
        text.append(str(tokenizer.decode([token for token, _ in tokens])), style=style)
    return text
