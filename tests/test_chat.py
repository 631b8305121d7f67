"""Conversations."""

from __future__ import annotations

from eef.chat import build_conversation
from tests.fakes.records import steps


def test_a_conversation_alternates_observations_and_completions():
    played = steps("a", "b")
    conversation = build_conversation("Rules.", played, "now")
    assert [message["role"] for message in conversation] == [
        "system",
        *["user", "assistant"] * 2,
        "user",
    ]
    assert [message["content"] for message in conversation] == [
        "Rules.",
        "before a",
        "Action: a",
        "before b",
        "Action: b",
        "now",
    ]
    assert build_conversation("", played, "now") == conversation[1:]
