"""Generation settings of a model: invalid ones are fixed, so that a checkpoint can be written.

Many published models have a `generation_config.json` that transformers refuses to write again, for
example a temperature without `do_sample`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from transformers import GenerationConfig, PreTrainedConfig
from transformers.utils import GENERATION_CONFIG_NAME
from transformers.utils import logging as transformers_logging

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_FIRST = ("do_sample", "num_beams", "use_cache")  # whether others are valid depends on these


def fixed_generation_config(source: str) -> GenerationConfig | None:
    """A valid version of a model's generation settings; None if there are none or they are valid.

    Each change is logged as a warning.
    """
    try:
        table, _ = PreTrainedConfig.get_config_dict(
            source, _configuration_file_name=GENERATION_CONFIG_NAME
        )
    except (OSError, ValueError):
        return None
    fixed, changes = fix_settings(table)
    if not changes:
        return None
    note_changes(source, changes)
    return GenerationConfig.from_dict(fixed)


def make_writable(model: PreTrainedModel) -> None:
    """Fix the generation settings of a model in memory, and remove those in its configuration."""
    config = model.generation_config
    fixed, changes = fix_settings(config.to_diff_dict())
    if changes:
        note_changes(model.name_or_path, changes)
        with _quiet():
            model.generation_config = GenerationConfig.from_dict(fixed)
    for name in model.config._get_generation_parameters():
        setattr(model.config, name, None)


def fix_settings(table: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(valid settings, what was changed). Settings that are valid are returned as they are.

    If there are sampling settings without `do_sample`, it is set to true, since their author meant
    to sample. All other settings that are invalid by themselves or with the others are removed.

    >>> fix_settings({"temperature": 0.9, "top_p": 0.6})
    ({'temperature': 0.9, 'top_p': 0.6, 'do_sample': True}, ('`do_sample` set to true',))
    >>> fix_settings({"temperature": 0.0, "eos_token_id": 2})
    ({'eos_token_id': 2}, ('`temperature` = 0.0 removed',))
    """
    with _quiet():
        if _is_valid(table):
            return dict(table), ()
        changes: list[str] = []
        kept: dict[str, Any] = {}
        if not table.get("do_sample") and table.get("temperature") != 0:
            sampling = {**table, "do_sample": True}
            if _is_valid(sampling):
                return sampling, ("`do_sample` set to true",)
            greedy = [name for name in table if not _is_valid({name: table[name]})]
            if any(_is_valid({name: table[name], "do_sample": True}) for name in greedy):
                kept, changes = {"do_sample": True}, ["`do_sample` set to true"]
        for name in sorted(table.keys() - kept.keys(), key=lambda name: name not in _FIRST):
            if _is_valid({**kept, name: table[name]}):
                kept[name] = table[name]
            else:
                changes.append(f"`{name}` = {table[name]!r} removed")
        return kept, tuple(changes)


@cache
def note_changes(model_name: str, changes: tuple[str, ...]) -> None:
    """Log once what was changed in a model's generation settings."""
    logging.getLogger(__name__).warning(
        "note: the generation settings of %s are invalid; in its checkpoints: %s",
        model_name or "the model",
        ", ".join(changes),
    )


def _is_valid(table: Mapping[str, Any]) -> bool:
    try:
        GenerationConfig.from_dict(dict(table)).validate(strict=True)
    except (ValueError, TypeError, AttributeError):
        return False
    return True


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the warnings of transformers about settings that are tried."""
    shown = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(shown)
