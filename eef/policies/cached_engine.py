"""CachedEngine: turns completed with a key/value cache that is kept between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers.cache_utils import DynamicCache

from eef.errors import ModelError
from eef.models.loading import logits_only_at
from eef.models.memory import is_out_of_memory
from eef.policies.decoding import CacheRow, append_tokens
from eef.policies.kv_cache import CacheTooSmall, Place, RowCache
from eef.policies.shared_prefixes import common_length, shared_prefixes
from eef.policy import Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PREFILL_TOKENS = 4096  # per forward pass, padding included
_COMPACT_BELOW = 0.8  # share of live rows in a decoding batch


class CachedEngine:
    """Completes turns with a RowCache. The n rows in use have the slots 0 … n - 1, in any order."""

    def __init__(self, model: PreTrainedModel, cache_gib: float | None = None) -> None:
        self._model = model
        self._device = model.get_input_embeddings().weight.device
        layers = len(DynamicCache(config=model.config).layers)
        self._cache_gib, self._token_bytes = cache_gib, _bytes_per_token(model, layers)
        bound = int(cache_gib * 2**30 / self._token_bytes) if cache_gib else None
        self._cache = RowCache(layers, bound)
        self._rows: list[CacheRow] = []  # of the last call

    def start_batch(self) -> None:
        """Let no row continue one of an earlier call."""
        self._rows = []

    def complete(self, rows: list[CacheRow], sampling: Sampling, stops: frozenset[int]) -> None:
        """Generate into `rows`, each until a stop id or its limit.

        If memory does not suffice to let the cache grow, which takes the old and a new one of some
        layer at once, the rows are computed from their start in a new cache.
        """
        grows = bool(self._rows)
        try:
            return self._complete(rows, sampling, stops)
        except CacheTooSmall as error:
            self._rows = []
            raise self._too_small(rows, error.tokens) from error
        except BaseException as error:
            self._forget(rows)
            if not grows or not is_out_of_memory(error):
                raise
        return self._complete(rows, sampling, stops)  # not inside `except`: that keeps the buffers

    def _forget(self, rows: list[CacheRow]) -> None:
        """Release the cache after an exception; its contents are unknown."""
        self._rows = []
        self._cache.clear()
        for row in rows:
            del row.ids[row.prompt :]
            row.finish = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _too_small(self, rows: list[CacheRow], tokens: int) -> ModelError:
        needed = tokens * self._token_bytes / 2**30
        assert self._cache_gib is not None
        fitting = max(1, int(len(rows) * self._cache_gib / needed))
        return ModelError(
            f"the key/value cache of {len(rows)} conversations with {tokens // len(rows)} tokens "
            f"each needs {needed:.2g} GiB; `rollouts.cache_gib` is {self._cache_gib:g}",
            hint=f"set `rollouts.batch_size` to {fitting} or less, or raise `rollouts.cache_gib`",
        )

    def _complete(self, rows: list[CacheRow], sampling: Sampling, stops: frozenset[int]) -> None:
        continued = self._continue(rows)
        capacity = max(row.prompt + row.limit for row in rows) + 1
        if continued:
            lengths = [row.cached for row in sorted(rows, key=lambda row: row.slot)]
            self._cache.reserve(len(rows), capacity, lengths)
        else:
            self._cache.clear()
            self._cache.reserve(len(rows), capacity, [])
            self._start(rows)
        self._rows = rows
        for part in _parts([(row, row.prompt) for row in rows]):
            logits = self._prefill(part)
            append_tokens([row for row, _ in part], logits, sampling, stops)
        self._decode(rows, sampling, stops)

    def _continue(self, rows: list[CacheRow]) -> bool:
        """Give each row the slot of the row it continues; False if a row continues none."""
        free = list(self._rows)
        for row in rows:
            match = _match(row, free)
            if match is None:
                return False
            free = [old for old in free if old is not match]
            row.slot = match.slot
            row.cached = row.reused = min(
                match.cached, row.prompt - 1, common_length(row.ids, match.ids, match.prompt)
            )
        holes = sorted(set(range(len(rows))) - {row.slot for row in rows})
        self._swap(holes, [row for row in rows if row.slot >= len(rows)])
        return True

    def _start(self, rows: list[CacheRow]) -> None:
        """Give the rows new slots, and compute the prefixes that several of them share."""
        for slot, row in enumerate(rows):
            row.slot, row.cached, row.reused = slot, 0, 0
        for wave in shared_prefixes([row.ids for row in rows]):
            for part in _parts([(rows[prefix.row], prefix.end) for prefix in wave]):
                self._prefill(part)
            for prefix in wave:
                self._cache.spread(prefix.row, prefix.others, prefix.start, prefix.end)
                for other in (rows[other] for other in prefix.others):
                    before, other.cached = other.cached, min(prefix.end, other.prompt - 1)
                    other.reused += other.cached - before
        for row in rows:
            row.cached = min(row.cached, row.prompt - 1)

    def _prefill(self, part: list[tuple[CacheRow, int]]) -> torch.Tensor:
        """Compute each (row, end) up to `end`; returns logits [rows, vocabulary] at the last token.

        Rows are padded on the right. All padding is written to the position after the row's end,
        which is overwritten before anything attends to it.
        """
        starts = np.array([row.cached for row, _ in part])
        counts = np.array([end for _, end in part]) - starts
        columns = np.arange(counts.max())
        positions = starts[:, None] + np.minimum(columns, counts[:, None])
        ids = np.zeros(positions.shape, np.int64)
        for line, (row, end) in zip(ids, part, strict=True):
            line[: end - row.cached] = row.ids[row.cached : end]
            row.cached = end
        slots = self._tensor([row.slot for row, _ in part])
        last = self._tensor(np.arange(len(part)) * len(columns) + counts - 1)
        width = int((starts + counts).max()) + 1 if starts.any() else None
        with logits_only_at(self._model, last):
            return self._forward(self._tensor(ids), Place(slots, self._tensor(positions), width))

    def _decode(self, rows: list[CacheRow], sampling: Sampling, stops: frozenset[int]) -> None:
        """Generate token by token; finished rows are moved out of the batch once they are many."""
        batch = sorted(rows, key=lambda row: row.slot)
        while live := sum(row.finish is None for row in batch):
            if live < _COMPACT_BELOW * len(batch):
                finished = [row.slot for row in batch[:live] if row.finish is not None]
                self._swap(finished, [row for row in batch[live:] if row.finish is None], batch)
                batch = sorted(batch, key=lambda row: row.slot)[:live]
            append_tokens(batch, self._step(batch), sampling, stops)

    def _step(self, batch: list[CacheRow]) -> torch.Tensor:
        """Logits at the last token of the rows in slots 0 … n - 1."""
        positions = np.array([[len(row.ids) - 1] for row in batch])
        ids = self._tensor([[row.ids[-1]] for row in batch])
        for row in batch:
            row.cached = len(row.ids)
        width = int(positions.max()) + 1
        return self._forward(ids, Place(slice(0, len(batch)), self._tensor(positions), width))[
            :, -1
        ]

    def _forward(self, ids: torch.Tensor, place: Place) -> torch.Tensor:
        self._cache.write_at(place)
        mask = None
        if place.width is not None:
            seen = (
                torch.arange(place.width, device=self._device) <= place.positions[:, None, :, None]
            )
            mask = torch.zeros(seen.shape, dtype=self._model.dtype, device=self._device)
            mask.masked_fill_(~seen, -torch.inf)
        logits: torch.Tensor = self._model(
            input_ids=ids,
            position_ids=place.positions,
            attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
        ).logits
        return logits

    def _swap(self, slots: list[int], rows: list[CacheRow], batch: Sequence[CacheRow] = ()) -> None:
        """Move `rows` to `slots`, exchanging them with the rows of `batch` found there."""
        evicted = {row.slot: row for row in batch}
        moves = [(slot, row, evicted.get(slot)) for slot, row in zip(slots, rows, strict=True)]
        self._cache.swap(
            [(slot, row.slot) for slot, row, _ in moves],
            [max(row.cached, other.cached if other else 0) for _, row, other in moves],
        )
        for slot, row, other in moves:
            if other:
                other.slot = row.slot
            row.slot = slot

    def _tensor(self, values: Any) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values), device=self._device)


def _bytes_per_token(model: PreTrainedModel, layers: int) -> int:
    """Size of the keys and values of one token."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    return int(layers * 2 * shared * size * torch.finfo(model.dtype).bits // 8)


def _match(row: CacheRow, candidates: list[CacheRow]) -> CacheRow | None:
    """The candidate that shares most tokens with the row; the row must start with its prompt."""
    best = None
    for old in candidates:
        if row.ids[: old.prompt] == old.ids[: old.prompt]:
            if row.ids[: len(old.ids)] == old.ids:  # the row continues it: none can share more
                return old
            if best is None or common_length(row.ids, old.ids, old.prompt) > common_length(
                row.ids, best.ids, best.prompt
            ):
                best = old
    return best


def _parts(jobs: list[tuple[CacheRow, int]]) -> list[list[tuple[CacheRow, int]]]:
    """The jobs (row, end), sorted by new tokens, in parts of `_PREFILL_TOKENS` with padding."""
    parts: list[list[tuple[CacheRow, int]]] = []
    width = 0
    for row, end in sorted(jobs, key=lambda job: job[0].cached - job[1]):
        if not parts or (len(parts[-1]) + 1) * width > _PREFILL_TOKENS:
            parts.append([])
            width = end - row.cached  # sorted from long to short: the first is the widest
        parts[-1].append((row, end))
    return parts
