"""Policy-gradient training on acts: clipped ratios, an advantage for each step.

The loss of a token with advantage A is

    −min(ρ A, clip(ρ, 1 − ε, 1 + ε_high) A) + β (e^d − d − 1)

with ρ = p / p_old and d = log(p_ref / p). If A < 0, its first part is at most −c A. p is the
probability of the sampled token at the temperature it was sampled with; p_old is that of the
student that acted, before the first update; p_ref is that of a frozen reference. The loss of an
update is the mean over tokens, over turns or over episodes. Without KL and at ρ = 1, its gradient
is that of REINFORCE, −A ∇ log p.

A method may choose another first part (`eef.selection.Ratio`): −sg[clip(ρ, 1 − ε, 1 + ε_high)] A
log p, whose ratio is a constant in the gradient ("constant"), or −A log p at temperature 1
("none").

Sources: Schulman et al., *Proximal Policy Optimization Algorithms*, arXiv 1707.06347 (clipped
ratio); Shao et al., *DeepSeekMath*, arXiv 2402.03300 (group advantages, KL estimate k3); Ye et al.,
*Mastering Complex Control in MOBA Games*, arXiv 1912.09729 (the bound c).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from eef.errors import ConfigError, MethodError
from eef.renderer import Rendered
from eef.selection import Ratio
from eef.training.batching import equal_batches, shuffled_batches
from eef.training.ranks import ALONE, Ranks
from eef.training.settings import PolicyGradientSettings, TrainSettings
from eef.training.trainer import (
    Parameters,
    Trainer,
    TrainResult,
    digest,
    learning_rate,
    training_mode,
)
from eef.utils.progress import OnProgress, ignore_progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The position of a round's training in the run: round `round` of `rounds`."""

    round: int
    rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedState:
    """Files of weights and optimizer moments that rounds pass on.

    `before` is the file of the previous round, None in the first round. `after` is written at the
    end.
    """

    before: Path | None
    after: Path


def train_acts(
    model: PreTrainedModel,
    acts: Sequence[Rendered],
    settings: TrainSettings,
    gradient: PolicyGradientSettings,
    *,
    temperature: float,
    ratio: Ratio = "clipped",
    examples: Sequence[Rendered] = (),
    reference: PreTrainedModel | None = None,
    old: Mapping[Rendered, torch.Tensor] | None = None,
    place: Place | None = None,
    carried: CarriedState | None = None,
    directory: Path | None = None,
    ranks: Ranks = ALONE,
    on_progress: OnProgress = ignore_progress,
) -> TrainResult:
    """Train a model in place on acts, whose weights are advantages.

    Unless `ratio` is "none", the model must be the one that acted at `temperature`, or `old`
    its log-probabilities (`acting_log_probabilities`). `reference` is needed if `gradient.kl`
    is not 0, and `examples` are imitated in every update if `gradient.imitation` is not 0. The
    passes for old and reference probabilities count as processed tokens. `place` spreads the
    learning rate's schedule over rounds; `carried` continues with the moments of the previous
    round. `directory`, `ranks` and other errors are as in `eef.training.sft.train_examples`.

    ConfigError for temperature 0, at which tokens have no probability.
    """
    if temperature == 0 and ratio != "none":
        raise ConfigError(
            "`sampling.temperature` is 0; policy-gradient training needs sampled rollouts",
            hint="set it to 1; for a single method, in `overrides.<method>.sampling`",
        )
    usable = [item for item in acts if any(item.weights[1:])]
    if not usable:
        raise MethodError("there is nothing to train on: no act has an advantage other than 0")
    batches = -(-len(usable) // gradient.batch_size)
    updates = {
        "updates": gradient.epochs * batches,
        "epochs": None,
        "batch_size": -(-len(usable) // batches),
        "learning_rate": gradient.learning_rate,
    }
    with training_mode(model, settings, dropout=False) as parameters:
        trainer = PolicyGradientTrainer(
            model,
            parameters,
            usable,
            settings.model_copy(update=updates),
            directory,
            gradient=gradient,
            temperature=temperature,
            ratio=ratio,
            examples=[item for item in examples if any(item.weights[1:])],
            reference=reference,
            old=old,
            place=place or Place(round=1, rounds=1),
            ranks=ranks,
        )
        if carried and carried.before:
            trainer.restore(carried.before)
        result = trainer.run(on_progress)
        if carried:
            trainer.save(carried.after)
        return result


def acting_log_probabilities(
    model: PreTrainedModel,
    acts: Sequence[Rendered],
    settings: TrainSettings,
    *,
    temperature: float,
    ranks: Ranks = ALONE,
) -> Mapping[Rendered, torch.Tensor]:
    """log p of the tokens of acts under the model that acted, before it is trained on others."""
    usable = [item for item in acts if any(item.weights[1:])]
    with training_mode(model, settings, dropout=False) as parameters:
        trainer = PolicyGradientTrainer(
            model,
            parameters,
            usable,
            settings,
            None,
            gradient=PolicyGradientSettings(),
            temperature=temperature,
            place=Place(round=1, rounds=1),
            ranks=ranks,
        )
        return trainer.old


class PolicyGradientTrainer(Trainer[Rendered]):
    """Trains on acts. `old` and `frozen` hold log p of each item's tokens, [tokens]."""

    def __init__(
        self,
        model: PreTrainedModel,
        parameters: Parameters,
        acts: list[Rendered],
        settings: TrainSettings,
        directory: Path | None,
        *,
        gradient: PolicyGradientSettings,
        temperature: float,
        ratio: Ratio = "clipped",
        examples: Sequence[Rendered] = (),
        reference: PreTrainedModel | None = None,
        old: Mapping[Rendered, torch.Tensor] | None = None,
        place: Place,
        ranks: Ranks = ALONE,
    ) -> None:
        super().__init__(model, parameters, acts, settings, directory, ranks)
        self.gradient, self.ratio, self.place = gradient, ratio, place
        self.temperature = 1.0 if ratio == "none" else temperature
        self.examples = list(examples) if gradient.imitation else []
        self.scales = {item: token_scales(item, gradient.mean_over) for item in acts}
        started = time.monotonic()
        self.old: Mapping[Rendered, torch.Tensor] = {}
        self.frozen: Mapping[Rendered, torch.Tensor] = {}
        if ratio != "none":
            self.old = self._log_probabilities(model) if old is None else old
        if gradient.kl:
            assert reference is not None, "a KL term needs a reference"
            self.frozen = self._log_probabilities(reference)
        self.count_passes([*self.old, *self.frozen], started)

    def loss(self, part: Sequence[Rendered]) -> torch.Tensor:
        negated, advantages, _ = self.token_losses(part, self.temperature)
        log_p, gradient = -negated, self.gradient
        losses = self._surrogate(log_p, advantages, part)
        if gradient.kl:
            distance = self._of(self.frozen, part) - log_p
            losses = losses + gradient.kl * (distance.exp() - distance - 1)
        return (losses * self._of(self.scales, part)).sum()

    def _surrogate(
        self, log_p: torch.Tensor, advantages: torch.Tensor, part: Sequence[Rendered]
    ) -> torch.Tensor:
        """The first part of the loss of each token, [tokens]."""
        if self.ratio == "none":
            return -advantages * log_p
        gradient = self.gradient
        ratio = (log_p - self._of(self.old, part)).exp()
        high = 1 + (gradient.clip if gradient.clip_high is None else gradient.clip_high)
        clipped = ratio.clamp(1 - gradient.clip, high)
        if self.ratio == "constant":
            return -clipped.detach() * advantages * log_p
        losses = -torch.minimum(ratio * advantages, clipped * advantages)
        if gradient.clip_negative is None:
            return losses
        bounded = torch.minimum(losses, -gradient.clip_negative * advantages)
        return torch.where(advantages < 0, bounded, losses)

    def backward(self, update: int, batch: Sequence[Rendered]) -> list[torch.Tensor]:
        losses = super().backward(update, batch)
        examples = self._examples_of(update)
        if not examples:
            return losses
        total = sum(sum(item.weights[1:]) for item in examples)

        def loss(part: Sequence[Rendered]) -> torch.Tensor:
            negated, weights, _ = self.token_losses(part)
            return self.gradient.imitation * (negated * weights).sum() / total

        return losses + self.accumulate(examples, loss)

    def weight(self, item: Rendered) -> float:
        """The number of tokens, of turns, or 1."""
        return float(self.scales[item].sum())

    def sequences(self, item: Rendered) -> tuple[Rendered, ...]:
        return (item,)

    def hyperparameters(self) -> dict[str, Any]:
        return {
            **self.gradient.model_dump(),
            **asdict(self.place),
            "examples": digest(self.examples),
            "ratio": self.ratio,
            "temperature": self.temperature,
        }

    def sequences_of(self, update: int, batch: Sequence[Rendered]) -> list[Rendered]:
        return [*batch, *self._examples_of(update)]

    def batches(self) -> Iterator[list[int]]:
        """Each epoch goes through every act once."""
        batches = -(-len(self.items) // self.settings.batch_size)
        return equal_batches(len(self.items), batches, self.settings.seed)

    def learning_rate(self, update: int) -> float:
        done = (self.place.round - 1) * self.updates + update
        return learning_rate(done, self.place.rounds * self.updates, self.settings)

    def _examples_of(self, update: int) -> list[Rendered]:
        """The examples that are imitated in an update."""
        if not self.examples:
            return []
        size = self.settings.batch_size
        order = shuffled_batches(len(self.examples), size, self.settings.seed)
        return [self.examples[index] for index in next(islice(order, update, None))]

    def _of(
        self, values: Mapping[Rendered, torch.Tensor], part: Sequence[Rendered]
    ) -> torch.Tensor:
        return torch.cat([values[item] for item in part]).to(self.device)

    @torch.no_grad()
    def _log_probabilities(self, model: PreTrainedModel) -> Mapping[Rendered, torch.Tensor]:
        """log p of each item's tokens under a model as it is now, without dropout."""
        training, own = model.training, self.model
        model.eval()
        self.model = model
        found: dict[Rendered, torch.Tensor] = {}
        items = list(dict.fromkeys(self.items))
        for part, counts in self.own_parts(items):
            negated, _, rows = self.token_losses(part, self.temperature)
            if counts:
                found |= {item: -negated[rows == row] for row, item in enumerate(part)}
        self.model = own
        model.train(training)
        return self.ranks.merge(found, {item: len(self.scales[item]) for item in items})


def token_scales(item: Rendered, mean_over: str) -> torch.Tensor:
    """The share of each trained token in the loss of its item, [tokens], before the division.

    Worked example (a turn of one token and a turn of three; 0 is not trained):

        weights   0  1  0  1  1  1    tokens    1  1    1    1    divided by 4 tokens
                                      turns     1  1/3  1/3  1/3  divided by 2 turns
                                      episodes  all 1/4           divided by 1 episode
    """
    lengths = list(_turn_lengths(item))
    if mean_over == "tokens":
        return torch.ones(sum(lengths))
    if mean_over == "turns":
        return torch.cat([torch.full((length,), 1 / length) for length in lengths])
    return torch.full((sum(lengths),), 1 / sum(lengths))


def _turn_lengths(item: Rendered) -> Iterator[int]:
    """The number of trained tokens of each turn that has any.

    Without `turn_ends`, a turn is a run of trained tokens: the environment's tokens separate turns.
    The first token of a sequence has no prediction and is never trained.
    """
    trained = [weight != 0 for weight in item.weights]
    runs = [end for end, (one, other) in enumerate(pairwise(trained), start=1) if one > other]
    for start, end in pairwise((1, *(item.turn_ends or runs), len(trained))):
        if length := sum(trained[start:end]):
            yield length
