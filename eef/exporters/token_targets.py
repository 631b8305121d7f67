"""Targets that get tokens or text: the ids with their weights, or the text of each trained span.

Each `write_…` function writes the files of one target of `eef.exporters.targets`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from eef.exporters.chat_template import marked_template
from eef.exporters.examples import RenderedExample
from eef.exporters.message_targets import parsed_call, row_with, tools_text
from eef.exporters.readmes import VERL_DATASET
from eef.exporters.tables import write_table
from eef.renderer import Renderer
from eef.utils.jsonl import write_jsonl, write_text
from eef.utils.records import Json

IGNORED = -100
"""Label of a token without loss, as in torch."""

MARKED_FILE = "chat_template.jinja"
"""The marked template of an export to TRL."""


def write_prompt_completion(
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


def write_parquet(examples: Sequence[RenderedExample], directory: Path, renderer: Renderer) -> None:
    rows = [
        {
            "messages": [
                {**message, "train": weight != 0, "weight": weight}
                for message, weight in example.weighted()
            ],
            "input_ids": example.rendered.ids,
            "weights": example.rendered.weights,
            **tools_text(example),
            "meta": json.dumps(example.meta),
        }
        for example in examples
    ]
    write_table(directory / "train.parquet", rows)


def write_trl(examples: Sequence[RenderedExample], directory: Path, renderer: Renderer) -> None:
    write_table(
        directory / "tokens.parquet",
        [{"input_ids": example.rendered.ids, "labels": labels(example)} for example in examples],
    )
    if renderer.loss_on != "completion":  # messages would train whole completions
        return
    write_jsonl(directory / "messages.jsonl", (_trl_row(example) for example in examples))
    template = marked_template(renderer, examples) if renderer.tools is None else None
    if template is not None:
        write_text(directory / MARKED_FILE, template)


def _trl_row(example: RenderedExample) -> Json:
    """A row of messages. TRL and chat templates take the arguments of calls as objects."""
    row = row_with(example, "train", bool)
    for message in row["messages"]:
        if "tool_calls" in message:
            message["content"] = message["content"] or ""
            for call in message["tool_calls"]:
                call["function"] = parsed_call(call)
    return row


def labels(example: RenderedExample) -> list[int]:
    """Token ids, with -100 for every token that is not trained."""
    pairs = zip(example.rendered.ids, example.rendered.weights, strict=True)
    return [token if weight != 0 else IGNORED for token, weight in pairs]


def write_verl(examples: Sequence[RenderedExample], directory: Path, renderer: Renderer) -> None:
    write_table(
        directory / "train.parquet",
        [
            {
                "messages": example.written(example.conversation),
                **tools_text(example),
                "input_ids": example.rendered.ids,
                "loss_mask": example.rendered.weights,
            }
            for example in examples
        ],
    )
    write_text(directory / "dataset.py", VERL_DATASET)
