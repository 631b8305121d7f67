"""LocalPolicy: a transformers model in this process, with a key/value cache kept between turns.

A turn computes only what is new: the last observation and the completion. Conversations that start
alike share the computation of their common prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from eef.models.loading import context_length
from eef.models.memory import memory_errors
from eef.policies.attention import GROUPED, use_grouped_attention
from eef.policies.cached_engine import CachedEngine
from eef.policies.decoding import CacheRow, start_row
from eef.policies.generate_engine import GenerateEngine
from eef.policy import Completion, Conversation, Replays, Sampling
from eef.renderer import Renderer
from eef.trajectory import Author

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


class LocalPolicy:
    """A policy that samples from a model loaded by `eef.models.loading.load_model`.

    The last bits of its probabilities depend on the batch they are computed in (`replays` is
    "batch"); equal calls in equal order give equal completions. A call starts a new batch, and
    drops the cache, unless each of its conversations continues one of the previous call; the first
    call after `start_batch` always does.

    `cache_gib` bounds the size of that cache; by default the device does. ModelError, naming the
    setting to change, if the conversations of a call do not fit.
    """

    replays: Replays = "batch"

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        renderer: Renderer,
        *,
        author: Author,
        cache_gib: float | None = None,
    ) -> None:
        self.author = author
        self.tools = renderer.tools
        self._renderer = renderer
        self._context = context_length(model) or 1 << 30
        self._engine: CachedEngine | GenerateEngine
        if has_full_attention(model):
            use_grouped_attention(model)
            self._engine = CachedEngine(model, cache_gib)
        else:
            self._engine = GenerateEngine(model)

    @torch.inference_mode()
    def act(
        self, conversations: Sequence[Conversation], seeds: Sequence[int], sampling: Sampling
    ) -> list[Completion]:
        prompts = [self._renderer.prompt(conversation) for conversation in conversations]
        turns = [
            start_row(prompt, seed, min(sampling.max_tokens, self._context - len(prompt)))
            if len(prompt) < self._context
            else None
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        rows = [row for row in turns if row is not None]
        if rows:
            longest = max(row.prompt + row.limit for row in rows)
            with memory_errors(
                f"{len(rows)} conversations of up to {longest} tokens side by side",
                "lower `rollouts.batch_size` or `sampling.max_tokens`",
            ):
                self._engine.complete(rows, sampling, self._renderer.stop_ids)
        return [
            Completion(text="", finish="overflow", prompt_tokens=len(prompt))
            if row is None
            else self._completion(row, prompt)
            for prompt, row in zip(prompts, turns, strict=True)
        ]

    def start_batch(self) -> None:
        self._engine.start_batch()

    def _completion(self, row: CacheRow, prompt: Sequence[int]) -> Completion:
        assert row.finish is not None
        written = row.generated[:-1] if row.finish == "stop" else row.generated
        text, tokens = self._renderer.read_sampled(written, prompt)
        return Completion(
            text=text,
            finish=row.finish,
            prompt_tokens=row.prompt,
            cached_tokens=row.reused,
            generated_tokens=len(row.generated),
            tokens=tokens,
        )


def has_full_attention(model: PreTrainedModel) -> bool:
    """Whether every layer attends to all earlier tokens and accepts a custom attention mask."""
    layers = DynamicCache(config=model.config).layers
    return (
        bool(layers)
        and all(type(layer) is DynamicLayer for layer in layers)
        and model._supports_attention_backend
        and model.config._attn_implementation in ("sdpa", "eager", GROUPED)
    )
