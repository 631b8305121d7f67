"""The training of one round: examples first, then preference pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from eef.renderer import Rendered, RenderedPair
from eef.training.dpo import train_pairs
from eef.training.settings import DpoSettings, TrainSettings
from eef.training.sft import train_examples
from eef.training.trainer import TrainResult
from eef.utils.progress import OnProgress, ignore_progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PAIRS = "pairs"  # subdirectory of the training checkpoints of the second part


def train_round(
    model: PreTrainedModel,
    examples: Sequence[Rendered],
    pairs: Sequence[RenderedPair],
    settings: TrainSettings,
    dpo: DpoSettings,
    *,
    directory: Path | None = None,
    on_progress: OnProgress = ignore_progress,
) -> TrainResult:
    """Train a model in place on a round's examples, then on its pairs.

    `settings.updates` counts both parts; if there are examples and pairs, `dpo.share` of them go to
    the pairs. Errors are those of `train_examples`.
    """
    first, second = _settings_of(bool(examples), bool(pairs), settings, dpo)
    result = TrainResult(updates=0)
    if first is not None:
        after = second.updates if second and second.updates else 0
        result = train_examples(
            model, examples, first, directory=directory, on_progress=_shifted(on_progress, 0, after)
        )
    if second is not None:
        later = train_pairs(
            model,
            pairs,
            second,
            dpo.beta,
            directory=directory / PAIRS if directory else None,
            on_progress=_shifted(on_progress, result.updates, 0),
        )
        result = _sum(result, later)
    return result


def _settings_of(
    examples: bool, pairs: bool, settings: TrainSettings, dpo: DpoSettings
) -> tuple[TrainSettings | None, TrainSettings | None]:
    """Settings for examples and for pairs; None if there are none or no update remains for them."""
    first, second = settings, settings.model_copy(update={"learning_rate": dpo.learning_rate})
    if not examples or not pairs or settings.updates is None:
        return first if examples else None, second if pairs else None
    for_pairs = min(max(1, round(dpo.share * settings.updates)), settings.updates - 1)
    first = first.model_copy(update={"updates": settings.updates - for_pairs})
    return first, second.model_copy(update={"updates": for_pairs}) if for_pairs else None


def _shifted(on_progress: OnProgress, before: int, after: int) -> OnProgress:
    """A callback for one part of a training that reports progress of the whole."""
    return lambda part: on_progress(
        replace(part, done=before + part.done, total=before + part.total + after)
    )


def _sum(first: TrainResult, second: TrainResult) -> TrainResult:
    return TrainResult(
        updates=first.updates + second.updates,
        trained_tokens=first.trained_tokens + second.trained_tokens,
        processed_tokens=first.processed_tokens + second.processed_tokens,
        losses=[*first.losses, *second.losses],
        seconds=first.seconds + second.seconds,
    )
