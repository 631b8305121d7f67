"""Assistant messages as chat APIs write them: their reasoning and their text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def read_message(message: Mapping[str, Any]) -> tuple[str, str]:
    """(reasoning, text) of an assistant message as chat APIs write it.

    The content is a string, null, or a list of parts. Reasoning is in `reasoning_content`, in
    `reasoning`, or in parts of type `thinking` or `reasoning`; redacted reasoning is left out.
    ValueError if the content has another form, or a part of another type.

    >>> text = {"type": "text", "text": "Action: go"}
    >>> read_message({"content": [{"type": "thinking", "thinking": "I go on."}, text]})
    ('I go on.', 'Action: go')
    >>> read_message({"content": None, "reasoning_content": "I go on."})
    ('I go on.', '')
    """
    content = message.get("content")
    parts = [_part(part) for part in (content if isinstance(content, list) else [content])]
    fields = [message.get(name) for name in ("reasoning_content", "reasoning")]
    given = [field for field in fields if isinstance(field, str)]
    thoughts = [*given, *(text for is_thought, text in parts if is_thought)]
    thought = "\n".join(dict.fromkeys(each.strip() for each in thoughts if each.strip()))
    return thought, "".join(text for is_thought, text in parts if not is_thought)


def with_reasoning(reasoning: str, text: str) -> str:
    """A completion with the reasoning of its model as a thought block before the text.

    >>> with_reasoning("I go on.", "Action: go")
    '<think>\\nI go on.\\n</think>\\n\\nAction: go'
    """
    return f"<think>\n{reasoning}\n</think>\n\n{text}" if reasoning else text


def _part(part: Any) -> tuple[bool, str]:
    """(whether it is a thought, the text) of one part of a content."""
    if part is None or isinstance(part, str):
        return False, part or ""
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    if kind is None and isinstance(part.get("text"), str):  # Gemini, Bedrock
        return bool(part.get("thought")), part["text"]
    if kind == "reference":  # a citation beside the text
        return False, ""
    if kind in ("text", "input_text", "output_text", "summary_text", "reasoning_text", "refusal"):
        text = part.get(kind) if kind == "refusal" else part.get("text", part.get("value"))
        text = text.get("value") if isinstance(text, Mapping) else text
        if isinstance(text, str):
            return False, text
    if kind in ("thinking", "reasoning", "redacted_thinking"):
        return True, "" if part.get("redacted") else _reasoning(part)
    raise ValueError(f"a part that is not text: {kind!r}")


def _reasoning(part: Mapping[str, Any]) -> str:
    """The text of a reasoning part: a string, or text parts of its own."""
    value = next((part[key] for key in ("thinking", "reasoning", "text") if part.get(key)), "")
    if isinstance(value, list):
        return "".join(_part(each)[1] for each in value)
    return value if isinstance(value, str) else ""
