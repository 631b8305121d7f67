"""Steps → messages: the one conversation builder for acting and training; and the ReAct format.

A conversation is `[system?] user assistant user assistant …`. Each user message is an observation,
each assistant message a completion (`Thought: …\\nAction: …`). A method's prompt suffix is appended
to the environment's prompt in the system message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from eef.policy import Conversation
from eef.trajectory import Step

_REACT = re.compile(
    r"^\s*(?:thought:\s*(?P<thought>.*?))?\s*\baction:\s*(?P<action>.+?)\s*$", re.I | re.S
)
_ACTION_LINE = re.compile(r"\baction:\s*[^\n]+", re.I)


def build_conversation(
    prompt: str, steps: Sequence[Step], observation: str | None = None, *, prompt_suffix: str = ""
) -> Conversation:
    """The messages of `steps`; with the current `observation`, the prompt for the next completion.

    >>> build_conversation("You shop.", [], "Page 1", prompt_suffix="Succeed.")[0]
    {'role': 'system', 'content': 'You shop.\\n\\nSucceed.'}
    """
    system = "\n\n".join(part for part in (prompt, prompt_suffix) if part)
    messages: Conversation = [{"role": "system", "content": system}] if system else []
    for step in steps:
        messages.append({"role": "user", "content": step.observation})
        messages.append({"role": "assistant", "content": step.completion})
    if observation is not None:
        messages.append({"role": "user", "content": observation})
    return messages


def parse_completion(completion: str) -> tuple[str, str | None]:
    """(thought, action) of a completion; the action is None if there is none.

    Only the first line of the action counts.

    >>> parse_completion("Thought: red fits.\\nAction: click[red]")
    ('red fits.', 'click[red]')
    >>> parse_completion("thought: none fits. action: click[next >]")
    ('none fits.', 'click[next >]')
    >>> parse_completion("I would buy it")
    ('I would buy it', None)
    """
    match = _REACT.match(completion)
    if match is None:
        return completion.strip(), None
    action = match["action"].split("\n", 1)[0].strip()
    return (match["thought"] or "").strip(), action or None


def cut_completion(completion: str) -> str:
    """A completion up to the end of its first action; models may go on to invent observations.

    >>> cut_completion("Thought: red.\\nAction: click[red]\\nObservation: You have clicked red.")
    'Thought: red.\\nAction: click[red]'
    """
    found = _ACTION_LINE.search(completion)
    return completion[: found.end()].rstrip() if found else completion.rstrip()


def format_completion(thought: str, action: str) -> str:
    """The completion that `parse_completion` reads as this thought and action."""
    return f"Thought: {thought}\nAction: {action}" if thought else f"Action: {action}"


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
    if kind in ("text", "output_text"):
        text = part.get("text", part.get("value"))
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
