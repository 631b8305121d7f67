"""Trainers: lessons → the files another trainer reads, so that it trains on the text `eef` trains on, and on no other.

Every message says whether it is trained. Where a trainer knows only trained and not trained, real-valued weights are
refused. Each directory has a README which says what lies there and how it is trained on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eef import __version__
from eef.config import unknown_name
from eef.errors import ConfigError, MethodError
from eef.exporters.chat_template import marked_template
from eef.exporters.examples import RenderedExample
from eef.exporters.readmes import READMES, VERL_DATASET
from eef.renderer import Renderer
from eef.utils.jsonl import disk_errors, write_json, write_jsonl, write_text
from eef.utils.records import Json

IGNORED = -100  # the label of a token without loss, in torch and all trainers built on it
_FIRST_ANSWER = "OK. I'll follow your instructions and try my best to solve the task."


@dataclass(frozen=True, slots=True)
class Target:
    """A trainer that is written for. `binary`: it knows weights 0 and 1 alone. `messages`: it knows no part of a
    message, so that loss on actions alone cannot be told to it."""

    write: Callable[[Sequence[RenderedExample], Path, Renderer], None]
    binary: bool = True
    messages: bool = True


def export(
    name: str, lessons: Sequence[RenderedExample], directory: Path, renderer: Renderer
) -> list[Path]:
    """Write the files of a target into a directory; returns them.

    Raises ConfigError (no such target), MethodError (nothing to write, or weights which it cannot hold), StoreError.
    """
    target = find_target(name)
    _check(name, target, lessons, renderer)
    with disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    target.write(lessons, directory, renderer)
    write_text(
        directory / "README.md", READMES[name].format(count=len(lessons), end=end_of_turn(renderer))
    )
    return sorted(path for path in directory.rglob("*") if path.is_file())


def find_target(name: str) -> Target:
    """The target of a name (ConfigError naming the nearest)."""
    if name not in TARGETS:
        raise unknown_name("export target", name, TARGETS)
    return TARGETS[name]


def end_of_turn(renderer: Renderer) -> str:
    """The text that ends a turn."""
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    return renderer.spans(talk, [1.0])[-1][0][
        1 if renderer.loss_on == "completion" else 0 :
    ].removeprefix("b")


def _check(
    name: str, target: Target, lessons: Sequence[RenderedExample], renderer: Renderer
) -> None:
    if not lessons:
        raise MethodError(
            "there is nothing to export: no example with a trained step", hint="see `eef show DIR`"
        )
    if target.messages and renderer.loss_on == "action":
        raise MethodError(
            f'`{name}` trains whole messages, and `chat.loss_on` is "action"',
            hint=f"take a target of tokens: {', '.join(key for key, item in TARGETS.items() if not item.messages)}",
        )
    odd = next((lesson for lesson in lessons if target.binary and not lesson.binary), None)
    if odd is not None:
        weight = next(weight for weight in odd.weights if weight not in (0.0, 1.0))
        raise MethodError(
            f"`{name}` knows trained and not trained alone; example {odd.meta['example']!r} has weight {weight:g}",
            hint=f"take one of: {', '.join(key for key, item in TARGETS.items() if not item.binary)}",
        )


# --- messages ------------------------------------------------------------------------------------------------------


def canonical(lesson: RenderedExample) -> Json:
    """Our row: `train` on every message, `weight` beside it where that is neither 0 nor 1; `meta` follows it back."""
    messages = [
        {**message, "train": weight != 0, **({} if weight in (0.0, 1.0) else {"weight": weight})}
        for message, weight in lesson.weighted()
    ]
    return {"messages": messages, "meta": lesson.meta}


def _with(lesson: RenderedExample, key: str, value: Callable[[float], Any]) -> Json:
    return {"messages": [{**message, key: value(weight)} for message, weight in lesson.weighted()]}


def _axolotl(lessons: Sequence[RenderedExample], directory: Path, renderer: Renderer) -> None:
    write_jsonl(directory / "train.jsonl", (_with(lesson, "train", bool) for lesson in lessons))


def _weights(lessons: Sequence[RenderedExample], directory: Path, renderer: Renderer) -> None:
    write_jsonl(directory / "train.jsonl", (_with(lesson, "weight", int) for lesson in lessons))


def _swift(lessons: Sequence[RenderedExample], directory: Path, renderer: Renderer) -> None:
    rows = (
        {
            "messages": [
                {
                    **message,
                    "loss": weight != 0,
                    **({} if lesson.binary else {"loss_scale": weight}),
                }
                for message, weight in lesson.weighted()
            ]
        }
        for lesson in lessons
    )
    write_jsonl(directory / "train.jsonl", rows)


def _llamafactory(lessons: Sequence[RenderedExample], directory: Path, renderer: Renderer) -> None:
    old = directory / "v0"
    with disk_errors(old):
        old.mkdir(exist_ok=True)
    write_jsonl(old / "train.jsonl", (row for lesson in lessons for row in _row_an_action(lesson)))
    write_json(
        old / "dataset_info.json",
        {
            "eef": {
                "file_name": "train.jsonl",
                "formatting": "sharegpt",
                "columns": {"messages": "messages"},
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
    _llamafactory_v1(lessons, directory / "v1", renderer)


def _row_an_action(lesson: RenderedExample) -> Iterator[Json]:
    """A row for each trained message, which ends in it: the last message alone is trained (`mask_history`)."""
    for index, _ in lesson.trained():
        yield {"messages": lesson.conversation[: index + 1]}


def _llamafactory_v1(
    lessons: Sequence[RenderedExample], directory: Path, renderer: Renderer
) -> None:
    with disk_errors(directory):
        directory.mkdir(exist_ok=True)
    rows = (
        {
            "messages": [
                {
                    "role": message["role"],
                    "content": [{"type": "text", "value": message["content"]}],
                    "loss_weight": weight,
                }
                for message, weight in lesson.weighted()
            ]
        }
        for lesson in lessons
    )
    write_jsonl(directory / "train.jsonl", rows)


def _agentgym(lessons: Sequence[RenderedExample], directory: Path, renderer: Renderer) -> None:
    rows = [
        {"conversations": list(_turns(lesson)), "item_id": lesson.meta["task"].replace("/", "_")}
        for lesson in lessons
    ]
    write_json(directory / "train.json", rows)


def _turns(lesson: RenderedExample) -> Iterator[Json]:
    """AgentGym's naming; the rules in words are a first turn of the user, to which the agent agrees."""
    for message, weight in lesson.weighted():
        if message["role"] == "system":
            yield {"from": "human", "loss": None, "value": message["content"]}
            yield {"from": "gpt", "loss": False, "value": _FIRST_ANSWER}
        elif message["role"] == "user":
            yield {"from": "human", "loss": None, "value": message["content"]}
        else:
            yield {"from": "gpt", "loss": weight != 0, "value": message["content"]}


def _atif(lessons: Sequence[RenderedExample], directory: Path, renderer: Renderer) -> None:
    for number, lesson in enumerate(lessons):
        write_json(directory / f"trajectory-{number:05}.json", atif(lesson))


def atif(lesson: RenderedExample) -> Json:
    """An Agent Trajectory Interchange Format document: what an agent's turn led to is its observation."""
    steps: list[Json] = []
    for message, weight in lesson.weighted():
        role, content = message["role"], message["content"]
        if role == "user" and steps and steps[-1]["source"] == "agent":
            steps[-1]["observation"] = {"results": [{"content": content}]}
            continue
        source = "agent" if role == "assistant" else role
        steps.append(
            {
                "step_id": len(steps) + 1,
                "source": source,
                "message": content,
                "extra": {"train": weight != 0, "weight": weight},
            }
        )
    return {
        "schema_version": "ATIF-v1.6",
        "session_id": lesson.meta["example"],
        "agent": {"name": "eef", "version": __version__},
        "steps": steps,
        "extra": lesson.meta,
    }


# --- tokens --------------------------------------------------------------------------------------------------------


def _prompt_completion(
    lessons: Sequence[RenderedExample], directory: Path, renderer: Renderer
) -> None:
    rows = (row for lesson in lessons for row in prompts_and_completions(lesson))
    write_jsonl(directory / "train.jsonl", rows)


def prompts_and_completions(lesson: RenderedExample) -> Iterator[Json]:
    """A row for each trained stretch of text: all before it, the stretch with its end of turn, its weight."""
    before = ""
    for text, weight in lesson.spans:
        if weight != 0:
            yield {"prompt": before, "completion": text, "weight": weight, "meta": lesson.meta}
        before += text


def _parquet(lessons: Sequence[RenderedExample], directory: Path, renderer: Renderer) -> None:
    rows = [
        {
            "messages": [
                {**message, "train": weight != 0, "weight": weight}
                for message, weight in lesson.weighted()
            ],
            "input_ids": lesson.rendered.ids,
            "weights": lesson.rendered.weights,
            "meta": json.dumps(lesson.meta),
        }
        for lesson in lessons
    ]
    write_table(directory / "train.parquet", rows)


def _trl(lessons: Sequence[RenderedExample], directory: Path, renderer: Renderer) -> None:
    write_table(
        directory / "tokens.parquet",
        [{"input_ids": lesson.rendered.ids, "labels": labels(lesson)} for lesson in lessons],
    )
    path = directory / "chat_template.jinja"
    template = None
    if renderer.loss_on == "completion":
        write_jsonl(
            directory / "messages.jsonl", (_with(lesson, "train", bool) for lesson in lessons)
        )
        template = marked_template(renderer.tokenizer, end_of_turn(renderer), lessons)
    if template is None:
        path.unlink(missing_ok=True)
    else:
        write_text(path, template)


def labels(lesson: RenderedExample) -> list[int]:
    """Ids where a token is trained, -100 where it is not."""
    pairs = zip(lesson.rendered.ids, lesson.rendered.weights, strict=True)
    return [token if weight != 0 else IGNORED for token, weight in pairs]


def _verl(lessons: Sequence[RenderedExample], directory: Path, renderer: Renderer) -> None:
    write_table(
        directory / "train.parquet",
        [
            {
                "messages": lesson.conversation,
                "input_ids": lesson.rendered.ids,
                "loss_mask": lesson.rendered.weights,
            }
            for lesson in lessons
        ],
    )
    write_text(directory / "dataset.py", VERL_DATASET)


def write_table(path: Path, rows: Sequence[Json]) -> None:
    """Write a parquet file. ConfigError without pyarrow, StoreError where the disk refuses."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(
            "parquet files need `pyarrow`", hint="`pip install 'eef[tables]'`"
        ) from error
    with disk_errors(path):
        parquet.write_table(pyarrow.Table.from_pylist(list(rows)), path)


TARGETS: dict[str, Target] = {
    "trl": Target(_trl, messages=False),
    "axolotl": Target(_axolotl),
    "llamafactory": Target(_llamafactory),
    "llamafactory-v1": Target(_llamafactory_v1, binary=False),
    "ms-swift": Target(_swift, binary=False),
    "openai": Target(_weights),
    "together": Target(_weights),
    "agentgym": Target(_agentgym),
    "verl": Target(_verl, binary=False, messages=False),
    "prompt-completion": Target(_prompt_completion, binary=False, messages=False),
    "parquet": Target(_parquet, binary=False, messages=False),
    "atif": Target(_atif, binary=False),
}
