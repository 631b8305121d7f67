"""The training of one round: examples first, then preference pairs or acts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from eef.renderer import Rendered, RenderedPair
from eef.selection import Ratio
from eef.training.dpo import train_pairs
from eef.training.policy_gradient import (
    CarriedState,
    Place,
    acting_log_probabilities,
    train_acts,
)
from eef.training.ranks import ALONE, Ranks
from eef.training.settings import DpoSettings, PolicyGradientSettings, TrainSettings
from eef.training.sft import train_examples
from eef.training.trainer import TrainResult
from eef.utils.progress import OnProgress, ignore_progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PAIRS, ACTS = "pairs", "acts"  # subdirectories of the training checkpoints of later parts


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundItems:
    """The items that a round trains a model on, as token ids. The weights of acts are advantages.

    A role has `texts` where a student has `examples`.
    """

    examples: Sequence[Rendered] = ()
    texts: Sequence[Rendered] = ()
    pairs: Sequence[RenderedPair] = ()
    acts: Sequence[Rendered] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ActsTraining:
    """How acts are trained on; see `eef.training.policy_gradient.train_acts`."""

    settings: PolicyGradientSettings
    temperature: float
    ratio: Ratio = "clipped"
    reference: PreTrainedModel | None = None
    place: Place | None = None
    carried: CarriedState | None = None


def train_round(
    model: PreTrainedModel,
    items: RoundItems,
    settings: TrainSettings,
    dpo: DpoSettings,
    *,
    acts: ActsTraining | None = None,
    directory: Path | None = None,
    ranks: Ranks = ALONE,
    on_progress: OnProgress = ignore_progress,
) -> TrainResult:
    """Train a model in place on a round's examples, then on its pairs, then on its acts.

    `settings.updates` counts examples and pairs; if there are both, `dpo.share` of them go to the
    pairs. With `policy_gradient.imitation`, the examples are imitated together with the acts
    instead. The ratios of acts compare with the model before all of this, which acted. If there is
    nothing to train on, the model is not updated. Errors are those of
    `train_examples`.
    """
    jointly = acts is not None and acts.settings.imitation > 0
    assert not (items.examples and items.texts), "a model is a student or a role"
    examples = () if jointly else items.examples or items.texts
    first, second = _settings_of(bool(examples), bool(items.pairs), settings, dpo)
    result = TrainResult(updates=0)
    old = None
    if items.acts and acts is not None and acts.ratio != "none" and (first or second):
        old = acting_log_probabilities(
            model, items.acts, settings, temperature=acts.temperature, ranks=ranks
        )
    if first is not None:
        after = second.updates if second and second.updates else 0
        result = train_examples(
            model,
            examples,
            first,
            texts=bool(items.texts),
            directory=directory,
            ranks=ranks,
            on_progress=_shifted(on_progress, 0, after),
        )
    if second is not None:
        result += train_pairs(
            model,
            items.pairs,
            second,
            dpo.beta,
            directory=directory / PAIRS if directory else None,
            ranks=ranks,
            on_progress=_shifted(on_progress, result.updates, 0),
        )
    if items.acts:
        assert acts is not None, "acts need settings"
        result += train_acts(
            model,
            items.acts,
            settings,
            acts.settings,
            temperature=acts.temperature,
            ratio=acts.ratio,
            examples=items.examples if jointly else (),
            reference=acts.reference,
            old=old,
            place=acts.place,
            carried=acts.carried,
            directory=directory / ACTS if directory else None,
            ranks=ranks,
            on_progress=_shifted(on_progress, result.updates, 0),
        )
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
