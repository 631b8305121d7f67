"""LocalPolicy: a transformers model in process, with a key/value cache that lives from turn to turn.

Where rollouts get their completions from (`eef.rollouts.runner`) when no server is used. A turn computes only what is new: the
last observation and the completion itself. Conversations which begin alike share the beginning's computation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import DynamicCache, DynamicLayer

from eef.models.loading import context_length, logits_only_at
from eef.policies.kv_cache import Place, RowCache
from eef.policy import Completion, Conversation, Sampling
from eef.renderer import Renderer
from eef.trajectory import Author

_PREFILL_TOKENS = 4096  # of a forward pass, padding included
_WORTH_SHARING = 64  # tokens saved, below which a pass of its own costs more
_COMPACT_BELOW = 0.8  # share of live rows in a decoding batch


@dataclass(slots=True, eq=False)
class Row:
    """A conversation in the cache: row `slot` holds the keys and values of the first `cached` of its `ids`.

    `ids` is the prompt of `prompt` tokens, then what was generated; `limit` is the number of tokens that may be;
    `draws` holds a uniform number in (0, 1] for each of these.
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


class LocalPolicy:
    """Acts by a model that `eef.models.loading.load_model` gave.

    Its completions depend, in the last bits, on the batch they are computed in (`batch_invariant` is False): equal
    calls in equal order give equal completions. A call whose conversations do not all go on from those of the call
    before begins a new batch, and nothing of the old one is kept.
    """

    batch_invariant = False

    def __init__(self, model: Any, tokenizer: Any, renderer: Renderer, *, author: Author) -> None:
        self.author = author
        self._model, self._tokenizer, self._renderer = model, tokenizer, renderer
        self._context = context_length(model) or 1 << 30
        self._engine: _Cached | _Plain = (
            _Cached(model) if has_full_attention(model) else _Plain(model)
        )

    @torch.inference_mode()
    def act(
        self, conversations: Sequence[Conversation], seeds: Sequence[int], sampling: Sampling
    ) -> list[Completion]:
        prompts = [self._renderer.prompt(conversation) for conversation in conversations]
        turns = [
            _turn(prompt, seed, min(sampling.max_tokens, self._context - len(prompt)))
            if len(prompt) < self._context
            else None
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        rows = [row for row in turns if row is not None]
        if rows:
            self._engine.complete(rows, sampling, self._renderer.stop_ids)
        return [
            Completion(text="", finish="overflow", prompt_tokens=len(prompt))
            if row is None
            else self._completion(row)
            for prompt, row in zip(prompts, turns, strict=True)
        ]

    def _completion(self, row: Row) -> Completion:
        assert row.finish is not None
        written = row.generated[:-1] if row.finish == "stop" else row.generated
        return Completion(
            text=self._tokenizer.decode(written, skip_special_tokens=True),
            finish=row.finish,
            prompt_tokens=row.prompt,
            cached_tokens=row.reused,
            generated_tokens=len(row.generated),
        )


def has_full_attention(model: Any) -> bool:
    """Whether every layer attends to all earlier tokens by an attention that takes a mask of our own."""
    layers = DynamicCache(config=model.config).layers
    return (
        bool(layers)
        and all(type(layer) is DynamicLayer for layer in layers)
        and model._supports_attention_backend
        and model.config._attn_implementation in ("sdpa", "eager")
    )


def choose(logits: torch.Tensor, draws: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """The next token of each row: logits [rows, vocabulary], draws [rows] in (0, 1] → ids [rows].

    A row's token is the first one up to which the probabilities sum to its draw, so it depends on no other row.

    >>> choose(torch.tensor([[0.0, 0.0, 0.0, 0.0]] * 2), torch.tensor([0.2, 0.8]), Sampling(temperature=1.0))
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


def _turn(prompt: list[int], seed: int, limit: int) -> Row:
    draws = 1.0 - np.random.Generator(np.random.Philox(key=seed)).random(limit)
    return Row(ids=list(prompt), prompt=len(prompt), slot=-1, limit=limit, draws=draws)


class _Cached:
    """Completes turns with a RowCache. The rows at work stand in its slots 0 … n - 1, in any order."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._device = model.get_input_embeddings().weight.device
        self._cache = RowCache(len(DynamicCache(config=model.config).layers))
        self._rows: list[Row] = []  # of the last call

    def complete(self, rows: list[Row], sampling: Sampling, stops: frozenset[int]) -> None:
        """Generate into `rows`, each up to a stop id or its limit."""
        goes_on = self._continue(rows)
        if not goes_on:
            self._cache.clear()
        self._cache.reserve(len(rows), max(row.prompt + row.limit for row in rows) + 1)
        if not goes_on:
            self._begin(rows)
        self._rows = rows
        for row in rows:
            row.reused = row.cached
        for part in _parts([(row, row.prompt) for row in rows]):
            logits = self._prefill(part)
            _write([row for row, _ in part], logits, sampling, stops)
        self._decode(rows, sampling, stops)

    def _continue(self, rows: list[Row]) -> bool:
        """Give each row the slot of the row of the last call it goes on from; False where one goes on from none."""
        free = list(self._rows)
        for row in rows:
            match = _match(row, free)
            if match is None:
                return False
            free = [old for old in free if old is not match]
            row.slot = match.slot
            row.cached = min(
                match.cached, row.prompt - 1, _common(row.ids, match.ids, match.prompt)
            )
        holes = sorted(set(range(len(rows))) - {row.slot for row in rows})
        self._swap(holes, [row for row in rows if row.slot >= len(rows)])
        return True

    def _begin(self, rows: list[Row]) -> None:
        """Give the rows new slots, and compute once what several of them begin with."""
        for slot, row in enumerate(rows):
            row.slot, row.cached = slot, 0
        for wave in shared_segments([row.ids for row in rows]):
            for part in _parts([(rows[segment.row], segment.end) for segment in wave]):
                self._prefill(part)
            for segment in wave:
                self._cache.spread(segment.row, segment.others, segment.start, segment.end)
                for other in segment.others:
                    rows[other].cached = min(segment.end, rows[other].prompt - 1)
        for row in rows:
            row.cached = min(row.cached, row.prompt - 1)

    def _prefill(self, part: list[tuple[Row, int]]) -> torch.Tensor:
        """Compute each (row, end) up to `end`; returns the logits [rows, vocabulary] behind each row's last token.

        Rows are padded on the right: the padding all falls on the position behind the row's end, which is
        overwritten before anything sees it.
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

    def _decode(self, rows: list[Row], sampling: Sampling, stops: frozenset[int]) -> None:
        """Generate token by token; rows that have ended are moved out of the batch when they are many."""
        batch = sorted(rows, key=lambda row: row.slot)
        while live := sum(row.finish is None for row in batch):
            if live < _COMPACT_BELOW * len(batch):
                ended = [row.slot for row in batch[:live] if row.finish is not None]
                self._swap(ended, [row for row in batch[live:] if row.finish is None], batch)
                batch = sorted(batch, key=lambda row: row.slot)[:live]
            _write(batch, self._step(batch), sampling, stops)

    def _step(self, batch: list[Row]) -> torch.Tensor:
        """Logits behind the last token of the rows in slots 0 … n - 1."""
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

    def _swap(self, slots: list[int], rows: list[Row], batch: Sequence[Row] = ()) -> None:
        """Put `rows` into `slots`, and the rows of `batch` that stand there where these stood."""
        if not slots:
            return
        self._cache.swap(
            slots, [row.slot for row in rows], max(row.cached for row in [*rows, *batch])
        )
        evicted = {row.slot: row for row in batch}
        for slot, row in zip(slots, rows, strict=True):
            if slot in evicted:
                evicted[slot].slot = row.slot
            row.slot = slot

    def _tensor(self, values: Any) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values), device=self._device)


class _Plain:
    """Completes turns by the model's own `generate`, each prompt from its start: for models whose layers are not all
    full attention, where a row cannot be cut back and written on at a position of its own."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._device = model.get_input_embeddings().weight.device

    def complete(self, rows: list[Row], sampling: Sampling, stops: frozenset[int]) -> None:
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
            logits_processor=LogitsProcessorList([_Drawn(draws, width, sampling)]),
        )
        for row, tokens in zip(rows, written[:, width:].tolist(), strict=True):
            for token in tokens:
                _append(row, token, stops)


class _Drawn(LogitsProcessor):
    """Leaves to greedy decoding only the token that `choose` takes."""

    def __init__(self, draws: np.ndarray, prompt: int, sampling: Sampling) -> None:
        self._draws, self._prompt, self._sampling = draws, prompt, sampling

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        draws = torch.as_tensor(
            self._draws[:, input_ids.shape[1] - self._prompt], device=scores.device
        )
        tokens = choose(scores, draws.float(), self._sampling)
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)


def _write(
    rows: list[Row], logits: torch.Tensor, sampling: Sampling, stops: frozenset[int]
) -> None:
    """Append the next token to each row that has not ended."""
    draws = [row.draws[len(row.ids) - row.prompt] if row.finish is None else 1.0 for row in rows]
    tokens = choose(
        logits, torch.tensor(draws, dtype=torch.float32, device=logits.device), sampling
    )
    for row, token in zip(rows, tokens.tolist(), strict=True):
        _append(row, token, stops)


def _append(row: Row, token: int, stops: frozenset[int]) -> None:
    if row.finish is not None:
        return
    row.ids.append(token)
    if token in stops:
        row.finish = "stop"
    elif len(row.ids) - row.prompt >= row.limit:
        row.finish = "length"


def _match(row: Row, candidates: list[Row]) -> Row | None:
    """The candidate whose prompt the row begins with and which it shares most with."""
    best = None
    for old in candidates:
        if row.ids[: old.prompt] == old.ids[: old.prompt]:
            if (
                row.ids[: len(old.ids)] == old.ids
            ):  # it goes on where this one ended: no other can share more
                return old
            if best is None or _common(row.ids, old.ids, old.prompt) > _common(
                row.ids, best.ids, best.prompt
            ):
                best = old
    return best


def _common(one: list[int], other: list[int], start: int) -> int:
    """Length of the common prefix of two lists that are known to agree up to `start`."""
    end = min(len(one), len(other))
    return next((index for index in range(start, end) if one[index] != other[index]), end)


def _parts(jobs: list[tuple[Row, int]]) -> list[list[tuple[Row, int]]]:
    """The jobs (row, end), sorted by their number of new tokens, in parts of at most `_PREFILL_TOKENS` with padding."""
    parts: list[list[tuple[Row, int]]] = []
    width = 0
    for row, end in sorted(jobs, key=lambda job: job[0].cached - job[1]):
        if not parts or (len(parts[-1]) + 1) * width > _PREFILL_TOKENS:
            parts.append([])
            width = end - row.cached  # from long to short: the first of a part is its widest
        parts[-1].append((row, end))
    return parts


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens start … end - 1 which several prompts have in common: computed for `row`, copied to `others`."""

    row: int
    others: tuple[int, ...]
    start: int
    end: int


def shared_segments(
    prompts: Sequence[list[int]], worth: int = _WORTH_SHARING
) -> list[list[Segment]]:
    """What the prompts have in common, in waves: a segment begins where one of an earlier wave ends (or at 0).

    A segment is worth a pass of its own when it saves `worth` tokens.

    >>> shared_segments([[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 6]], worth=1)
    [[Segment(row=0, others=(1, 2), start=0, end=2)], [Segment(row=0, others=(1,), start=2, end=3)]]
    """
    order = sorted(range(len(prompts)), key=lambda index: prompts[index])
    common = [_common(prompts[one], prompts[other], 0) for one, other in pairwise(order)]
    chunks: list[list[Segment]] = []
    groups = [(0, len(order), 0, 0)]
    while groups:
        first, last, start, wave = groups.pop()
        if last - first < 2:
            continue
        end = min(common[first : last - 1])
        if (last - first - 1) * (end - start) >= worth:
            chunks += [[] for _ in range(wave + 1 - len(chunks))]
            chunks[wave].append(Segment(order[first], tuple(order[first + 1 : last]), start, end))
            start, wave = end, wave + 1
        cuts = [
            first,
            *(index + 1 for index in range(first, last - 1) if common[index] == end),
            last,
        ]
        groups += [(one, other, start, wave) for one, other in pairwise(cuts)]
    return chunks
