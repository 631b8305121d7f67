"""Rows of a decoding batch, and how the next token of each is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from eef.policy import Sampling


@dataclass(slots=True, eq=False)
class CacheRow:
    """A conversation in the cache.

    ids      the prompt of `prompt` tokens, followed by the generated tokens
    slot     row of the cache that holds the keys and values of the first `cached` ids
    limit    number of tokens that may be generated
    draws    a uniform number in (0, 1] for each of these
    reused   tokens of `cached` that were computed in an earlier turn or for another row
    """

    ids: list[int]
    prompt: int
    slot: int
    limit: int
    draws: np.ndarray
    cached: int = 0
    reused: int = 0
    finish: Literal["stop", "length"] | None = None

    @property
    def generated(self) -> list[int]:
        return self.ids[self.prompt :]


def start_row(prompt: list[int], seed: int, limit: int) -> CacheRow:
    draws = 1.0 - np.random.Generator(np.random.Philox(key=seed)).random(limit)
    return CacheRow(ids=list(prompt), prompt=len(prompt), slot=-1, limit=limit, draws=draws)


def choose(logits: torch.Tensor, draws: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """The next token of each row: logits [rows, vocabulary], draws [rows] in (0, 1] → ids [rows].

    A row's token is the first at which the cumulative probability reaches its draw, so it depends
    on no other row.

    >>> draws = torch.tensor([0.2, 0.8])
    >>> choose(torch.tensor([[0.0, 0.0, 0.0, 0.0]] * 2), draws, Sampling(temperature=1.0))
    tensor([0, 3])
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    probabilities = (logits.float() / sampling.temperature).softmax(-1)
    if sampling.top_p >= 1:
        return _quantile(probabilities, draws)
    ordered, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
    outside = ordered.cumsum(-1) - ordered >= sampling.top_p
    return tokens.gather(1, _quantile(ordered.masked_fill(outside, 0.0), draws)[:, None])[:, 0]


def _quantile(masses: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    sums = masses.cumsum(-1)
    return torch.searchsorted(sums, (draws * sums[:, -1])[:, None])[:, 0]


def append_tokens(
    rows: list[CacheRow], logits: torch.Tensor, sampling: Sampling, stops: frozenset[int]
) -> None:
    """Append the next token to each row that has not finished."""
    draws = [row.draws[len(row.ids) - row.prompt] if row.finish is None else 1.0 for row in rows]
    tokens = choose(
        logits, torch.tensor(draws, dtype=torch.float32, device=logits.device), sampling
    )
    for row, token in zip(rows, tokens.tolist(), strict=True):
        append_token(row, token, stops)


def append_token(row: CacheRow, token: int, stops: frozenset[int]) -> None:
    if row.finish is not None:
        return
    row.ids.append(token)
    if token in stops:
        row.finish = "stop"
    elif len(row.ids) - row.prompt >= row.limit:
        row.finish = "length"
