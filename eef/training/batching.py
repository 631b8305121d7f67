"""Batches, micro-batches and padded tensors of rendered examples."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import count, pairwise
from typing import TypeVar

import numpy as np
import torch

from eef.renderer import Rendered

Item = TypeVar("Item")

_GRAIN = 16  # widths are multiples of it: each new shape costs the compilation of a kernel


def shuffled_batches(examples: int, batch_size: int, seed: int) -> Iterator[list[int]]:
    """Endless batches of example indices; each epoch is a new permutation.

    A batch may span two epochs.
    """
    left: list[int] = []
    epoch = 0
    while True:
        while len(left) < batch_size:
            order = list(range(examples))
            random.Random(f"{seed}/{epoch}").shuffle(order)
            left += order
            epoch += 1
        yield left[:batch_size]
        left = left[batch_size:]


def equal_batches(examples: int, batches: int, seed: int) -> Iterator[list[int]]:
    """Endless batches of example indices: each epoch is a permutation in `batches` parts.

    Their sizes differ by at most one.

    >>> [len(batch) for _, batch in zip(range(4), equal_batches(5, 2, seed=0))]
    [3, 2, 3, 2]
    """
    for epoch in count():
        order = list(range(examples))
        random.Random(f"{seed}/{epoch}").shuffle(order)
        ends = [examples * part // batches for part in range(batches, -1, -1)]
        yield from (order[examples - end : examples - begin] for end, begin in pairwise(ends))


def micro_batches(
    batch: Sequence[Item], max_tokens: int, length: Callable[[Item], int]
) -> list[list[Item]]:
    """The batch, sorted by length, in micro-batches of at most `max_tokens` tokens with padding.

    An item longer than that gets a micro-batch of its own.

    >>> micro_batches([9, 2, 3, 10], 32, lambda tokens: tokens)  # rows of 16
    [[10, 9], [3, 2]]
    """
    parts: list[list[Item]] = []
    for item in sorted(batch, key=lambda item: -length(item)):
        # sorted from long to short, so the first item is as wide as its micro-batch; its last token
        # counts although the pass lacks it
        longest = length(parts[-1][0]) if parts else 0
        if parts and (len(parts[-1]) + 1) * max(longest, _width(longest)) <= max_tokens:
            parts[-1].append(item)
        else:
            parts.append([item])
    return parts


def _width(tokens: int) -> int:
    """The width of a pass over an example: without its last token, padded."""
    return _GRAIN * -(-(tokens - 1) // _GRAIN)


def padded_tensors(
    part: Sequence[Rendered],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(ids [rows, width], positions [n], targets [n], weights [n]) for n trained tokens.

    `ids` is padded on the right with 0 to a multiple of 16. It lacks the last token of the longest
    example, which predicts nothing. Position p of the flattened `ids` predicts its target.

    Worked example (ids 5 6 7 with weights 0 1 1, and ids 8 9 with weights 0 1), shown up to the
    second of 16 columns:

        ids  5 6 …    positions  0 1 16    targets  6 7 9    weights  1 1 1
             8 9 …
    """
    longest = max(len(example.ids) for example in part)
    width = 1 + _width(longest)
    ids = np.zeros((len(part), width), np.int64)
    weights = np.zeros((len(part), width), np.float32)
    for row, example in enumerate(part):
        ids[row, : len(example.ids)] = example.ids
        weights[row, : len(example.ids)] = example.weights
    rows, columns = np.nonzero(weights[:, 1:])
    positions, targets = rows * (width - 1) + columns, ids[rows, columns + 1]
    chosen = weights[rows, columns + 1]
    inputs = np.ascontiguousarray(ids[:, :-1])
    return (
        torch.from_numpy(inputs),
        torch.from_numpy(positions),
        torch.from_numpy(targets),
        torch.from_numpy(chosen),
    )
