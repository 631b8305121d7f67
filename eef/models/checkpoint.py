"""Checkpoints: plain Hugging Face (or PEFT adapter) directories with a manifest."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import ModelCard
from transformers.utils import GENERATION_CONFIG_NAME

from eef.errors import ModelError
from eef.models.generation import make_writable
from eef.models.loading import (
    load_model,
    merge_adapters,
    no_peft_warnings,
    no_progress_bars,
    writing_weights,
)
from eef.models.manifest import MANIFEST_FILE, read_manifest, sha256
from eef.models.settings import DType
from eef.renderer import Renderer
from eef.utils.jsonl import read_json, write_json, write_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

CARD_FILE = "README.md"
MERGE_TOLERANCE: dict[DType, float] = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}
"""The largest difference between the logits of the merged and the adapted model, relative to their
size (Euclidean norms)."""

_WEIGHTS = "*.safetensors"
_PROBED_TOKENS = 64


def save_checkpoint(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    directory: Path,
    *,
    base: str,
    about: Mapping[str, Any] | None = None,
    stop_ids: Collection[int] | None = None,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write model, tokenizer, chat template and generation settings, replacing `directory`.

    `stop_ids` are the ids that end a turn, by default those of the plain chat template. `base`
    names the model it was trained from. `about` (recipe, method, round …, JSON values) goes into
    the manifest, with the SHA-256 of each weights file. Of a model with adapters only the adapters
    are written. `weights` are those to write, by default the model's. StoreError if the disk is
    full.
    """
    with writing_weights(directory):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        # a server must end a turn where the policy does, even if it ignores the chat template
        make_writable(model)
        model.generation_config.eos_token_id = sorted(stop_ids or Renderer(tokenizer).stop_ids)
        with no_progress_bars(), no_peft_warnings():
            model.save_pretrained(directory, state_dict=dict(weights) if weights else None)
        if weights:  # a sharded model is in another number format
            model.config.dtype = next(iter(weights.values())).dtype
            model.config.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        model.generation_config.save_pretrained(directory)
        digests = {path.name: sha256(path) for path in sorted(directory.glob(_WEIGHTS))}
    write_json(directory / MANIFEST_FILE, {**(about or {}), "base": base, "sha256": digests})


def merge_checkpoint(directory: Path, out: Path, *, dtype: DType = "float32") -> None:
    """Write the full model of an adapter checkpoint, with manifest and card.

    The written model is loaded again and compared with the adapted one by a forward pass; see
    `MERGE_TOLERANCE`. ModelError if the checkpoint has no adapters, or if the two differ; nothing
    is left in `out` then.
    """
    manifest = read_manifest(directory)
    model, tokenizer = load_model(str(directory), dtype=dtype, device="cpu")
    adapted = _probe(model)
    about = {key: value for key, value in manifest.items() if key not in ("base", "sha256")}
    save_checkpoint(
        merge_adapters(model),
        tokenizer,
        out,
        base=manifest["base"],
        about={**about, "merged": str(directory)},
        stop_ids=_saved_stop_ids(directory),
    )
    del model
    _compare(adapted, _probe(load_model(str(out), dtype=dtype, device="cpu")[0]), out, dtype)
    if (directory / CARD_FILE).is_file():
        card = ModelCard.load(directory / CARD_FILE)
        card.data.library_name = "transformers"
        card.data.tags = [tag for tag in card.data.tags or [] if tag != "lora"]
        write_text(out / CARD_FILE, str(card))


def _saved_stop_ids(directory: Path) -> Collection[int] | None:
    """The stop ids in a checkpoint's generation settings: its template may need variables."""
    path = directory / GENERATION_CONFIG_NAME
    ids = read_json(path).get("eos_token_id") if path.is_file() else None
    return [ids] if isinstance(ids, int) else ids


@torch.inference_mode()
def _probe(model: PreTrainedModel) -> torch.Tensor:
    """The logits of a model at `_PROBED_TOKENS` tokens spread over its vocabulary."""
    count = model.get_input_embeddings().weight.shape[0]
    ids = torch.linspace(0, count - 1, _PROBED_TOKENS).long()[None]
    logits: torch.Tensor = model(ids).logits
    return logits.double()


def _compare(adapted: torch.Tensor, merged: torch.Tensor, out: Path, dtype: DType) -> None:
    """ModelError, and no files in `out`, if a merged model differs from the adapted one."""
    difference = float((adapted - merged).norm() / adapted.norm())
    if not difference <= MERGE_TOLERANCE[dtype]:
        shutil.rmtree(out, ignore_errors=True)
        raise ModelError(
            f"the merged model differs from the adapted one: its logits by {difference:.2g} of "
            f"their size; expected at most {MERGE_TOLERANCE[dtype]:g} in {dtype}",
            hint="use the adapters without merging them, or merge in float32",
        )
