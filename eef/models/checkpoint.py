"""Checkpoint: a model on disk, as a plain Hugging Face (or PEFT adapter) directory with a manifest of what it is.

After `eef.train`, before `eef.models.loading.load_model` and any server. The manifest is written last, so that a directory
which has one is whole.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eef.errors import DataError
from eef.models.loading import load_model, merge_adapters, quietly, writing_weights
from eef.models.settings import DType
from eef.renderer import Renderer
from eef.utils.jsonl import read_json, write_json, write_text

MANIFEST_FILE = "manifest.json"
_WEIGHTS = "*.safetensors"


def save_checkpoint(
    model: Any,
    tokenizer: Any,
    directory: Path,
    *,
    base: str,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write model, tokenizer, chat template and generation settings; what stood in `directory` before is replaced.

    `base` names the model it was trained from. `about` (recipe, method, round …, JSON-ready) goes into the manifest,
    beside the sha256 of each weights file. A model with adapters is written as its adapters. StoreError: disk full.
    """
    with writing_weights(directory):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        # a server must end a turn where the policy does, also when it does not read the chat template
        model.generation_config.eos_token_id = sorted(Renderer(tokenizer).stop_ids)
        with quietly():
            model.save_pretrained(directory)
        tokenizer.save_pretrained(directory)
        model.generation_config.save_pretrained(directory)
        weights = {path.name: _sha256(path) for path in sorted(directory.glob(_WEIGHTS))}
    write_json(directory / MANIFEST_FILE, {**(about or {}), "base": base, "sha256": weights})


def merge_checkpoint(directory: Path, out: Path, *, dtype: DType = "float32") -> None:
    """Write the full model of a checkpoint of adapters, with manifest and card. ModelError: it has no adapters."""
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
    card = directory / "README.md"
    if card.is_file():
        text = card.read_text(encoding="utf-8").replace(
            "library_name: peft", "library_name: transformers", 1
        )
        write_text(out / "README.md", text.replace("- lora\n", "", 1))


def is_complete(directory: Path) -> bool:
    """Whether a checkpoint was written to its end."""
    return (directory / MANIFEST_FILE).is_file()


def read_manifest(directory: Path) -> dict[str, Any]:
    """What a checkpoint is. DataError where the directory holds no complete one."""
    if not is_complete(directory):
        raise DataError(
            f"`{directory}` holds no complete checkpoint", hint="its `manifest.json` is missing"
        )
    manifest: dict[str, Any] = read_json(directory / MANIFEST_FILE)
    return manifest


def verify_checkpoint(directory: Path) -> None:
    """Read all weights and compare their checksums with the manifest. DataError naming the file which differs."""
    for name, expected in read_manifest(directory)["sha256"].items():
        path = directory / name
        if not path.is_file() or _sha256(path) != expected:
            raise DataError(
                f"`{path}` is missing or not as it was written", hint="train this checkpoint again"
            )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
