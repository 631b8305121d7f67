"""Preference training (DPO): rendered pairs → changed weights of a model; and a round's training as a whole.

Beside `eef.train`, whose trainer it uses. The loss of a pair is −log σ(β((c − c₀) − (r − r₀))): c and r are the
weighted log-probabilities of its chosen and its rejected way, c₀ and r₀ those of the frozen reference, the model itself
as it was before the first pair. Only tokens with a weight enter, so that nothing the environment says does.
Source: Rafailov et al., *Direct Preference Optimization*, arXiv 2305.18290.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from eef.errors import MethodError
from eef.renderer import Rendered, RenderedPair
from eef.training.batching import micro_batches
from eef.training.settings import TrainSettings
from eef.training.trainer import Parameters, Training, TrainResult, training
from eef.utils.progress import OnProgress, ignore_progress


def train_pairs(
    model: Any,
    pairs: Sequence[RenderedPair],
    settings: TrainSettings,
    beta: float,
    *,
    directory: Path | None = None,
    on_progress: OnProgress = ignore_progress,
) -> TrainResult:
    """Train a model in place on pairs; `settings.batch_size` counts pairs. For the rest see `eef.training.sft.train`.

    What the reference's pass over all pairs takes counts as processed tokens.
    """
    usable = [
        pair for pair in pairs if any(pair.chosen.weights[1:]) and any(pair.rejected.weights[1:])
    ]
    if not usable:
        raise MethodError("there is nothing to train on: no pair has trained tokens on both ways")
    with training(model, settings) as parameters:
        return DpoTraining(model, parameters, usable, settings, directory, beta).run(on_progress)


class DpoTraining(Training[RenderedPair]):
    """Pairs, each with the margin log p(chosen) − log p(rejected) of the reference."""

    def __init__(
        self,
        model: Any,
        parameters: Parameters,
        pairs: list[RenderedPair],
        settings: TrainSettings,
        directory: Path | None,
        beta: float,
    ) -> None:
        super().__init__(model, parameters, pairs, settings, directory)
        self.beta = beta
        self.reference = self._reference_margins()
        tokens = sum(len(way.ids) for pair in pairs for way in self.renderings(pair))
        self.result = replace(self.result, processed_tokens=tokens)

    def loss(self, part: Sequence[RenderedPair]) -> torch.Tensor:
        reference = torch.tensor([self.reference[pair] for pair in part], device=self.device)
        return -logsigmoid(self.beta * (self.margins(part) - reference)).sum()

    def margins(self, part: Sequence[RenderedPair]) -> torch.Tensor:
        """log p(chosen) − log p(rejected) of each pair, [pairs]."""
        ways = [way for pair in part for way in self.renderings(pair)]
        losses, weights, rows = self.token_losses(ways)
        scores = torch.zeros(len(ways), device=self.device).index_add(0, rows, -losses * weights)
        return scores[0::2] - scores[1::2]

    def weight(self, item: RenderedPair) -> float:
        return 1.0

    def parts(self, batch: Sequence[RenderedPair]) -> list[list[RenderedPair]]:
        return micro_batches(
            batch, self.settings.max_tokens_per_microbatch // 2, lambda pair: pair.width
        )

    def renderings(self, item: RenderedPair) -> tuple[Rendered, ...]:
        return item.chosen, item.rejected

    def rules(self) -> dict[str, Any]:
        return {"beta": self.beta}

    @torch.no_grad()
    def _reference_margins(self) -> dict[RenderedPair, float]:
        """The margins of the model as it is now, without dropout."""
        self.model.eval()
        margins: dict[RenderedPair, float] = {}
        for part in self.parts(self.items):
            margins |= zip(part, self.margins(part).tolist(), strict=True)
        self.model.train()
        return margins
