"""Answer: the completion in a response of a chat API, with its tokens.

A body of server-sent events is read like the answer it would have been in one piece.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from eef.chat_message import read_message
from eef.policies.rejections import Rejection, read_rejection
from eef.policy import Conversation
from eef.tools import Call

_BYTES = 3  # per token, at least: an upper estimate of a text's tokens
_FRAME = 8  # tokens around a message, at most
_MOST_CALLS = 64  # in one answer
_CUT = ("length", "max_tokens", "model_length")
_FILTERED = ("content_filter", "safety", "sensitive")
_INTERRUPTED = ("error", "abort", "aborted", "network_error", "insufficient_system_resource")
"""Finish reasons, in lower case, of answers that are not whole; servers use different words."""


class MalformedAnswer(Exception):
    """A response that is neither an answer nor an error: cut off, or without content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A server's answer. `problem` states why there is no usable completion in it, or is empty:
    `empty`, `filtered`, `interrupted` or `refused`; `note` is what the server states about it.

    `calls` are its tool calls; arguments that are not JSON remain text. `is_cut` is True if the
    answer ended at its maximum length. `prompt_tokens` and `generated_tokens` are None if the
    server reports none.
    """

    text: str
    reasoning: str
    is_cut: bool
    calls: tuple[Call, ...] = ()
    problem: str = ""
    note: str = ""
    prompt_tokens: int | None = None
    cached_tokens: int = 0
    generated_tokens: int | None = None


def read_answer(content: bytes) -> Answer | Rejection:
    """The content of a response of status 200. MalformedAnswer if it is malformed."""
    text = content.decode("utf-8", "replace").strip()
    if text.startswith(("data:", "event:", ":")):
        body = _joined(text)
    else:
        try:
            body = json.loads(text)
        except (ValueError, RecursionError):
            if not text or text.startswith(("{", "[", '"')):
                raise MalformedAnswer from None
            return read_rejection(200, content)
    if not isinstance(body, Mapping) or not isinstance(body.get("choices"), list):
        return read_rejection(200, json.dumps(body).encode())
    if not body["choices"]:
        rejection = read_rejection(200, json.dumps(body).encode())
        if rejection.is_stated:
            return rejection
    try:
        return _read(body, body["choices"][0])
    except (ValueError, LookupError, TypeError, AttributeError):
        raise MalformedAnswer from None


def _read(body: Mapping[str, Any], choice: Mapping[str, Any]) -> Answer:
    message = choice["message"]
    reasoning, text = read_message(message)
    calls = tuple(_read_call(item) for item in message.get("tool_calls") or ())
    finish = str(choice.get("finish_reason")).lower()
    error, refusal = choice.get("error") or body.get("error"), message.get("refusal")
    problem, note = "", ""
    if error or finish in _INTERRUPTED:
        problem = "interrupted"
        note = read_rejection(200, json.dumps({"error": error}).encode()).words if error else ""
    elif finish.startswith(_FILTERED):
        problem, note = "filtered", finish
    elif not text.strip() and isinstance(refusal, str) and refusal.strip():
        problem, note = "refused", refusal
    elif not text.strip() and not calls and finish not in _CUT:
        problem = "empty"
    usage = body.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    prompt = _count(usage, "prompt_tokens", "input_tokens")
    generated = _count(usage, "completion_tokens", "output_tokens")
    total = _count(usage, "total_tokens")
    if total and prompt and generated is None:
        generated = total - prompt if total > prompt else None
    details = usage.get("prompt_tokens_details")
    cached = _count(details if isinstance(details, Mapping) else {}, "cached_tokens")
    return Answer(
        text=text,
        reasoning=reasoning,
        is_cut=finish in _CUT,
        calls=calls,
        problem=problem,
        note=note,
        prompt_tokens=prompt,
        cached_tokens=cached or 0,
        generated_tokens=generated,
    )


def _read_call(item: Mapping[str, Any]) -> Call:
    function = item["function"]
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with suppress(ValueError, RecursionError):
            arguments = json.loads(arguments or "{}")
    return Call(str(function["name"]), {} if arguments is None else arguments)


def _add_deltas(calls: list[dict[str, Any]], deltas: Sequence[Mapping[str, Any]]) -> None:
    """Add the parts of tool calls in an event to the calls so far."""
    for delta in deltas:
        index = int(delta.get("index", len(calls)))
        while len(calls) <= min(index, _MOST_CALLS):
            calls.append({"function": {"name": "", "arguments": ""}})
        function, part = calls[index]["function"], delta.get("function") or {}
        for key in ("name", "arguments"):
            function[key] += part.get(key) or ""


def _count(usage: Mapping[str, Any], *names: str) -> int | None:
    """A positive count; None if there is none, since no answer has 0 tokens."""
    values = (usage.get(name) for name in names)
    return next(
        (int(each) for each in values if isinstance(each, int | float) and 0 < each < 1e12), None
    )


def _joined(text: str) -> dict[str, Any]:
    """The answer in a stream of server-sent events. MalformedAnswer if the stream has no end."""
    whole: dict[str, Any] = {"choices": []}
    message: dict[str, Any] = {}
    calls: list[dict[str, Any]] = []
    finish, ended = None, False
    for line in text.splitlines():
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            ended = True
            break
        try:
            event = json.loads(data)
            choice: dict[str, Any] = next(iter(event.get("choices") or []), {})
            delta = choice.get("delta") or choice.get("message") or {}
            for name in ("content", "reasoning_content", "reasoning"):
                if isinstance(delta.get(name), str):
                    message[name] = message.get(name, "") + delta[name]
            _add_deltas(calls, delta.get("tool_calls") or ())
            finish = choice.get("finish_reason") or finish
        except (ValueError, AttributeError, TypeError, LookupError, RecursionError):
            raise MalformedAnswer from None
        whole |= {name: event[name] for name in ("usage", "error") if event.get(name)}
    if "error" in whole:
        return whole
    if not (ended or finish):
        raise MalformedAnswer
    message |= {"tool_calls": calls} if calls else {}
    return {**whole, "choices": [{"message": message, "finish_reason": finish}]}


def most_tokens(text: str) -> int:
    """Upper estimate of a text's tokens."""
    return len(text.encode("utf-8", "replace")) // _BYTES + 1


def most_prompt_tokens(conversation: Conversation) -> int:
    """Upper estimate of a prompt's tokens."""
    return sum(most_tokens(message["content"]) + _FRAME for message in conversation)
