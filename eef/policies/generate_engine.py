"""GenerateEngine: turns completed by a model's own `generate`, without a cache between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from eef.policies.decoding import CacheRow, append_token, choose
from eef.policy import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class GenerateEngine:
    """Completes turns with the model's own `generate`, computing each prompt from its start.

    For models whose layers are not all full attention: their caches cannot be cut back row by row.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._device = model.get_input_embeddings().weight.device

    def start_batch(self) -> None:
        """Nothing is kept between calls."""

    def complete(self, rows: list[CacheRow], sampling: Sampling, stops: frozenset[int]) -> None:
        width, length = max(row.prompt for row in rows), max(row.limit for row in rows)
        ids = np.full((len(rows), width), min(stops), np.int64)
        mask = np.zeros_like(ids)
        draws = np.ones((len(rows), length))
        for index, row in enumerate(rows):
            ids[index, width - row.prompt :] = row.ids
            mask[index, width - row.prompt :] = 1
            draws[index, : row.limit] = row.draws
        config = GenerationConfig(
            max_new_tokens=length,
            do_sample=False,
            eos_token_id=sorted(stops),
            pad_token_id=min(stops),
        )
        written = self._model.generate(
            torch.as_tensor(ids, device=self._device),
            attention_mask=torch.as_tensor(mask, device=self._device),
            generation_config=config,
            logits_processor=LogitsProcessorList([_Choice(draws, width, sampling)]),
        )
        for row, tokens in zip(rows, written[:, width:].tolist(), strict=True):
            for token in tokens:
                append_token(row, token, stops)


class _Choice(LogitsProcessor):
    """Leaves greedy decoding only the token that `choose` selects."""

    def __init__(self, draws: np.ndarray, prompt: int, sampling: Sampling) -> None:
        self._draws, self._prompt, self._sampling = draws, prompt, sampling

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        draws = torch.as_tensor(
            self._draws[:, input_ids.shape[1] - self._prompt], device=scores.device
        )
        tokens = choose(scores, draws.float(), self._sampling)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)
