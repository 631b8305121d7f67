"""RowCache: keys and values of many conversations of different lengths, kept between turns.

A row is a conversation. Each row is written at its own positions, so no row is padded in the
middle. `LocalPolicy` (`eef.policies.local`) announces each forward pass with `write_at`.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

_GRAIN = 64  # capacities are multiples of this
_GROWTH = 1.25  # least factor by which a capacity grows, so that copying costs little in total
_SHRINK_BELOW = 0.75  # share of rows still in use below which the others are released


@dataclass(slots=True)
class Place:
    """Where the next forward pass writes, and what it attends to.

    rows       slice (a view) or index tensor (a copy) of the b rows it works on
    positions  [b, q] position of each new token in its row
    width      attention sees positions 0 … width - 1; None: the new tokens start their rows and see
               only one another
    """

    rows: slice | torch.Tensor
    positions: torch.Tensor
    width: int | None


class _Extent:
    """State that all layers share: the size of the buffers, and the place of the next forward pass.

    Layers hold this object and not their cache. A reference cycle would keep the buffers alive
    until the garbage collector runs, and several gigabytes may be allocated before.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.capacity = 0
        self.place = Place(slice(0, 0), torch.zeros(0, 0, dtype=torch.long), None)
        self.index = torch.zeros(0, 1, dtype=torch.long)  # [b, 1] rows of the place


class RowLayer(CacheLayerMixin):
    """One layer's buffers [rows, heads, capacity, head size]; unwritten positions are finite."""

    is_sliding = False
    keys: torch.Tensor | None
    values: torch.Tensor | None

    def __init__(self, extent: _Extent) -> None:
        super().__init__()
        self._extent = extent

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.keys = self._buffer(key_states)
        self.values = self._buffer(value_states)
        self.is_initialized = True

    def _buffer(self, states: torch.Tensor) -> torch.Tensor:
        extent = self._extent
        return _zeros(states, (extent.rows, states.shape[1], extent.capacity, states.shape[3]))

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new states [b, heads, q, head size]; returns what attention sees."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        place, index = self._extent.place, self._extent.index
        self.keys[index, :, place.positions] = key_states.transpose(1, 2)
        self.values[index, :, place.positions] = value_states.transpose(1, 2)
        if place.width is None:
            return key_states, value_states
        return self.keys[place.rows, :, : place.width], self.values[place.rows, :, : place.width]

    def buffers(self) -> list[torch.Tensor]:
        return [self.keys, self.values] if self.keys is not None and self.values is not None else []

    def clear(self) -> None:
        """Release the buffers."""
        self.keys = self.values = None
        self.is_initialized = False

    def resize(self, lengths: Sequence[int]) -> None:
        """Give the buffers the size of the extent; row r keeps its first `lengths[r]` tokens."""
        if self.keys is not None and self.values is not None:
            self.keys = self._resized(self.keys, lengths)  # one at a time: less memory at once
            self.values = self._resized(self.values, lengths)

    def _resized(self, old: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
        new = self._buffer(old)
        copy_rows(old, new, lengths, at_once=_at_once(old))
        return new

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        """0: masks and positions come from outside, or a pass sees nothing but its own tokens."""
        return 0

    def get_max_length(self) -> int:
        return -1


class CacheTooSmall(Exception):
    """The rows do not fit within the bound of a cache. `tokens` is what they need."""

    def __init__(self, tokens: int) -> None:
        super().__init__(f"{tokens} tokens")
        self.tokens = tokens


class RowCache(Cache):
    """The layers of a model, with room for `rows` × `capacity` tokens, at most `bound` of them."""

    def __init__(self, layers: int, bound: int | None = None) -> None:
        self.bound = bound
        self._extent = _Extent()
        self._row_layers = [RowLayer(self._extent) for _ in range(layers)]
        super().__init__(layers=list(self._row_layers))

    @property
    def rows(self) -> int:
        return self._extent.rows

    @property
    def capacity(self) -> int:
        return self._extent.capacity

    def clear(self) -> None:
        """Forget all rows and release their memory."""
        self._extent.rows = self._extent.capacity = 0
        for layer in self._row_layers:
            layer.clear()

    def reserve(self, rows: int, capacity: int, lengths: Sequence[int]) -> None:
        """Make room for `rows` × `capacity` tokens; row r keeps its first `lengths[r]` tokens.

        Rows beyond `rows` are released once they are many. CacheTooSmall if that exceeds the bound.
        After any exception, one of missing memory above all, the cache is empty.
        """
        extent = self._extent
        if capacity > extent.capacity:
            capacity = self._grown(rows, capacity)
        elif _SHRINK_BELOW * extent.rows < rows <= extent.rows:
            return
        extent.rows, extent.capacity = rows, max(capacity, extent.capacity)
        try:
            for layer in self._row_layers:
                layer.resize(lengths)
        except BaseException:
            self.clear()  # the layers differ in size
            raise

    def _grown(self, rows: int, capacity: int) -> int:
        """The capacity to grow to: with room for further turns, if the bound allows it."""
        least, most = (
            _GRAIN * -(-int(each) // _GRAIN)
            for each in (capacity, max(capacity, _GROWTH * self.capacity))
        )
        if self.bound is None or rows * most <= self.bound:
            return most
        if rows * least > self.bound:
            self.clear()
            raise CacheTooSmall(rows * least)
        return least

    def write_at(self, place: Place) -> None:
        """Announce the next forward pass."""
        rows = place.rows
        if isinstance(rows, slice):
            rows = torch.arange(rows.start, rows.stop, device=place.positions.device)
        self._extent.place, self._extent.index = place, rows[:, None]

    def swap(self, pairs: Sequence[tuple[int, int]], lengths: Sequence[int]) -> None:
        """Exchange the rows of each pair, which hold at most `lengths` tokens. No row is in two."""
        assert len({row for pair in pairs for row in pair}) == 2 * len(pairs)
        buffers = [buffer for layer in self._row_layers for buffer in layer.buffers()]
        swap_rows(buffers, pairs, lengths, at_once=any(map(_at_once, buffers)))

    def spread(self, row: int, others: Sequence[int], start: int, end: int) -> None:
        """Copy the positions start … end - 1 of a row to other rows."""
        for layer in self._row_layers:
            for buffer in layer.buffers():
                buffer[list(others), :, start:end] = buffer[row, :, start:end]


def _at_once(buffer: torch.Tensor) -> bool:
    """Whether rows are moved in one operation.

    On a GPU, each operation is a kernel launch. On a CPU, it would make memory resident that holds
    nothing (see `_zeros`).
    """
    return buffer.device.type != "cpu"


def copy_rows(
    old: torch.Tensor, new: torch.Tensor, lengths: Sequence[int], *, at_once: bool
) -> None:
    """Copy the first `lengths[r]` positions of each row r; `at_once` copies the longest of all."""
    if at_once:
        rows, longest = len(lengths), max(lengths, default=0)
        new[:rows, :, :longest] = old[:rows, :, :longest]
        return
    for row, length in enumerate(lengths):
        new[row, :, :length] = old[row, :, :length]


def swap_rows(
    buffers: Sequence[torch.Tensor],
    pairs: Sequence[tuple[int, int]],
    lengths: Sequence[int],
    *,
    at_once: bool,
) -> None:
    """Exchange, in each buffer, the first `lengths[i]` positions of the rows of `pairs[i]`.

    `at_once` exchanges all pairs in one operation per buffer, to the longest length.
    """
    if not buffers or not pairs:
        return
    if at_once:
        rows = torch.tensor(pairs, device=buffers[0].device)
        to, of, longest = rows.flatten(), rows.flip(1).flatten(), max(lengths)
        for buffer in buffers:
            buffer[to, :, :longest] = buffer[of, :, :longest]
        return
    for buffer in buffers:
        for (one, other), length in zip(pairs, lengths, strict=True):
            buffer[[one, other], :, :length] = buffer[[other, one], :, :length]


def _zeros(like: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Zeros of a tensor's type and device; on a CPU they take no memory until they are written.

    Conversations differ in length, so most of a buffer may never be written. Pages of private
    anonymous memory read as zero and become resident only when written; huge pages would defeat
    that.
    """
    size = prod(shape) * like.element_size()
    if like.device.type != "cpu" or not size:
        return like.new_zeros(shape)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):  # Linux
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(memory, dtype=like.dtype).view(shape)
