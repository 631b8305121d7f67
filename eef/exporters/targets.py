"""Targets: rendered examples → files of another trainer, so that it trains on the same text.

Every message records whether it is trained. A trainer without loss weights is refused real-valued
ones. Each directory gets a README with its files and how to train on them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any, Literal

from eef import __version__
from eef.config import unknown_name
from eef.errors import MethodError
from eef.exporters.chat_template import Comparison, compare, marked_template
from eef.exporters.examples import RenderedExample
from eef.exporters.readmes import (
    EXACT,
    HOSTED,
    MARKED,
    READMES,
    UNMARKED,
    VERL_DATASET,
    promise_of,
)
from eef.policy import Conversation
from eef.renderer import Renderer
from eef.utils.extras import missing_package, require_package
from eef.utils.jsonl import disk_errors, write_json, write_jsonl, write_text
from eef.utils.records import Json

IGNORED = -100
"""Label of a token without loss, as in torch."""

MARKED_FILE = "chat_template.jinja"
"""The marked template of an export to TRL."""

_ACKNOWLEDGMENT = "OK. I'll follow your instructions and try my best to solve the task."


@dataclass(frozen=True, slots=True)
class Target:
    """A trainer to write files for.

    `binary`: it supports only the weights 0 and 1. `calls`: it supports tool calls. `renders`: how
    it renders messages: by the `model`'s chat template, by its `own`, or not at all, because it
    gets `tokens` or text. Trainers that render messages train whole messages, so they cannot train
    only on actions. `tables`: it writes parquet files, which need pyarrow.
    """

    write: Callable[[Sequence[RenderedExample], Path, Renderer], None]
    binary: bool = True
    calls: bool = True
    renders: Literal["model", "own", "tokens"] = "model"
    tables: bool = False


@dataclass(frozen=True, slots=True)
class Export:
    """The files of an export, and how the trainer's rendering compares with that of `eef`.

    `comparison` is None for a trainer that does not render by the model's chat template.
    """

    files: tuple[Path, ...]
    comparison: Comparison | None


def export(
    name: str, examples: Sequence[RenderedExample], directory: Path, renderer: Renderer
) -> Export:
    """Write the files of a target into a directory.

    ConfigError if the target is unknown, MethodError if there are no examples or the target does
    not support their weights, StoreError if the disk cannot be written.
    """
    target = find_target(name)
    if target.renders != "tokens":
        examples = [each for each in examples if any(each.message_weights)]
    _check(name, target, examples, renderer)
    with disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    target.write(examples, directory, renderer)
    comparison = None
    if target.renders == "model":
        texts = (part for each in examples for part in _texts(name, each))
        comparison = compare(texts, renderer)
    readme = READMES[name].format(
        what=_describe(examples),
        promise=fill(
            _promise(target, comparison, renderer) + _exceptions(examples),
            100,
            break_on_hyphens=False,
        ),
        end=end_of_turn(renderer),
        messages=MARKED if (directory / MARKED_FILE).is_file() else UNMARKED,
    )
    write_text(directory / "README.md", readme)
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return Export(tuple(files), comparison)


def find_target(name: str) -> Target:
    """The target of a name. ConfigError if it is unknown, or needs a package that is missing."""
    if name not in TARGETS:
        raise unknown_name("export target", name, TARGETS)
    target = TARGETS[name]
    if target.tables:
        require_package("pyarrow", f"`--to {name}`")
    return target


def end_of_turn(renderer: Renderer) -> str:
    """The text that ends a turn."""
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    return renderer.spans(messages, [1.0])[-1][0][
        1 if renderer.loss_on == "completion" else 0 :
    ].removeprefix("b")


def _describe(examples: Sequence[RenderedExample]) -> str:
    """The number of examples, and the method and round that they are of."""
    count = f"{len(examples):,} example{'' if len(examples) == 1 else 's'}"
    meta = examples[0].meta
    if "method" not in meta:
        return count
    return f"{count} of `{meta['method']}`, round {meta['round']}, of the run `{meta['run']}`"


def _texts(name: str, example: RenderedExample) -> Iterator[tuple[Conversation, str]]:
    """The conversations of a target's rows, and the texts that `eef` trains on."""
    parts = list(example.trained_parts())
    yield from parts if name == "llamafactory" else parts[-1:]


def _promise(target: Target, comparison: Comparison | None, renderer: Renderer) -> str:
    if comparison is None:
        return EXACT if target.renders == "tokens" else HOSTED
    template = renderer.template
    return promise_of(
        comparison,
        renderer.tokenizer.name_or_path,
        json.dumps(template.variables),
        template.date.isoformat() if template.date else "",
    )


def _exceptions(examples: Sequence[RenderedExample]) -> str:
    """A sentence on turns that are not trained as messages, if there are any."""
    untrained = sum(each.untrained for each in examples)
    return f" As messages, {untrained:,} cut turns are not trained." if untrained else ""


def _check(
    name: str, target: Target, examples: Sequence[RenderedExample], renderer: Renderer
) -> None:
    if not examples:
        raise MethodError(
            "nothing to export: no example has a trained step",
            hint="list the examples: `eef show DIR`",
        )
    if target.renders != "tokens" and renderer.loss_on == "action":
        raise MethodError(
            f'`{name}` trains whole messages, and `chat.loss_on` is "action"',
            hint=f"export to one of: {_names(lambda each: each.renders == 'tokens')}",
        )
    if not target.calls and any(example.tools for example in examples):
        raise MethodError(
            f"`{name}` cannot represent tool calls",
            hint=f"export to one of: {_names(lambda each: each.calls)}",
        )
    odd = next((example for example in examples if target.binary and not example.binary), None)
    if odd is not None:
        weight = next(weight for weight in odd.weights if weight not in (0.0, 1.0))
        raise MethodError(
            f"`{name}` supports only weights 0 and 1; example {odd.meta['example']!r} has weight "
            f"{weight:g}",
            hint=f"export to one of: {_names(lambda each: not each.binary)}",
        )


def _names(fits: Callable[[Target], bool]) -> str:
    return ", ".join(name for name, target in TARGETS.items() if fits(target))


# --- messages -------------------------------------------------------------------------------------


def canonical(example: RenderedExample) -> Json:
    """The row of `eef`: `train` on every message, `weight` if it is neither 0 nor 1, and `meta`."""
    messages = [
        {**message, "train": weight != 0, **({} if weight in (0.0, 1.0) else {"weight": weight})}
        for message, weight in example.weighted()
    ]
    return {"messages": messages, **_tools(example), "meta": example.meta}


def _tools(example: RenderedExample) -> Json:
    """The tools of a row, if its agent calls any."""
    return {"tools": list(example.tools)} if example.tools else {}


def _tools_text(example: RenderedExample) -> Json:
    """The tools of a row as JSON text, for trainers whose tables have no nested columns."""
    return {"tools": json.dumps(example.tools)} if example.tools else {}


def _with(
    example: RenderedExample, key: str, value: Callable[[float], Any], *, folded: bool = True
) -> Json:
    weighted = example.weighted(folded=folded)
    messages = [{**message, key: value(weight)} for message, weight in weighted]
    return {"messages": messages, **_tools(example)}


def _axolotl(examples: Sequence[RenderedExample], directory: Path, renderer: Renderer) -> None:
    write_jsonl(directory / "train.jsonl", (_with(example, "train", bool) for example in examples))


def _together(examples: Sequence[RenderedExample], directory: Path, renderer: Renderer) -> None:
    rows = (_with(example, "weight", int, folded=False) for example in examples)
    write_jsonl(directory / "train.jsonl", rows)


def _openai(examples: Sequence[RenderedExample], directory: Path, renderer: Renderer) -> None:
    write_jsonl(directory / "train.jsonl", (_openai_row(example) for example in examples))


def _openai_row(example: RenderedExample) -> Json:
    """A row with the fields that OpenAI documents for each role, and no others."""
    row = _with(example, "weight", int, folded=False)
    for message in row["messages"]:
        if message["role"] != "assistant":
            del message["weight"]
        if message["role"] == "tool":
            message.pop("name", None)
    return row


def _swift(examples: Sequence[RenderedExample], directory: Path, renderer: Renderer) -> None:
    rows = (
        {
            "messages": [
                each
                for message, weight in example.weighted(folded=True)
                for each in _swift_messages(message, weight, scaled=not example.binary)
            ],
            **_tools_text(example),
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
            content = json.dumps(_parsed_call(call), ensure_ascii=False)
            yield {"role": "tool_call", "content": content, **loss}


def _parsed_call(call: Json) -> Json:
    function = call["function"]
    return {"name": function["name"], "arguments": json.loads(function["arguments"])}


def _llamafactory(examples: Sequence[RenderedExample], directory: Path, renderer: Renderer) -> None:
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
    _llamafactory_v1(examples, directory / "v1", renderer)


def _rows_per_action(example: RenderedExample) -> Iterator[Json]:
    """One row per trained message; only the last message of a row is trained (`mask_history`)."""
    for conversation, _ in example.trained_parts():
        yield {"messages": example.written(conversation), **_tools_text(example)}


def _llamafactory_v1(
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
            **_tools_text(example),
        }
        for example in examples
    )
    write_jsonl(directory / "train.jsonl", rows)


def _v1_content(message: Json) -> list[Json]:
    text = [{"type": "text", "value": message["content"]}] if message["content"] else []
    calls = [
        {"type": "tool_call", "value": json.dumps(_parsed_call(call), ensure_ascii=False)}
        for call in message.get("tool_calls", ())
    ]
    return [*text, *calls] or [{"type": "text", "value": ""}]


def _agentgym(examples: Sequence[RenderedExample], directory: Path, renderer: Renderer) -> None:
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


def _atif(examples: Sequence[RenderedExample], directory: Path, renderer: Renderer) -> None:
    with disk_errors(directory):
        for earlier in directory.glob("trajectory-*.json"):
            earlier.unlink()
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


# --- tokens ---------------------------------------------------------------------------------------


def _prompt_completion(
    examples: Sequence[RenderedExample], directory: Path, renderer: Renderer
) -> None:
    rows = (row for example in examples for row in prompts_and_completions(example))
    write_jsonl(directory / "train.jsonl", rows)


def prompts_and_completions(example: RenderedExample) -> Iterator[Json]:
    """One row per trained span: the text before it, the span with its end of turn, its weight."""
    before = ""
    for text, weight in example.spans:
        if weight != 0:
            yield {"prompt": before, "completion": text, "weight": weight, "meta": example.meta}
        before += text


def _parquet(examples: Sequence[RenderedExample], directory: Path, renderer: Renderer) -> None:
    rows = [
        {
            "messages": [
                {**message, "train": weight != 0, "weight": weight}
                for message, weight in example.weighted()
            ],
            "input_ids": example.rendered.ids,
            "weights": example.rendered.weights,
            **_tools_text(example),
            "meta": json.dumps(example.meta),
        }
        for example in examples
    ]
    write_table(directory / "train.parquet", rows)


def _trl(examples: Sequence[RenderedExample], directory: Path, renderer: Renderer) -> None:
    write_table(
        directory / "tokens.parquet",
        [{"input_ids": example.rendered.ids, "labels": labels(example)} for example in examples],
    )
    path = directory / MARKED_FILE
    template = None
    messages = directory / "messages.jsonl"
    if renderer.loss_on != "completion":  # those of an earlier export train whole completions
        messages.unlink(missing_ok=True)
    else:
        write_jsonl(messages, (_trl_row(example) for example in examples))
        if renderer.tools is None:
            template = marked_template(renderer, examples)
    if template is None:
        path.unlink(missing_ok=True)
    else:
        write_text(path, template)


def _trl_row(example: RenderedExample) -> Json:
    """A row of messages. TRL and chat templates take the arguments of calls as objects."""
    row = _with(example, "train", bool)
    for message in row["messages"]:
        if "tool_calls" in message:
            message["content"] = message["content"] or ""
            for call in message["tool_calls"]:
                call["function"] = _parsed_call(call)
    return row


def labels(example: RenderedExample) -> list[int]:
    """Token ids, with -100 for every token that is not trained."""
    pairs = zip(example.rendered.ids, example.rendered.weights, strict=True)
    return [token if weight != 0 else IGNORED for token, weight in pairs]


def _verl(examples: Sequence[RenderedExample], directory: Path, renderer: Renderer) -> None:
    write_table(
        directory / "train.parquet",
        [
            {
                "messages": example.written(example.conversation),
                **_tools_text(example),
                "input_ids": example.rendered.ids,
                "loss_mask": example.rendered.weights,
            }
            for example in examples
        ],
    )
    write_text(directory / "dataset.py", VERL_DATASET)


def write_table(path: Path, rows: Sequence[Json]) -> None:
    """Write a parquet file. ConfigError without pyarrow, StoreError if it cannot be written."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise missing_package("pyarrow", "a parquet file") from error
    unfinished = path.with_name(f"{path.name}.tmp")
    with disk_errors(path):
        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), unfinished)
        unfinished.replace(path)


TARGETS: dict[str, Target] = {
    "trl": Target(_trl, renders="tokens", tables=True),
    "axolotl": Target(_axolotl),
    "llamafactory": Target(_llamafactory),
    "llamafactory-v1": Target(_llamafactory_v1, binary=False),
    "ms-swift": Target(_swift, binary=False),
    "openai": Target(_openai, renders="own"),
    "together": Target(_together, renders="own"),
    "agentgym": Target(_agentgym, calls=False, renders="own"),
    "verl": Target(_verl, binary=False, renders="tokens", tables=True),
    "prompt-completion": Target(_prompt_completion, binary=False, renders="tokens"),
    "parquet": Target(_parquet, binary=False, renders="tokens", tables=True),
    "atif": Target(_atif, binary=False, renders="own"),
}
