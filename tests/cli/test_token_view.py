"""Rendered examples in the terminal."""

from __future__ import annotations

import pytest

from eef.cli.token_view import color_by_weight
from eef.renderer import Renderer
from tests.fakes.tiny import tiny_tokenizer

pytestmark = pytest.mark.torch

CONVERSATION = [
    {"role": "user", "content": "page one"},
    {"role": "assistant", "content": "Action: look"},
    {"role": "user", "content": "page two"},
    {"role": "assistant", "content": "Action: buy"},
]


def test_the_whole_text_is_shown_and_colored_by_weight():
    tokenizer = tiny_tokenizer()
    rendered = Renderer(tokenizer).render(CONVERSATION, [0.5, 1.0])
    text = color_by_weight(rendered, tokenizer)
    assert text.plain == tokenizer.decode(rendered.ids)
    assert [str(span.style) for span in text.spans] == ["dim", "yellow", "dim", "green"]
