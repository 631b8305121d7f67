"""Chat messages in any naming scheme → the prompt, steps and final observation of an episode.

Each message is first parsed into a `Message`, whatever its keys are named; a tool call becomes the
action, and loss masks are kept. The prompt is the leading system text, and a first user message
that the agent merely acknowledges ("OK"). Each turn of the agent, with the observation before it,
is a step. Text after the last turn is the final observation.
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
_ACKNOWLEDGMENT = re.compile(r"\s*(ok|okay|sure|understood|got it)\b[^\n]{0,120}\s*", re.I)


@dataclass(frozen=True, slots=True)
class Message:
    """A chat message. `weight` is its loss weight in the file, None if it has none."""

    role: Role
    text: str
    weight: float | None = None


def parse_message(message: Any, number: int) -> Message:
    """The message of a JSON value; `number` is its index in the row, for errors.

    Role and text are `role`/`content` or `from`/`value`; the loss weight is `train`, `weight`,
    `loss`, `loss_scale` or `loss_weight`. ParseError if it is not an object, its role is unknown or
    it has no text.
    """
    if not isinstance(message, dict):
        raise ParseError(f"message {number} is a {type(message).__name__}; expected an object")
    name = message.get("role", message.get("from", message.get("source")))
    if not isinstance(name, str) or name.lower() not in _ROLES:
        raise ParseError(f"unknown role {name!r} in message {number}")
    role = _ROLES[name.lower()]
    content = _text(message.get("content", message.get("value", message.get("message"))), number)
    if role == "agent":
        content = _with_call(message, content)
    return Message(role, content, _weight(message, number))


def split_episode(messages: Sequence[Message]) -> tuple[str, tuple[Step, ...], str]:
    """The prompt, steps and final observation of a conversation.

    Consecutive user messages are joined. ParseError if a turn of the agent does not follow an
    observation, or if a system message occurs after the start.
    """
    prompt, rest = _split_prompt(messages)
    steps: list[Step] = []
    observations: list[str] = []
    for number, message in enumerate(rest, start=len(messages) - len(rest)):
        if message.role == "system":
            raise ParseError(f"message {number} is a system message after the conversation's start")
        if message.role == "user":
            observations.append(message.text)
            continue
        if not observations:
            which = "a second turn of the agent in a row" if steps else "a turn of the agent"
            raise ParseError(f"message {number} is {which}, without an observation before it")
        steps.append(_step(_join(observations), message))
        observations = []
    return prompt, require_steps(steps), _join(observations)


def call_as_action(name: str, arguments: Any) -> str:
    """The action of a tool call: `name[value]` for a single argument, `name[{json}]` for several.

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
    """The text of an agent's turn; a tool call becomes its action, the rest its thought."""
    actions = [_action(call) for call in message.get("tool_calls") or ()]
    if not actions:
        return content
    if len(actions) > 1:
        raise ParseError(f"{len(actions)} tool calls in one turn; a step has one action")
    return format_completion(re.sub(r"^\s*Thought:\s*", "", content).strip(), actions[0])


def _action(call: Any) -> str:
    called = call.get("function", call) if isinstance(call, dict) else {}
    if isinstance(called, str):  # inspect: {"function": name, "arguments": {…}}
        called = {"name": called, "arguments": call.get("arguments")}
    name = called.get("name", called.get("function_name"))
    if not isinstance(name, str):
        raise ParseError("a tool call has no function name")
    return call_as_action(name, called.get("arguments") or {})


def _text(content: Any, number: int) -> str:
    """The text of a content: a string, a list of parts, or None (a turn of tool calls only)."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_part(part, number) for part in content)
    raise ParseError(f"message {number} has content of type {type(content).__name__}")


def _part(part: Any, number: int) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "reasoning":
        return ""
    text = part.get("text", part.get("value")) if kind == "text" else None
    if not isinstance(text, str):
        raise ParseError(f"message {number} has a part that is not text: {kind!r}")
    return text


def _weight(message: dict[str, Any], number: int) -> float | None:
    """The loss weight of a message under any of its names; 0 is masked."""
    for name in ("weight", "loss_weight", "loss_scale", "train", "loss"):
        value = message.get(name)
        if value is not None:
            if not isinstance(value, bool | int | float) or value < 0:
                raise ParseError(f"message {number}: `{name}` is {value!r}; expected 0 or more")
            return float(value)
    return None


def _split_prompt(messages: Sequence[Message]) -> tuple[str, list[Message]]:
    """The prompt and the messages after it; see the module for what counts as prompt."""
    prompt: list[str] = []
    rest = list(messages)
    while rest and rest[0].role == "system":
        prompt.append(rest.pop(0).text)
    if (
        len(rest) > 2
        and [message.role for message in rest[:3]] == ["user", "agent", "user"]
        and _acknowledges(rest[1])
    ):
        prompt.append(rest[0].text)
        rest = rest[2:]
    return "\n\n".join(prompt), rest


def _acknowledges(message: Message) -> bool:
    return (
        bool(_ACKNOWLEDGMENT.fullmatch(message.text)) and parse_completion(message.text)[1] is None
    )


def _join(texts: Iterable[str]) -> str:
    return "\n".join(_OBSERVATION.sub("", text) for text in texts)


def _step(observation: str, message: Message) -> Step:
    action = parse_completion(message.text)[1] or ""
    weight = 1.0 if message.weight is None else message.weight
    return Step(observation=observation, completion=message.text, action=action, weight=weight)
