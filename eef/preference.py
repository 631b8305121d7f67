"""Preference training (DPO): rendered pairs → changed weights of a model; and a round's training as a whole.

Beside `eef.train`, whose trainer it uses. The loss of a pair is −log σ(β((c − c₀) − (r − r₀))): c and r are the
weighted log-probabilities of its chosen and its rejected way, c₀ and r₀ those of the frozen reference, the model itself
as it was before the first pair. Only tokens with a weight enter, so that nothing the environment says does.
Source: Rafailov et al., *Direct Preference Optimization*, arXiv 2305.18290.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from eef.config import DpoSettings, TrainSettings
from eef.errors import MethodError
from eef.tokens import Rendered, RenderedPair
from eef.train import Parameters, Training, TrainProgress, TrainResult, micro_batches, train, training

PAIRS = "pairs"  # where the points to resume from of this part of a training are kept

Heard = Callable[[TrainProgress], None]


def tune(
    model: Any,
    examples: Sequence[Rendered],
    pairs: Sequence[RenderedPair],
    settings: TrainSettings,
    dpo: DpoSettings,
    *,
    directory: Path | None = None,
    progress: Heard | None = None,
) -> TrainResult:
    """Train a model in place on a round's examples, then on its pairs. Raises what `train` raises.

    `settings.updates` are those of both together: `dpo.share` of them goes to the pairs where there are both.
    """
    first, second = _settings_of(bool(examples), bool(pairs), settings, dpo)
    result = TrainResult(updates=0)
    if first is not None:
        after = second.updates if second and second.updates else 0
        result = train(model, examples, first, directory=directory, progress=_behind(result, after, progress))
    if second is not None:
        points = directory / PAIRS if directory else None
        later = train_pairs(model, pairs, second, dpo.beta, directory=points, progress=_behind(result, 0, progress))
        result = _sum(result, later)
    return result


def train_pairs(
    model: Any,
    pairs: Sequence[RenderedPair],
    settings: TrainSettings,
    beta: float,
    *,
    directory: Path | None = None,
    progress: Heard | None = None,
) -> TrainResult:
    """Train a model in place on pairs; `settings.batch_size` counts pairs. For the rest see `eef.train.train`.

    What the reference's pass over all pairs takes counts as processed tokens.
    """
    usable = [pair for pair in pairs if any(pair.chosen.weights[1:]) and any(pair.rejected.weights[1:])]
    if not usable:
        raise MethodError("there is nothing to train on: no pair has trained tokens on both ways")
    with training(model, settings) as parameters:
        return _Preference(model, parameters, usable, settings, directory, beta).run(progress)


class _Preference(Training[RenderedPair]):
    """Pairs, each with the margin log p(chosen) − log p(rejected) of the reference."""

    def __init__(
        self, model: Any, parameters: Parameters, pairs: list[RenderedPair], settings: TrainSettings,
        directory: Path | None, beta: float,
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
        return micro_batches(batch, self.settings.micro_tokens // 2, lambda pair: pair.width)

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


def _settings_of(
    examples: bool, pairs: bool, settings: TrainSettings, dpo: DpoSettings
) -> tuple[TrainSettings | None, TrainSettings | None]:
    """Settings for examples and for pairs; None where there are none (or no update is left)."""
    first, second = settings, settings.model_copy(update={"learning_rate": dpo.learning_rate})
    if not examples or not pairs or settings.updates is None:
        return first if examples else None, second if pairs else None
    for_pairs = min(max(1, round(dpo.share * settings.updates)), settings.updates - 1)
    first = first.model_copy(update={"updates": settings.updates - for_pairs})
    return first, second.model_copy(update={"updates": for_pairs}) if for_pairs else None


def _behind(done: TrainResult, to_come: int, progress: Heard | None) -> Heard | None:
    """A listener to one part of a training that tells of the whole."""
    if progress is None:
        return None

    def heard(part: TrainProgress) -> None:
        progress(replace(
            part, update=done.updates + part.update, updates=done.updates + part.updates + to_come,
            trained_tokens=done.trained_tokens + part.trained_tokens,
            processed_tokens=done.processed_tokens + part.processed_tokens, seconds=done.seconds + part.seconds,
        ))

    return heard


def _sum(first: TrainResult, second: TrainResult) -> TrainResult:
    return TrainResult(
        updates=first.updates + second.updates, trained_tokens=first.trained_tokens + second.trained_tokens,
        processed_tokens=first.processed_tokens + second.processed_tokens,
        losses=[*first.losses, *second.losses], seconds=first.seconds + second.seconds,
    )
