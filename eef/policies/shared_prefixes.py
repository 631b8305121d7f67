"""Common prefixes of prompts, so that each is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

_WORTH_SHARING = 64  # tokens saved; for fewer, a separate pass costs more


@dataclass(frozen=True, slots=True)
class SharedPrefix:
    """Tokens start … end - 1 of several prompts, computed for `row` and copied to `others`."""

    row: int
    others: tuple[int, ...]
    start: int
    end: int


def shared_prefixes(
    prompts: Sequence[list[int]], worth: int = _WORTH_SHARING
) -> list[list[SharedPrefix]]:
    """The common prefixes of prompts, in waves: each starts at 0 or where an earlier one ends.

    A prefix gets a separate pass if that saves `worth` tokens.

    >>> first, second = shared_prefixes([[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 6]], worth=1)
    >>> first
    [SharedPrefix(row=0, others=(1, 2), start=0, end=2)]
    >>> second
    [SharedPrefix(row=0, others=(1,), start=2, end=3)]
    """
    order = sorted(range(len(prompts)), key=lambda index: prompts[index])
    common = [common_length(prompts[one], prompts[other], 0) for one, other in pairwise(order)]
    waves: list[list[SharedPrefix]] = []
    groups = [(0, len(order), 0, 0)]
    while groups:
        first, last, start, wave = groups.pop()
        if last - first < 2:
            continue
        end = min(common[first : last - 1])
        if (last - first - 1) * (end - start) >= worth:
            waves += [[] for _ in range(wave + 1 - len(waves))]
            others = tuple(order[first + 1 : last])
            waves[wave].append(SharedPrefix(order[first], others, start, end))
            start, wave = end, wave + 1
        cuts = [
            first,
            *(index + 1 for index in range(first, last - 1) if common[index] == end),
            last,
        ]
        groups += [(one, other, start, wave) for one, other in pairwise(cuts)]
    return waves


def common_length(one: list[int], other: list[int], start: int) -> int:
    """Length of the common prefix of two lists that are known to agree up to `start`."""
    end = min(len(one), len(other))
    return next((index for index in range(start, end) if one[index] != other[index]), end)
