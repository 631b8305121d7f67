"""Preference training (DPO) on pairs of rendered responses.

The loss of a pair is −log σ(β((c − c₀) − (r − r₀))). c and r are the weighted log-probabilities of
its chosen and rejected response; c₀ and r₀ are those of the frozen reference, which is the model
before the first pair. Only tokens with a weight count; tokens of the environment have none.
Source: Rafailov et al., *Direct Preference Optimization*, arXiv 2305.18290.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import logsigmoid

from eef.errors import MethodError
from eef.renderer import Rendered, RenderedPair
from eef.training.ranks import ALONE, Ranks
from eef.training.settings import TrainSettings
from eef.training.trainer import Parameters, Trainer, TrainResult, training_mode
from eef.utils.progress import OnProgress, ignore_progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def train_pairs(
    model: PreTrainedModel,
    pairs: Sequence[RenderedPair],
    settings: TrainSettings,
    beta: float,
    *,
    directory: Path | None = None,
    ranks: Ranks = ALONE,
    on_progress: OnProgress = ignore_progress,
) -> TrainResult:
    """Train a model in place on pairs; `settings.batch_size` counts pairs.

    The reference's pass over all pairs counts as processed tokens. `directory`, `ranks` and errors
    are as in `eef.training.sft.train_examples`.
    """
    usable = [
        pair for pair in pairs if any(pair.chosen.weights[1:]) and any(pair.rejected.weights[1:])
    ]
    if not usable:
        raise MethodError(
            "there is nothing to train on: no pair has trained tokens in both responses"
        )
    with training_mode(model, settings, dropout=False) as parameters:
        trainer = DpoTrainer(model, parameters, usable, settings, directory, beta, ranks)
        return trainer.run(on_progress)


class DpoTrainer(Trainer[RenderedPair]):
    """Trains on pairs; `reference` holds each pair's margin log p(chosen) − log p(rejected)."""

    def __init__(
        self,
        model: PreTrainedModel,
        parameters: Parameters,
        pairs: list[RenderedPair],
        settings: TrainSettings,
        directory: Path | None,
        beta: float,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__(model, parameters, pairs, settings, directory, ranks)
        self.beta = beta
        started = time.monotonic()
        self.reference = self._reference_margins()
        self.count_passes(self.reference, started)

    def loss(self, part: Sequence[RenderedPair]) -> torch.Tensor:
        reference = torch.tensor([self.reference[pair] for pair in part], device=self.device)
        return -logsigmoid(self.beta * (self.margins(part) - reference)).sum()

    def margins(self, part: Sequence[RenderedPair]) -> torch.Tensor:
        """log p(chosen) − log p(rejected) of each pair, [pairs]."""
        responses = [response for pair in part for response in self.sequences(pair)]
        losses, weights, rows = self.token_losses(responses)
        scores = torch.zeros(len(responses), device=self.device)
        scores = scores.index_add(0, rows, -losses * weights)
        return scores[0::2] - scores[1::2]

    def weight(self, item: RenderedPair) -> float:
        return 1.0

    def sequences(self, item: RenderedPair) -> tuple[Rendered, ...]:
        return item.chosen, item.rejected

    def hyperparameters(self) -> dict[str, Any]:
        return {"beta": self.beta}

    @torch.no_grad()
    def _reference_margins(self) -> dict[RenderedPair, float]:
        """The margins of the model as it is now, without dropout."""
        self.model.eval()
        margins: dict[RenderedPair, torch.Tensor] = {}
        pairs = list(dict.fromkeys(self.items))
        for part, counts in self.own_parts(pairs):
            found = self.margins(part)
            margins |= zip(part, found.split(1), strict=True) if counts else ()
        self.model.train()
        merged = self.ranks.merge(margins, dict.fromkeys(pairs, 1))
        return {pair: float(margin) for pair, margin in merged.items()}
