"""Supervised fine-tuning with per-token loss weights: L = −Σ w·log p / Σ w over each batch; for
the texts of roles, the mean over texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from eef.errors import MethodError
from eef.renderer import Rendered
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
    texts: bool = False,
    directory: Path | None = None,
    ranks: Ranks = ALONE,
    on_progress: OnProgress = ignore_progress,
) -> TrainResult:
    """Train a model in place and leave it in evaluation mode.

    With `texts`, a batch's loss is the mean over its examples, each the weighted mean over its own
    tokens; see `TextTrainer`.

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
    kind = TextTrainer if texts else SftTrainer
    with training_mode(model, settings) as parameters:
        return kind(model, parameters, examples, settings, directory, ranks).run(on_progress)


class SftTrainer(Trainer[Rendered]):
    """Imitates examples: L = −Σ w·log p / Σ w."""

    def loss(self, part: Sequence[Rendered]) -> torch.Tensor:
        losses, weights, _ = self.token_losses(part)
        return (losses * weights).sum()

    def weight(self, item: Rendered) -> float:
        return sum(item.weights[1:])

    def sequences(self, item: Rendered) -> tuple[Rendered, ...]:
        return (item,)


class TextTrainer(SftTrainer):
    """Imitates texts of one weight each: L = (1/n) Σ_i w_i · mean_j(−log p_ij), over n texts.

    Worked example. Two texts of 1 and 3 tokens with weights 1 and 0.5: each token of the second has
    the factor 0.5/3/2.
    """

    def loss(self, part: Sequence[Rendered]) -> torch.Tensor:
        losses, weights, rows = self.token_losses(part)
        lengths = torch.bincount(rows, minlength=len(part)).to(losses.dtype)
        return (losses * weights / lengths[rows]).sum()

    def weight(self, item: Rendered) -> float:
        return 1.0

    def hyperparameters(self) -> dict[str, Any]:
        return {"mean_over": "texts"}
