"""Settings of supervised fine-tuning and of DPO."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from eef.config import (
    Settings,
)
from eef.models.settings import DType


class TrainSettings(Settings):
    """Supervised fine-tuning of one round."""

    updates: int | None = Field(default=None, ge=1)
    """Optimizer updates of a round (instead of `epochs`)."""

    epochs: float | None = Field(default=None, gt=0)
    """Passes over the examples of a round; 3 where `updates` is not set either."""

    batch_size: int = Field(default=16, ge=1)
    """Examples an update."""

    max_tokens_per_microbatch: int = Field(default=8192, ge=1)
    """Tokens of a forward pass at most, padding included: memory alone, the result does not depend on it."""

    learning_rate: float = Field(default=2e-5, gt=0)
    """Highest learning rate."""

    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Part of the updates over which the learning rate rises."""

    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Learning rate after the warm-up."""

    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of AdamW."""

    max_grad_norm: float = Field(default=1.0, gt=0)
    """Longer gradients are scaled down to this norm."""

    dtype: DType = "float32"
    """Number format of the forward and backward pass."""

    seed: int = 0
    """Seed of the order of examples and of dropout; the recipe's `seed` when left out."""

    save_every: int | None = Field(default=None, ge=1)
    """Updates between two points to resume from; none when left out."""

    threads: int | None = Field(default=None, ge=1)
    """CPU threads of each process; when left out all cores, shared by the methods worked on side by side (`jobs`)."""

    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, more time."""

    init_from: Literal["base", "last"] = "base"
    """Each round trains the base model on all that is selected, or goes on from the last checkpoint."""

    @model_validator(mode="before")
    @classmethod
    def _updates_or_epochs(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        updates, epochs = data.get("updates"), data.get("epochs")
        if updates is not None and epochs is not None:
            raise ValueError("`updates` and `epochs` both say how long to train; leave one out")
        return {**data, "epochs": 3.0} if updates is None and epochs is None else data


class DpoSettings(Settings):
    """Training on preference pairs (DPO), for methods that have such; `train` says the rest."""

    beta: float = Field(default=0.1, gt=0)
    """How closely the student is held to the frozen reference, itself as it was before the first pair."""

    learning_rate: float = Field(default=1e-6, gt=0)
    """Highest learning rate; pairs take a much lower one than examples."""

    share: float = Field(default=0.5, gt=0, lt=1)
    """Part of a round's `train.updates` that goes to pairs where a method has examples too (they come first)."""
