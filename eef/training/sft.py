"""Masked, weighted supervised fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from eef.errors import MethodError
from eef.renderer import Rendered
from eef.training.batching import micro_batches
from eef.training.settings import TrainSettings
from eef.training.trainer import (
    Training,
    TrainResult,
    training,
)
from eef.utils.progress import OnProgress, ignore_progress


def train(
    model: Any,
    rendered: Sequence[Rendered],
    settings: TrainSettings,
    *,
    directory: Path | None = None,
    on_progress: OnProgress = ignore_progress,
) -> TrainResult:
    """Train a model in place, and leave it in evaluation mode.

    With `directory` and `save_every` points to resume from are kept there, and one that is there already is resumed.
    Examples without a trained token are left out. Raises MethodError (nothing to train on), ConfigError (a dtype that
    cannot be trained in), ModelError (the loss is no number), StoreError (the point belongs to another training).
    """
    examples = [example for example in rendered if any(example.weights[1:])]
    if not examples:
        raise MethodError("there is nothing to train on: no example has a trained token")
    with training(model, settings) as parameters:
        return SftTraining(model, parameters, examples, settings, directory).run(on_progress)


class SftTraining(Training[Rendered]):
    """Examples to be imitated: L = −Σ w·log p / Σ w."""

    def loss(self, part: Sequence[Rendered]) -> torch.Tensor:
        losses, weights, _ = self.token_losses(part)
        return (losses * weights).sum()

    def weight(self, item: Rendered) -> float:
        return sum(item.weights[1:])

    def parts(self, batch: Sequence[Rendered]) -> list[list[Rendered]]:
        return micro_batches(
            batch, self.settings.max_tokens_per_microbatch, lambda item: len(item.ids)
        )

    def renderings(self, item: Rendered) -> tuple[Rendered, ...]:
        return (item,)
