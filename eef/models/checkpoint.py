"""Checkpoints: plain Hugging Face (or PEFT adapter) directories with a manifest.

The manifest is written last, so a directory that has one is complete.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard

from eef.errors import DataError
from eef.models.loading import load_model, merge_adapters, no_progress_bars, writing_weights
from eef.models.settings import DType
from eef.renderer import Renderer
from eef.utils.jsonl import read_json, write_json, write_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

MANIFEST_FILE = "manifest.json"
CARD_FILE = "README.md"
_WEIGHTS = "*.safetensors"


def save_checkpoint(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    directory: Path,
    *,
    base: str,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write model, tokenizer, chat template and generation settings, replacing `directory`.

    `base` names the model it was trained from. `about` (recipe, method, round …, JSON values) goes
    into the manifest, with the SHA-256 of each weights file. Of a model with adapters only the
    adapters are written. StoreError if the disk is full.
    """
    with writing_weights(directory):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        # a server must end a turn where the policy does, even if it ignores the chat template
        model.generation_config.eos_token_id = sorted(Renderer(tokenizer).stop_ids)
        with no_progress_bars():
            model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        model.generation_config.save_pretrained(directory)
        weights = {path.name: _sha256(path) for path in sorted(directory.glob(_WEIGHTS))}
    write_json(directory / MANIFEST_FILE, {**(about or {}), "base": base, "sha256": weights})


def merge_checkpoint(directory: Path, out: Path, *, dtype: DType = "float32") -> None:
    """Write the full model of an adapter checkpoint, with manifest and card.

    ModelError if the checkpoint has no adapters.
    """
    manifest = read_manifest(directory)
    model, tokenizer = load_model(str(directory), dtype=dtype, device="cpu")
    about = {key: value for key, value in manifest.items() if key not in ("base", "sha256")}
    save_checkpoint(
        merge_adapters(model),
        tokenizer,
        out,
        base=manifest["base"],
        about={**about, "merged": str(directory)},
    )
    if (directory / CARD_FILE).is_file():
        card = ModelCard.load(directory / CARD_FILE)
        card.data.library_name = "transformers"
        card.data.tags = [tag for tag in card.data.tags or [] if tag != "lora"]
        write_text(out / CARD_FILE, str(card))


def is_complete(directory: Path) -> bool:
    """Whether a checkpoint was written completely."""
    return (directory / MANIFEST_FILE).is_file()


def read_manifest(directory: Path) -> dict[str, Any]:
    """The manifest of a checkpoint. DataError if the directory holds no complete one."""
    if not is_complete(directory):
        raise DataError(
            f"`{directory}` holds no complete checkpoint", hint="its `manifest.json` is missing"
        )
    manifest: dict[str, Any] = read_json(directory / MANIFEST_FILE)
    return manifest


def verify_checkpoint(directory: Path) -> None:
    """Compare the checksums of all weights with the manifest. DataError for a mismatch."""
    for name, expected in read_manifest(directory)["sha256"].items():
        path = directory / name
        if not path.is_file() or _sha256(path) != expected:
            raise DataError(
                f"`{path}` is missing or was changed after it was written",
                hint="train this checkpoint again",
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
