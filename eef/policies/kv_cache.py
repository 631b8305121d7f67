"""RowCache: keys and values of many conversations of different lengths, kept from turn to turn in fixed buffers.

What `eef.policies.local` decodes with. A row is a conversation; each row is written at its own positions, so that no
row is padded in its middle, and nothing is copied when one grows. A forward pass is announced by `place`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

_GRAIN = 64  # capacities are multiples of this


@dataclass(slots=True)
class Place:
    """Where the next forward pass writes, and what it sees.

    rows       slice (a view) or index tensor (a copy) of the b rows it works on
    positions  [b, q] position of each new token in its row
    width      positions 0 … width - 1 are seen; None: only the new tokens themselves, which begin their rows
    """

    rows: slice | torch.Tensor
    positions: torch.Tensor
    width: int | None


class RowLayer(CacheLayerMixin):
    """One layer's buffers [rows, heads, capacity, head size]. Never-written positions hold zeros, never NaN."""

    is_sliding = False

    def __init__(self, cache: RowCache) -> None:
        super().__init__()
        self._cache = cache

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.keys = self._buffer(key_states)
        self.values = self._buffer(value_states)
        self.is_initialized = True

    def _buffer(self, states: torch.Tensor) -> torch.Tensor:
        return states.new_zeros(
            self._cache.rows, states.shape[1], self._cache.capacity, states.shape[3]
        )

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new states [b, heads, q, head size]; returns what attention sees of these rows."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        place = self._cache.place
        index = self._cache.index
        self.keys[index, :, place.positions] = key_states.transpose(1, 2)
        self.values[index, :, place.positions] = value_states.transpose(1, 2)
        if place.width is None:
            return key_states, value_states
        return self.keys[place.rows, :, : place.width], self.values[place.rows, :, : place.width]

    def buffers(self) -> list[torch.Tensor]:
        return [self.keys, self.values] if self.keys is not None and self.values is not None else []

    def resize(self) -> None:
        """Take up the cache's rows and capacity, keeping what is there."""
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self._resized(self.keys), self._resized(self.values)

    def _resized(self, old: torch.Tensor) -> torch.Tensor:
        new = old.new_zeros(self._cache.rows, old.shape[1], self._cache.capacity, old.shape[3])
        new[: old.shape[0], :, : old.shape[2]] = old
        return new

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        """0: masks and positions come from outside, or a pass sees nothing but its own tokens."""
        return 0

    def get_max_length(self) -> int:
        return -1


class RowCache(Cache):
    """The layers of a model, with room for `rows` × `capacity` tokens; both only ever grow."""

    def __init__(self, layers: int) -> None:
        self.rows = 0
        self.capacity = 0
        self.place = Place(slice(0, 0), torch.zeros(0, 0, dtype=torch.long), None)
        self.index = torch.zeros(0, 1, dtype=torch.long)
        self._row_layers = [RowLayer(self) for _ in range(layers)]
        super().__init__(layers=list(self._row_layers))

    def reserve(self, rows: int, capacity: int) -> None:
        """Make room. A capacity at least doubles, so that growing costs little in all."""
        if rows <= self.rows and capacity <= self.capacity:
            return
        if capacity > self.capacity:
            self.capacity = _GRAIN * -(-max(capacity, 2 * self.capacity) // _GRAIN)
        self.rows = max(rows, self.rows)
        for layer in self._row_layers:
            layer.resize()

    def write_at(self, place: Place) -> None:
        """Announce the next forward pass."""
        self.place = place
        rows = place.rows
        if isinstance(rows, slice):
            rows = torch.arange(rows.start, rows.stop, device=place.positions.device)
        self.index = rows[:, None]

    def swap(self, one: Sequence[int], other: Sequence[int], width: int) -> None:
        """Exchange the rows `one` with the rows `other` (disjoint), of each the first `width` positions."""
        for layer in self._row_layers:
            for buffer in layer.buffers():
                there, back = list(one) + list(other), list(other) + list(one)
                buffer[there, :, :width] = buffer[back, :, :width]

    def spread(self, row: int, others: Sequence[int], start: int, end: int) -> None:
        """Copy the positions start … end - 1 of a row to other rows."""
        for layer in self._row_layers:
            for buffer in layer.buffers():
                buffer[list(others), :, start:end] = buffer[row, :, start:end]
