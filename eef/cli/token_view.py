"""The text of a rendered example, colored by loss weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from eef.renderer import Rendered
from eef.viewer.tokens import decode_by_weight

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def color_by_weight(rendered: Rendered, tokenizer: PreTrainedTokenizerFast) -> Text:
    """The rendered text: dim = weight 0 (context), green = 1 or more, yellow = in between."""
    text = Text()
    for part, weight in decode_by_weight(rendered, tokenizer):
        style = "dim" if weight == 0 else "green" if weight >= 1 else "yellow"
        text.append(part, style=style)
    return text
