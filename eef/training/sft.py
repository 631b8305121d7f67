"""Supervised fine-tuning with per-token loss weights: L = −Σ w·log p / Σ w over each batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from eef.errors import MethodError
from eef.renderer import Rendered
from eef.training.batching import micro_batches
from eef.training.ranks import ALONE, Ranks
from eef.training.settings import TrainSettings
from eef.training.trainer import Trainer, TrainResult, training_mode
from eef.utils.progress import OnProgress, ignore_progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def train_examples(
    model: PreTrainedModel,
    rendered: Sequence[Rendered],
    settings: TrainSettings,
    *,
    directory: Path | None = None,
    ranks: Ranks = ALONE,
    on_progress: OnProgress = ignore_progress,
) -> TrainResult:
    """Train a model in place and leave it in evaluation mode.

    With `directory` and `save_every`, training checkpoints are kept there and the latest one is
    resumed. Examples without a trained token are skipped. Several `ranks` call this with the same
    arguments and a model placed by `eef.training.ranks.place_on_ranks`.

    Raises MethodError if no example remains, ConfigError for a dtype that cannot be trained,
    ModelError if the loss is not finite, StoreError if the training checkpoint belongs to other
    examples or settings, DataError if the ranks have different examples.
    """
    examples = [example for example in rendered if any(example.weights[1:])]
    if not examples:
        raise MethodError("there is nothing to train on: no example has a trained token")
    with training_mode(model, settings) as parameters:
        return SftTrainer(model, parameters, examples, settings, directory, ranks).run(on_progress)


class SftTrainer(Trainer[Rendered]):
    """Imitates examples: L = −Σ w·log p / Σ w."""

    def loss(self, part: Sequence[Rendered]) -> torch.Tensor:
        losses, weights, _ = self.token_losses(part)
        return (losses * weights).sum()

    def weight(self, item: Rendered) -> float:
        return sum(item.weights[1:])

    def micro_batches(self, batch: Sequence[Rendered]) -> list[list[Rendered]]:
        return micro_batches(
            batch, self.settings.max_tokens_per_microbatch, lambda item: len(item.ids)
        )

    def sequences(self, item: Rendered) -> tuple[Rendered, ...]:
        return (item,)
