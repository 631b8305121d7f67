"""Settings of the student model and its LoRA adapters."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from eef.config import Settings

DType = Literal["float32", "bfloat16", "float16"]


class LoraSettings(Settings):
    """Low-rank adapters; the base weights stay frozen."""

    rank: int = Field(default=16, ge=1)
    """Rank of the update of each adapted matrix."""

    alpha: float = Field(default=32.0, gt=0)
    """The update is scaled by alpha / rank."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the input of the adapters."""

    targets: tuple[str, ...] = Field(default=("all-linear",), strict=False, min_length=1)
    """Names of the adapted modules; `["all-linear"]` means every linear layer."""


class ModelSettings(Settings):
    """The student before any training."""

    name: str = "base"
    """`hf/<path or hub id>`, a directory, or a small student shipped with `eef`: `base` (for the
    synthetic shop) or `base-scienceworld`."""

    dtype: DType = "float32"
    """Number format of the weights."""

    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1` …; `auto` uses a GPU if there is one."""

    lora: LoraSettings | None = None
    """Train adapters instead of all weights; all weights by default."""
