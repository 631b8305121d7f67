"""Targets that get messages: each states whether it is trained, in the form of the trainer.

Each `write_…` function writes the files of one target of `eef.exporters.targets`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from eef import __version__
from eef.exporters.examples import RenderedExample
from eef.renderer import Renderer
from eef.utils.jsonl import disk_errors, write_json, write_jsonl
from eef.utils.records import Json

_ACKNOWLEDGMENT = "OK. I'll follow your instructions and try my best to solve the task."


def _tools(example: RenderedExample) -> Json:
    """The tools of a row, if its agent calls any."""
    return {"tools": list(example.tools)} if example.tools else {}


def tools_text(example: RenderedExample) -> Json:
    """The tools of a row as JSON text, for trainers whose tables have no nested columns."""
    return {"tools": json.dumps(example.tools)} if example.tools else {}


def row_with(
    example: RenderedExample, key: str, value: Callable[[float], Any], *, folded: bool = True
) -> Json:
    """A row whose messages have `key`, with a value computed from the message's weight."""
    weighted = example.weighted(folded=folded)
    messages = [{**message, key: value(weight)} for message, weight in weighted]
    return {"messages": messages, **_tools(example)}


def write_axolotl(examples: Sequence[RenderedExample], directory: Path, renderer: Renderer) -> None:
    write_jsonl(
        directory / "train.jsonl", (row_with(example, "train", bool) for example in examples)
    )


def write_together(
    examples: Sequence[RenderedExample], directory: Path, renderer: Renderer
) -> None:
    rows = (row_with(example, "weight", int, folded=False) for example in examples)
    write_jsonl(directory / "train.jsonl", rows)


def write_openai(examples: Sequence[RenderedExample], directory: Path, renderer: Renderer) -> None:
    write_jsonl(directory / "train.jsonl", (_openai_row(example) for example in examples))


def _openai_row(example: RenderedExample) -> Json:
    """A row with the fields that OpenAI documents for each role, and no others."""
    row = row_with(example, "weight", int, folded=False)
    for message in row["messages"]:
        if message["role"] != "assistant":
            del message["weight"]
        if message["role"] == "tool":
            message.pop("name", None)
    return row


def write_swift(examples: Sequence[RenderedExample], directory: Path, renderer: Renderer) -> None:
    rows = (
        {
            "messages": [
                each
                for message, weight in example.weighted(folded=True)
                for each in _swift_messages(message, weight, scaled=not example.binary)
            ],
            **tools_text(example),
        }
        for example in examples
    )
    write_jsonl(directory / "train.jsonl", rows)


def _swift_messages(message: Json, weight: float, *, scaled: bool) -> Iterator[Json]:
    """A message as ms-swift takes it: each call and each result is a message of its own."""
    loss = {"loss": weight != 0, **({"loss_scale": weight} if scaled else {})}
    calls = message.get("tool_calls", ())
    if message["role"] == "tool":
        yield {"role": "tool_response", "content": message["content"], **loss}
    elif not calls:
        yield {**message, **loss}
    else:
        if message["content"]:
            yield {"role": "assistant", "content": message["content"], **loss}
        for call in calls:
            content = json.dumps(parsed_call(call), ensure_ascii=False)
            yield {"role": "tool_call", "content": content, **loss}


def parsed_call(call: Json) -> Json:
    """The function of a call, with its arguments as an object rather than as text."""
    function = call["function"]
    return {"name": function["name"], "arguments": json.loads(function["arguments"])}


def write_llamafactory(
    examples: Sequence[RenderedExample], directory: Path, renderer: Renderer
) -> None:
    v0 = directory / "v0"
    with disk_errors(v0):
        v0.mkdir(exist_ok=True)
    write_jsonl(
        v0 / "train.jsonl", (row for example in examples for row in _rows_per_action(example))
    )
    write_json(
        v0 / "dataset_info.json",
        {
            "eef": {
                "file_name": "train.jsonl",
                "formatting": "openai" if examples[0].tools else "sharegpt",
                "columns": {
                    "messages": "messages",
                    **({"tools": "tools"} if examples[0].tools else {}),
                },
                "tags": {
                    "role_tag": "role",
                    "content_tag": "content",
                    "user_tag": "user",
                    "assistant_tag": "assistant",
                    "system_tag": "system",
                },
            }
        },
    )
    write_llamafactory_v1(examples, directory / "v1", renderer)


def _rows_per_action(example: RenderedExample) -> Iterator[Json]:
    """One row per trained message; only the last message of a row is trained (`mask_history`)."""
    for conversation, _ in example.trained_parts():
        yield {"messages": example.written(conversation), **tools_text(example)}


def write_llamafactory_v1(
    examples: Sequence[RenderedExample], directory: Path, renderer: Renderer
) -> None:
    with disk_errors(directory):
        directory.mkdir(exist_ok=True)
    rows = (
        {
            "messages": [
                {
                    "role": message["role"],
                    "content": _v1_content(message),
                    "loss_weight": weight,
                }
                for message, weight in example.weighted(folded=True)
            ],
            **tools_text(example),
        }
        for example in examples
    )
    write_jsonl(directory / "train.jsonl", rows)


def _v1_content(message: Json) -> list[Json]:
    text = [{"type": "text", "value": message["content"]}] if message["content"] else []
    calls = [
        {"type": "tool_call", "value": json.dumps(parsed_call(call), ensure_ascii=False)}
        for call in message.get("tool_calls", ())
    ]
    return [*text, *calls] or [{"type": "text", "value": ""}]


def write_agentgym(
    examples: Sequence[RenderedExample], directory: Path, renderer: Renderer
) -> None:
    rows = [
        {"conversations": list(_turns(example)), "item_id": example.meta["task"].replace("/", "_")}
        for example in examples
    ]
    write_json(directory / "train.json", rows)


def _turns(example: RenderedExample) -> Iterator[Json]:
    """Messages in AgentGym's naming; the prompt is a user turn that the agent acknowledges."""
    for message, weight in example.weighted():
        if message["role"] == "system":
            yield {"from": "human", "loss": None, "value": message["content"]}
            yield {"from": "gpt", "loss": False, "value": _ACKNOWLEDGMENT}
        elif message["role"] == "user":
            yield {"from": "human", "loss": None, "value": message["content"]}
        else:
            yield {"from": "gpt", "loss": weight != 0, "value": message["content"]}


def write_atif(examples: Sequence[RenderedExample], directory: Path, renderer: Renderer) -> None:
    for number, example in enumerate(examples):
        write_json(directory / f"trajectory-{number:05}.json", atif(example))


def atif(example: RenderedExample) -> Json:
    """An Agent Trajectory Interchange Format document.

    A user message becomes the observation of the agent's turn before it.
    """
    steps: list[Json] = []
    for message, weight in example.weighted():
        role, content = message["role"], message["content"]
        if role in ("user", "tool") and steps and steps[-1]["source"] == "agent":
            call = {"source_call_id": message["tool_call_id"]} if role == "tool" else {}
            observation = steps[-1].setdefault("observation", {"results": []})
            observation["results"].append({**call, "content": content})
            continue
        source = "agent" if role == "assistant" else role
        steps.append(
            {
                "step_id": len(steps) + 1,
                "source": source,
                "message": content or "",
                **_atif_calls(message),
                "extra": {"train": weight != 0, "weight": weight},
            }
        )
    return {
        "schema_version": "ATIF-v1.6",
        "session_id": example.meta["example"],
        "agent": {
            "name": "eef",
            "version": __version__,
            **({"tool_definitions": list(example.tools)} if example.tools else {}),
        },
        "steps": steps,
        "extra": example.meta,
    }


def _atif_calls(message: Json) -> Json:
    calls = [
        {
            "tool_call_id": call["id"],
            "function_name": call["function"]["name"],
            "arguments": json.loads(call["function"]["arguments"]),
        }
        for call in message.get("tool_calls", ())
    ]
    return {"tool_calls": calls} if calls else {}
