"""Settings of supervised fine-tuning, DPO and policy gradients."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from eef.config import Settings
from eef.models.settings import DType


class TrainSettings(Settings):
    """Training of one round."""

    updates: int | None = Field(default=None, ge=1)
    """Optimizer updates per round (instead of `epochs`)."""

    epochs: float | None = Field(default=None, gt=0)
    """Passes over the examples of a round; 3 if `updates` is unset too."""

    batch_size: int = Field(default=16, ge=1)
    """Examples per update."""

    max_tokens_per_microbatch: int = Field(default=8192, ge=1)
    """Maximum tokens per forward pass, padding included. It affects memory, and results only in the
    last bits; it may change during a run."""

    learning_rate: float = Field(default=2e-5, gt=0)
    """Peak learning rate."""

    warmup_ratio: float = Field(default=0.03, ge=0, lt=1)
    """Share of the updates over which the learning rate rises."""

    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the learning rate after the warm-up."""

    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of AdamW."""

    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients with a larger norm are scaled down to this one."""

    dtype: DType = "float32"
    """Number format of the forward and backward pass."""

    seed: int = Field(default=0, json_schema_extra={"default": None})
    """Seed of the order of examples and of dropout; the recipe's `seed` by default."""

    save_every: int | None = Field(default=None, ge=1)
    """Updates between training checkpoints, from which an interrupted training resumes; by default,
    none are written."""

    threads: int | None = Field(default=None, ge=1)
    """CPU threads per process; by default all cores, divided among the methods that run in parallel
    (`jobs`)."""

    ranks: int = Field(default=1, ge=1)
    """Processes that train a student together, each on a GPU of its own, or on CPUs if there is no
    GPU. If all weights are trained, they are sharded over the ranks (FSDP); gradients of adapters
    are summed over the ranks. The number affects results only in the last bits, and may change
    during a run."""

    launcher: tuple[str, ...] = Field(default=(), strict=False)
    """Command that starts the ranks, up to the module that they run, such as `["srun", "torchrun",
    …]`; by default torchrun on this machine. It has no effect if `ranks` is 1."""

    gradient_checkpointing: bool = False
    """Recompute activations instead of keeping them: less memory, more time. It may change during a
    run."""

    keep_checkpoints: Literal["all", "evaluated"] = "all"
    """Keep the checkpoints of `all` rounds, or only those of `evaluated` rounds and of the latest
    one, from which the run continues."""

    init_from: Literal["base", "last"] = "base"
    """The weights each round starts from: the base model, or the previous round's checkpoint."""

    @model_validator(mode="before")
    @classmethod
    def _updates_or_epochs(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        updates, epochs = data.get("updates"), data.get("epochs")
        if updates is not None and epochs is not None:
            raise ValueError("`updates` and `epochs` are both set; remove one")
        return {**data, "epochs": 3.0} if updates is None and epochs is None else data


class DpoSettings(Settings):
    """Training on preference pairs (DPO), for methods that select any; `train` applies as well."""

    beta: float = Field(default=0.1, gt=0)
    """Strength of the pull toward the frozen reference (the student before the first pair)."""

    learning_rate: float = Field(default=1e-6, gt=0)
    """Peak learning rate; pairs need a much lower one than examples."""

    share: float = Field(default=0.5, gt=0, lt=1)
    """Share of a round's `train.updates` spent on pairs if there are examples too. Examples are
    trained first."""


class PolicyGradientSettings(Settings):
    """Training on the advantages of the student's own steps (`grpo`, `gigpo`, …); `train` applies
    as well, except its number of updates and its batch size."""

    learning_rate: float = Field(default=1e-6, gt=0)
    """Peak learning rate. `train.schedule` and `train.warmup_ratio` run over all rounds."""

    epochs: int = Field(default=1, ge=1)
    """Passes over the rollouts of a round. In the first update of a round, the student is still the
    one that acted, so all ratios are 1; in later updates they differ from 1 and are clipped."""

    batch_size: int = Field(default=64, ge=1)
    """Maximum number of rollouts per update; those of a round are divided into equal batches."""

    clip: float = Field(default=0.2, gt=0, lt=1)
    """The ratio of the probabilities of a token, now and when it was sampled, gives no gradient
    above 1 + clip for a positive advantage and below 1 - clip for a negative one."""

    clip_high: float | None = Field(default=None, gt=0)
    """Replaces `clip` in the bound above 1; `clip` by default."""

    clip_negative: float | None = Field(default=3.0, gt=1)
    """The ratio above which a token with a negative advantage gives no gradient; null for none."""

    kl: float = Field(default=0.0, ge=0)
    """Weight of the KL divergence from the student of behavior cloning (estimator k3)."""

    imitation: float = Field(default=0.0, ge=0)
    """Weight of an imitation loss on the examples of the round, added to every update. With 0, the
    examples are trained before the first update."""

    mean_over: Literal["tokens", "turns", "episodes"] = "tokens"
    """The loss of a batch is the mean over its `tokens`, its `turns` (each the mean of its tokens),
    or its `episodes`."""
