"""Conversations and the ReAct format."""

from __future__ import annotations

import doctest

from hypothesis import given
from hypothesis import strategies as st

from eef import chat
from eef.chat import build_conversation, cut_completion, format_completion, parse_completion
from tests.fakes.records import steps

words = st.text("abc []", min_size=1).map(str.strip).filter(bool)


def test_doctests():
    assert doctest.testmod(chat) == (0, 9)


@given(words | st.just(""), words)
def test_a_formatted_completion_is_parsed_as_it_was(thought, action):
    completion = format_completion(thought, action)
    assert parse_completion(completion) == (thought, action)
    assert cut_completion(f"{completion}\nObservation: invented") == completion


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
