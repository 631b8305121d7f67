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
from typing import Literal

from eef.config import unknown_name
from eef.errors import MethodError
from eef.exporters.chat_template import Comparison, compare
from eef.exporters.directory import write_export
from eef.exporters.examples import RenderedExample
from eef.exporters.message_targets import (
    write_agentgym,
    write_atif,
    write_axolotl,
    write_llamafactory,
    write_llamafactory_v1,
    write_openai,
    write_swift,
    write_together,
)
from eef.exporters.readmes import (
    EXACT,
    HOSTED,
    MARKED,
    READMES,
    UNMARKED,
    promise_of,
)
from eef.exporters.token_targets import (
    MARKED_FILE,
    write_parquet,
    write_prompt_completion,
    write_trl,
    write_verl,
)
from eef.policy import Conversation
from eef.renderer import Renderer
from eef.utils.extras import require_package
from eef.utils.jsonl import write_text


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
    not support their weights, StoreError as in `write_export`.
    """
    target = find_target(name)
    if target.renders != "tokens":
        examples = [each for each in examples if any(each.message_weights)]
    _check(name, target, examples, renderer)
    comparison = None
    if target.renders == "model":
        texts = (part for each in examples for part in _texts(name, each))
        comparison = compare(texts, renderer)
    promise = _promise(target, comparison, renderer) + _exceptions(examples)

    def write(unfinished: Path) -> None:
        target.write(examples, unfinished, renderer)
        readme = READMES[name].format(
            what=_describe(examples),
            promise=fill(promise, 100, break_on_hyphens=False),
            end=end_of_turn(renderer),
            messages=MARKED if (unfinished / MARKED_FILE).is_file() else UNMARKED,
        )
        write_text(unfinished / "README.md", readme)

    return Export(tuple(write_export(directory, name, write)), comparison)


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


TARGETS: dict[str, Target] = {
    "trl": Target(write_trl, renders="tokens", tables=True),
    "axolotl": Target(write_axolotl),
    "llamafactory": Target(write_llamafactory),
    "llamafactory-v1": Target(write_llamafactory_v1, binary=False),
    "ms-swift": Target(write_swift, binary=False),
    "openai": Target(write_openai, renders="own"),
    "together": Target(write_together, renders="own"),
    "agentgym": Target(write_agentgym, calls=False, renders="own"),
    "verl": Target(write_verl, binary=False, renders="tokens", tables=True),
    "prompt-completion": Target(write_prompt_completion, binary=False, renders="tokens"),
    "parquet": Target(write_parquet, binary=False, renders="tokens", tables=True),
    "atif": Target(write_atif, binary=False, renders="own"),
}
