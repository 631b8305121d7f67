"""Course: what a base student of some environment is taught, and what all courses have in common."""

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
    """How a base student is made, whatever it is to play."""

    seed: int = 1_000
    """Seed of what is played, of the weights and of the order of training."""

    width: int = Field(default=128, ge=32, multiple_of=32)
    """Width of the model."""

    layers: int = Field(default=4, ge=1)
    """Layers of the model."""

    drills: int = Field(default=40_000, ge=1)
    """Short lessons in looking up and copying that come first."""

    drill_updates: int = Field(default=1800, ge=1)
    """Optimizer updates on the drills."""

    drill_rate: float = Field(default=2e-3, gt=0)
    """Learning rate of the drills."""

    drill_batch_size: int = Field(default=40, ge=1)
    """Drills an update."""

    longest: int = Field(default=900, ge=100)
    """Tokens of an episode; longer ones are left out."""

    updates: int = Field(default=900, ge=1)
    """Optimizer updates on lessons with drills among them."""

    batch_size: int = Field(default=24, ge=1)
    """Lessons an update."""

    learning_rate: float = Field(default=1e-3, gt=0)
    """Highest learning rate after the drills."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the products; bfloat16 is half again as fast on processors that multiply it."""

    threads: int | None = Field(default=None, ge=1)
    """CPU threads; torch decides when left out."""


class Course(Protocol):
    """Made of its settings; what it needs of the environment it may play when it is made.

    `drill` gives one short lesson; `lessons` all of the long ones; `again` is how many drills come once more among
    these. `about` goes into the manifest of the student: what it has seen, above all.
    """

    tokenizer: PreTrainedTokenizerFast
    again: int
    about: dict[str, Any]

    def drill(self, renderer: Renderer, rng: random.Random) -> Rendered: ...
    def lessons(
        self, renderer: Renderer, rng: random.Random, on_progress: OnProgress
    ) -> Iterator[Rendered]: ...


def copying(renderer: Renderer, words: Sequence[Sequence[int]], rng: random.Random) -> Rendered:
    """A drill: a row of random tokens out of several lists, to be written again."""
    user, assistant, end = renderer.tokenizer.convert_tokens_to_ids(
        ["<|user|>", "<|assistant|>", "<|end|>"]
    )
    row = [rng.choice(rng.choice(words)) for _ in range(rng.randint(8, 30))]
    ids = (user, *row, end, assistant, *row, end)
    return Rendered(ids, (0.0,) * (len(row) + 3) + (1.0,) * (len(row) + 1))
