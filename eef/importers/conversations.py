"""Conversations of any naming → `ParsedEpisode`: who speaks, a preamble apart, tool calls as actions, masks kept.

A message becomes a `Message` whatever its keys are called. Then: leading system text, and a first exchange that the agent
only answers with "OK", is the prompt; each turn of the agent with what it saw before is a step; what it sees behind its
last turn is the final observation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from eef.chat import format_completion, parse_completion
from eef.importers.episode import ParseError, require_steps
from eef.trajectory import Step

Role = Literal["system", "user", "agent"]

_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "human": "user",
    "user": "user",
    "tool": "user",
    "function": "user",
    "observation": "user",
    "environment": "user",
    "gpt": "agent",
    "assistant": "agent",
    "model": "agent",
    "agent": "agent",
    "function_call": "agent",
}
_OBSERVATION = re.compile(r"^\s*Observation:\s*", re.I)
_AGREES = re.compile(r"\s*(ok|okay|sure|understood|got it)\b[^\n]{0,120}\s*", re.I)


@dataclass(frozen=True, slots=True)
class Message:
    """A message: who said it, the text, and the loss weight it came with (None where it came with none)."""

    role: Role
    text: str
    weight: float | None = None


def said(message: Any, number: int) -> Message:
    """A message as `role`/`content` or `from`/`value`, with its mask as `train`, `weight`, `loss` or `loss_weight`.

    ParseError: no object, unknown role, no text.
    """
    if not isinstance(message, dict):
        raise ParseError(f"message {number} is a {type(message).__name__}")
    name = message.get("role", message.get("from", message.get("source")))
    if not isinstance(name, str) or name.lower() not in _ROLES:
        raise ParseError(f"message {number} has the unknown role {name!r}")
    role = _ROLES[name.lower()]
    content = _text(message.get("content", message.get("value", message.get("message"))), number)
    if role == "agent":
        content = _with_call(message, content)
    return Message(role, content, _weight(message, number))


def split_episode(talk: Sequence[Message]) -> tuple[str, tuple[Step, ...], str]:
    """(prompt, steps, final observation) of a conversation.

    Several messages in a row of one speaker that is not the agent are one. ParseError: the agent speaks first, or twice
    in a row without anything to see between; a system message in the middle.
    """
    rules, rest = _preamble(talk)
    steps: list[Step] = []
    seen: list[str] = []
    for number, message in enumerate(rest, start=len(talk) - len(rest)):
        if message.role == "system":
            raise ParseError(
                f"message {number} is a system message behind the conversation's start"
            )
        if message.role == "user":
            seen.append(message.text)
            continue
        if not seen:
            before = "twice in a row" if steps else "first"
            raise ParseError(
                f"message {number}: the agent speaks {before}, with nothing to see before it"
            )
        steps.append(_step(_shown(seen), message))
        seen = []
    return rules, require_steps(steps), _shown(seen)


def call_as_action(name: str, arguments: Any) -> str:
    """A tool call as an action: `name[value]` for a single argument, else `name[{json}]`.

    >>> call_as_action("search", '{"query": "red mug"}'), call_as_action("buy", {})
    ('search[red mug]', 'buy[]')
    """
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            return f"{name}[{arguments}]"
    if not isinstance(arguments, dict):
        return f"{name}[{arguments}]"
    values = list(arguments.values())
    if len(values) == 1 and isinstance(values[0], str | int | float):
        return f"{name}[{values[0]}]"
    return f"{name}[{json.dumps(arguments, ensure_ascii=False) if values else ''}]"


def _with_call(message: dict[str, Any], content: str) -> str:
    """The text of an agent's turn; tool calls become its action, what else it wrote its thought."""
    actions = [_called(call) for call in message.get("tool_calls") or ()]
    if not actions:
        return content
    if len(actions) > 1:
        raise ParseError(f"{len(actions)} tool calls in one turn; a step has one action")
    return format_completion(re.sub(r"^\s*Thought:\s*", "", content).strip(), actions[0])


def _called(call: Any) -> str:
    called = call.get("function", call) if isinstance(call, dict) else {}
    if isinstance(called, str):  # inspect: {"function": name, "arguments": {…}}
        called = {"name": called, "arguments": call.get("arguments")}
    name = called.get("name", called.get("function_name"))
    if not isinstance(name, str):
        raise ParseError("a tool call without the name of a function")
    return call_as_action(name, called.get("arguments") or {})


def _text(content: Any, number: int) -> str:
    """Plain text, or the text parts of a list of parts; None (a turn of tool calls alone) is empty."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_part(part, number) for part in content)
    raise ParseError(f"message {number} has a {type(content).__name__} for its content")


def _part(part: Any, number: int) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "reasoning":
        return ""
    text = part.get("text", part.get("value")) if kind == "text" else None
    if not isinstance(text, str):
        raise ParseError(f"message {number} has a part which is no text: {kind!r}")
    return text


def _weight(message: dict[str, Any], number: int) -> float | None:
    """The loss weight a message came with, by whatever name; 0 is masked."""
    for name in ("weight", "loss_weight", "loss_scale", "train", "loss"):
        value = message.get(name)
        if value is not None:
            if not isinstance(value, bool | int | float) or value < 0:
                raise ParseError(f"message {number} has {name} {value!r}, which is no loss weight")
            return float(value)
    return None


def _preamble(talk: Sequence[Message]) -> tuple[str, list[Message]]:
    """(the rules, the episode): leading system messages, then a first exchange which the agent merely agrees to."""
    rules: list[str] = []
    rest = list(talk)
    while rest and rest[0].role == "system":
        rules.append(rest.pop(0).text)
    if (
        len(rest) > 2
        and [message.role for message in rest[:3]] == ["user", "agent", "user"]
        and _agrees(rest[1])
    ):
        rules.append(rest[0].text)
        rest = rest[2:]
    return "\n\n".join(rules), rest


def _agrees(message: Message) -> bool:
    return bool(_AGREES.fullmatch(message.text)) and parse_completion(message.text)[1] is None


def _shown(texts: Iterable[str]) -> str:
    return "\n".join(_OBSERVATION.sub("", text) for text in texts)


def _step(seen: str, message: Message) -> Step:
    action = parse_completion(message.text)[1] or ""
    weight = 1.0 if message.weight is None else message.weight
    return Step(observation=seen, completion=message.text, action=action, weight=weight)
