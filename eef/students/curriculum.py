"""Curriculum, StudentSettings: the training data of base students, and their common settings."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

from pydantic import Field
from transformers import PreTrainedTokenizerFast

from eef.config import Settings
from eef.renderer import Rendered, Renderer
from eef.utils.progress import OnProgress


class StudentSettings(Settings):
    """Size and training of a base student, for any environment."""

    seed: int = 1_000
    """Seed of the episodes, the initial weights and the order of training."""

    width: int = Field(default=128, ge=32, multiple_of=32)
    """Hidden size of the model."""

    layers: int = Field(default=4, ge=1)
    """Number of layers."""

    drills: int = Field(default=40_000, ge=1)
    """Number of drills: short examples of looking up and copying, trained on first."""

    drill_updates: int = Field(default=1800, ge=1)
    """Optimizer updates on the drills."""

    drill_learning_rate: float = Field(default=2e-3, gt=0)
    """Learning rate on the drills."""

    drill_batch_size: int = Field(default=40, ge=1)
    """Drills per update."""

    max_episode_tokens: int = Field(default=900, ge=100)
    """Maximum tokens of an episode; longer episodes are skipped."""

    updates: int = Field(default=900, ge=1)
    """Optimizer updates on the lessons, with drills mixed in."""

    batch_size: int = Field(default=24, ge=1)
    """Lessons per update."""

    learning_rate: float = Field(default=1e-3, gt=0)
    """Peak learning rate on the lessons."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of matrix products; bfloat16 is about 1.5 times as fast on CPUs that support it."""

    threads: int | None = Field(default=None, ge=1)
    """CPU threads; by default PyTorch decides."""


class Curriculum(Protocol):
    """The training examples of a base student. Built from its settings; may play episodes then.

    `drill` returns one short example, and `lessons` yields all long ones. `repeated_drills` is the
    number of drills that are mixed in with the lessons. `about` is added to the student's manifest.
    If the student is trained on tasks that a recipe could also use, `about` lists their ids under
    `training_tasks`, so that such a recipe is refused.
    """

    tokenizer: PreTrainedTokenizerFast
    repeated_drills: int
    about: dict[str, Any]

    def drill(self, renderer: Renderer, rng: random.Random) -> Rendered: ...
    def lessons(
        self, renderer: Renderer, rng: random.Random, on_progress: OnProgress
    ) -> Iterator[Rendered]: ...


def copying(renderer: Renderer, words: Sequence[Sequence[int]], rng: random.Random) -> Rendered:
    """A drill in copying: repeat a row of 8 to 30 random tokens, drawn from lists of ids."""
    user, assistant, end = renderer.tokenizer.convert_tokens_to_ids(
        ["<|user|>", "<|assistant|>", "<|end|>"]
    )
    row = [rng.choice(rng.choice(words)) for _ in range(rng.randint(8, 30))]
    ids = (user, *row, end, assistant, *row, end)
    return Rendered(ids, (0.0,) * (len(row) + 3) + (1.0,) * (len(row) + 1))
