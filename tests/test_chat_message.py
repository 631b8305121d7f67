"""Assistant messages of chat APIs."""

from __future__ import annotations

import pytest

from eef.chat_message import read_message


@pytest.mark.parametrize(
    ("message", "read"),
    [
        ({"content": "a"}, ("", "a")),
        ({"content": None}, ("", "")),
        ({}, ("", "")),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, ("", "ab")),
        ({"content": [{"type": "text", "value": "a"}, "b"]}, ("", "ab")),
        ({"content": [{"type": "refusal", "refusal": "a"}, {"type": "reference"}]}, ("", "a")),
        ({"content": [{"type": "output_text", "text": "a"}]}, ("", "a")),
        ({"content": [{"type": "text", "text": {"value": "a"}}]}, ("", "a")),
        ({"content": "a", "reasoning_content": " b\n"}, ("b", "a")),
        ({"content": "a", "reasoning_content": "b", "reasoning": "b"}, ("b", "a")),
        ({"content": [{"type": "reasoning", "reasoning": "b"}, "a"]}, ("b", "a")),
        ({"content": [{"type": "reasoning", "reasoning": "b64", "redacted": True}]}, ("", "")),
        (
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "b"}]}]},
            ("b", ""),
        ),
    ],
)
def test_a_message_is_read_in_every_form(message, read):
    assert read_message(message) == read


@pytest.mark.parametrize("content", [7, [{"type": "image_url"}], [7], {"image": "a"}])
def test_a_message_of_another_form_is_refused(content):
    with pytest.raises(ValueError, match="not text"):
        read_message({"content": content})
