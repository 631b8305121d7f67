"""LocalPolicy: a transformers model in this process, with a key/value cache kept between turns.

A turn computes only what is new: the last observation and the completion. Conversations that start
alike share the computation of their common prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import DynamicCache, DynamicLayer

from eef.errors import ModelError
from eef.models.loading import context_length, logits_only_at
from eef.models.memory import is_out_of_memory, memory_errors
from eef.policies.attention import GROUPED, use_grouped_attention
from eef.policies.kv_cache import CacheTooSmall, Place, RowCache
from eef.policy import Completion, Conversation, Replays, Sampling
from eef.renderer import Renderer
from eef.trajectory import Author

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

_PREFILL_TOKENS = 4096  # per forward pass, padding included
_WORTH_SHARING = 64  # tokens saved; for fewer, a separate pass costs more
_COMPACT_BELOW = 0.8  # share of live rows in a decoding batch


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
        self._engine: _CachedEngine | _GenerateEngine
        if has_full_attention(model):
            use_grouped_attention(model)
            self._engine = _CachedEngine(model, cache_gib)
        else:
            self._engine = _GenerateEngine(model)

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
            longest = max(row.prompt + row.limit for row in rows)
            with memory_errors(
                f"{len(rows)} conversations of up to {longest} tokens side by side",
                "lower `rollouts.batch_size` or `sampling.max_tokens`",
            ):
                self._engine.complete(rows, sampling, self._renderer.stop_ids)
        return [
            Completion(text="", finish="overflow", prompt_tokens=len(prompt))
            if row is None
            else self._completion(row)
            for prompt, row in zip(prompts, turns, strict=True)
        ]

    def start_batch(self) -> None:
        self._engine.start_batch()

    def _completion(self, row: CacheRow) -> Completion:
        assert row.finish is not None
        written = row.generated[:-1] if row.finish == "stop" else row.generated
        text, tokens = self._renderer.read_sampled(written)
        return Completion(
            text=text,
            finish=row.finish,
            prompt_tokens=row.prompt,
            cached_tokens=row.reused,
            generated_tokens=len(row.generated),
            tokens=tokens,
        )


def _bytes_per_token(model: PreTrainedModel, layers: int) -> int:
    """Size of the keys and values of one token."""
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    shared = getattr(config, "num_key_value_heads", None) or heads
    return int(layers * 2 * shared * size * torch.finfo(model.dtype).bits // 8)


def has_full_attention(model: PreTrainedModel) -> bool:
    """Whether every layer attends to all earlier tokens and accepts a custom attention mask."""
    layers = DynamicCache(config=model.config).layers
    return (
        bool(layers)
        and all(type(layer) is DynamicLayer for layer in layers)
        and model._supports_attention_backend
        and model.config._attn_implementation in ("sdpa", "eager", GROUPED)
    )


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


def _turn(prompt: list[int], seed: int, limit: int) -> CacheRow:
    draws = 1.0 - np.random.Generator(np.random.Philox(key=seed)).random(limit)
    return CacheRow(ids=list(prompt), prompt=len(prompt), slot=-1, limit=limit, draws=draws)


class _CachedEngine:
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
            _write([row for row, _ in part], logits, sampling, stops)
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
                match.cached, row.prompt - 1, _common(row.ids, match.ids, match.prompt)
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
            _write(batch, self._step(batch), sampling, stops)

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
        for slot, row in zip(slots, rows, strict=True):
            other = evicted.get(slot)
            self._cache.swap(slot, row.slot, max(row.cached, other.cached if other else 0))
            if other:
                other.slot = row.slot
            row.slot = slot

    def _tensor(self, values: Any) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values), device=self._device)


class _GenerateEngine:
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
                _append(row, token, stops)


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


def _write(
    rows: list[CacheRow], logits: torch.Tensor, sampling: Sampling, stops: frozenset[int]
) -> None:
    """Append the next token to each row that has not finished."""
    draws = [row.draws[len(row.ids) - row.prompt] if row.finish is None else 1.0 for row in rows]
    tokens = choose(
        logits, torch.tensor(draws, dtype=torch.float32, device=logits.device), sampling
    )
    for row, token in zip(rows, tokens.tolist(), strict=True):
        _append(row, token, stops)


def _append(row: CacheRow, token: int, stops: frozenset[int]) -> None:
    if row.finish is not None:
        return
    row.ids.append(token)
    if token in stops:
        row.finish = "stop"
    elif len(row.ids) - row.prompt >= row.limit:
        row.finish = "length"


def _match(row: CacheRow, candidates: list[CacheRow]) -> CacheRow | None:
    """The candidate that shares most tokens with the row; the row must start with its prompt."""
    best = None
    for old in candidates:
        if row.ids[: old.prompt] == old.ids[: old.prompt]:
            if row.ids[: len(old.ids)] == old.ids:  # the row continues it: none can share more
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
    common = [_common(prompts[one], prompts[other], 0) for one, other in pairwise(order)]
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
