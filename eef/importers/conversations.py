"""Chat messages in any naming scheme → the prompt, steps and final observation of an episode.

Each message is first parsed into a `Message`, under any names of its keys. Tool calls are kept (see
`calls`), reasoning becomes a thought block, and loss masks are kept. The prompt is the leading
system text; without any, a first user message that the agent merely acknowledges ("OK", "OK. I'll
follow your instructions."). Each turn of the agent, with the observation before it, is a step;
messages of the agent in a row are one turn if at most one of them has an action, or if all have
tool calls. The results of several calls are in the order of the calls where all name the call that
they are of. Text after the last turn is the final observation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from eef.chat_message import read_message, with_reasoning
from eef.importers.calls import (
    call_as_action,
    call_ids,
    calls_of,
    is_result,
    result_text,
)
from eef.importers.episode import ParseError, first_value, require_steps
from eef.react import parse_completion
from eef.thoughts import is_blank
from eef.tools import Call, join_results, read_turn, write_turn
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
    "ai": "agent",
    "assistant": "agent",
    "model": "agent",
    "agent": "agent",
    "function_call": "agent",
}
_ITEM_ROLES: dict[str, Role] = {
    "reasoning": "agent",
    "function_call": "agent",
    "custom_tool_call": "agent",
    "function_call_output": "user",
    "custom_tool_call_output": "user",
}
"""Items of OpenAI's Responses API, which have a type and no role."""
_LANGCHAIN = ("human", "ai", "tool", "function", "system")
"""Types of LangChain's messages, which have no role."""
_CONTENT = ("content", "value", "message", "parts", "output")
_OBSERVATION = re.compile(r"^\s*Observation:\s*", re.I)
_END_OF_TURN = re.compile(
    r"(?:\s*(?:</s>|<eos>|<end_of_turn>|<\|(?:im_end|eot_id|end|endoftext)\|>))+\s*$"
)
_ACKNOWLEDGMENT = re.compile(
    r"\s*(?:ok|okay|sure|understood|got it)[.!]?"
    r"(?:[.!,]?\s+[^\n?]{0,120}\b(?:follow|instructions?|solve|task|best)\b[^\n?]{0,120})?\s*",
    re.I,
)


@dataclass(frozen=True, slots=True)
class Message:
    """A chat message. `weight` is its loss weight in the file, None if it has none.

    `ids` are those of its calls, or of the call that it is the result of; empty if it has none.
    """

    role: Role
    text: str
    weight: float | None = None
    ids: tuple[str, ...] = ()

    @property
    def has_action(self) -> bool:
        return bool(read_turn(self.text).calls) or parse_completion(self.text)[1] is not None

    def followed_by(self, other: Message) -> Message | None:
        """The turn of two messages of the agent in a row; None if both have an action in ReAct."""
        one, two = read_turn(self.text), read_turn(other.text)
        if self.has_action and other.has_action and not (one.calls and two.calls):
            return None
        text = "\n\n".join(part for part in (one.text, two.text) if part.strip())
        weight = other.weight if other.has_action or not self.has_action else self.weight
        calls, ids = (*one.calls, *two.calls), (*self.ids, *other.ids)
        return Message(self.role, write_turn(text, calls), weight, ids)


def parse_messages(messages: Sequence[Any]) -> list[Message]:
    """The messages of a row; each result in a message with several results is one of its own."""
    return [
        parse_message(part, number)
        for number, message in enumerate(messages)
        for part in _split_results(message)
    ]


def parse_message(message: Any, number: int) -> Message:
    """The message of a JSON value; `number` is its index in the row, for errors.

    Role and text are `role`/`content` or `from`/`value`; the loss weight is `train`, `weight`,
    `loss`, `loss_scale` or `loss_weight`. The text of an agent's turn starts with its reasoning, as
    a thought block, ends before the special token that ends the turn, and has its calls as
    `eef.tools` writes them. ParseError if it is not an object, its role is unknown, or a part of it
    is not text.
    """
    if not isinstance(message, dict):
        raise ParseError(f"message {number} is a {type(message).__name__}; expected an object")
    name = first_value(message, ("role", "from", "source"))
    if name is None and message.get("type") in _LANGCHAIN:
        data = message.get("data")
        name, message = message["type"], data if isinstance(data, dict) else message
    item = str(message.get("type")) if name is None else ""
    if item not in _ITEM_ROLES and str(name).lower() not in _ROLES:
        raise ParseError(f"unknown role {name!r} in message {number}")
    role = _ITEM_ROLES.get(item) or _ROLES[str(name).lower()]
    content = first_value(message, _CONTENT)
    try:
        calls: list[Call] = []
        if item == "reasoning":
            content = [{"type": item, "reasoning": message.get("summary")}]
        elif item in ("function_call", "custom_tool_call"):
            content, calls = calls_of({}, message, is_call=True)
        elif role == "agent":
            is_call = str(name).lower() == "function_call"
            content, calls = calls_of(message, content, is_call=is_call)
        elif isinstance(content, list):
            content = [result_text(part) for part in content]
        reasoning, text = read_message({**message, "content": content})
    except ValueError as error:
        raise ParseError(f"message {number} has {error}") from None
    if role == "agent":
        refusal = message.get("refusal")
        if isinstance(refusal, str) and not calls and not text.strip():
            text = refusal
        text = _END_OF_TURN.sub("", text)
        text = write_turn(with_reasoning(reasoning, text), calls)
    ids = call_ids(message)
    return Message(role, text, _weight(message, number), ids if calls or role == "user" else ())


def split_episode(
    messages: Sequence[Message], turns: int | None = None
) -> tuple[str, tuple[Step, ...], str]:
    """The prompt, steps and final observation of a conversation.

    Consecutive user messages are joined. `turns` is the number of the agent's turns that the row
    counts: if there are more, and the agent acknowledged the part before the last `turns`, that
    part is a worked example, which belongs to the prompt. ParseError if a turn of the agent does
    not follow an observation, or if a system message occurs after the start.
    """
    prompt, rest = _split_example(messages, turns) or _split_prompt(messages)
    steps: list[Step] = []
    observations: list[Message] = []
    ids: tuple[str, ...] = ()  # of the calls of the last step
    for number, message in enumerate(rest, start=len(messages) - len(rest)):
        if message.role == "system":
            raise ParseError(f"message {number} is a system message after the conversation's start")
        if message.role == "user":
            observations.append(message)
            continue
        if not observations:
            if not steps:
                raise ParseError(
                    f"message {number} is a turn of the agent, without an observation before it"
                )
            last = steps.pop()
            turn = Message("agent", last.completion, last.weight, ids)
            message = _continued(turn, message, number)
            steps.append(_step(last.observation, message))
        else:
            steps.append(_step(_joined_after(steps, observations, ids), message))
        observations, ids = [], message.ids
    return prompt, require_steps(steps), _joined_after(steps, observations, ids)


def _weight(message: dict[str, Any], number: int) -> float | None:
    """The loss weight of a message under any of its names; 0 is masked."""
    for name in ("weight", "loss_weight", "loss_scale", "train", "loss"):
        value = message.get(name)
        if value is not None:
            if not isinstance(value, bool | int | float) or not 0 <= value < float("inf"):
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
        not any(text.strip() for text in prompt)
        and len(rest) > 2
        and [message.role for message in rest[:3]] == ["user", "agent", "user"]
        and _acknowledges(rest[1])
    ):
        prompt.append(rest[0].text)
        rest = rest[2:]
    return "\n\n".join(text for text in prompt if text.strip()), rest


def _split_example(
    messages: Sequence[Message], turns: int | None
) -> tuple[str, list[Message]] | None:
    """The prompt with its worked example and the messages after it; None if there is no example."""
    of_agent = [number for number, message in enumerate(messages) if message.role == "agent"]
    if turns is None or not 0 < turns < len(of_agent):
        return None
    end = of_agent[-turns - 1]  # the last turn that the row does not count
    if not _acknowledges(messages[end]):
        return None
    before = [message.text for message in messages[:end] if not _acknowledges(message)]
    return "\n\n".join(before), list(messages[end + 1 :])


def _acknowledges(message: Message) -> bool:
    return (
        message.role == "agent"
        and bool(_ACKNOWLEDGMENT.fullmatch(message.text))
        and parse_completion(message.text)[1] is None
    )


def _continued(turn: Message, message: Message, number: int) -> Message:
    """A turn and the next message of the agent."""
    turns = turn.followed_by(message)
    if turns is None:
        raise ParseError(
            f"message {number} is a second turn of the agent in a row, without an observation "
            "before it"
        )
    return turns


def _joined_after(steps: Sequence[Step], messages: Sequence[Message], ids: Sequence[str]) -> str:
    """The observation in messages; after several calls, each message is the result of one.

    `ids` are those of the calls.
    """
    calls = len(read_turn(steps[-1].completion).calls) if steps else 0
    named = [message.ids[0] for message in messages if message.ids]
    if len(set(ids)) == calls and sorted(named) == sorted(ids) and len(messages) == calls:
        messages = sorted(messages, key=lambda message: ids.index(message.ids[0]))
    texts = [_OBSERVATION.sub("", message.text) for message in messages]
    return join_results(texts) if calls == len(texts) else "\n".join(texts)


def _split_results(message: Any) -> list[Any]:
    """A message whose content is several results of calls, as one message per result."""
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list) or len(content) < 2 or not all(map(is_result, content)):
        return [message]
    return [{**message, "content": [part]} for part in content]


def _step(observation: str, message: Message) -> Step:
    calls = read_turn(message.text).calls
    action = call_as_action(*calls[0]) if calls else parse_completion(message.text)[1] or ""
    weight = 1.0 if message.weight is None else message.weight
    if is_blank(message.text):  # there is nothing to train, not even an end of turn
        weight = 0.0
    return Step(observation=observation, completion=message.text, action=action, weight=weight)
