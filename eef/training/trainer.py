"""The update loop: weighted losses, micro-batches, training checkpoints.

The loss of an update is the weighted mean over its whole batch, however the batch is cut into
micro-batches. Training checkpoints are safetensors and JSON. A training that was killed and resumed
ends with the same bits as an uninterrupted one. This exactness, and one loss rule for examples and
pairs, are the reasons not to use `transformers.Trainer`. Several ranks (`eef.training.ranks`)
execute the same loop, each with its share of every batch.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from eef.errors import ConfigError, ModelError, StoreError
from eef.models.loading import DTYPES, logits_only_at
from eef.renderer import Rendered
from eef.training.batching import Item, micro_batches, padded_tensors, shuffled_batches
from eef.training.ranks import ALONE, Ranks, deal, is_sharded
from eef.training.settings import TrainSettings
from eef.training.state import State, read_state, write_state
from eef.utils.jsonl import read_json, write_json
from eef.utils.progress import OnProgress, Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MANIFEST_FILE = "manifest.json"  # written last: a checkpoint without it is ignored
_SPEED = {
    "gradient_checkpointing",
    "launcher",
    "max_tokens_per_microbatch",
    "ranks",
    "save_every",
    "threads",
}
"""Settings that a training may be resumed with: they affect at most the last bits."""

Parameters = dict[str, torch.nn.Parameter]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """Counts and losses of a training.

    `trained_tokens` carried weight; `processed_tokens` went through the model, padding excluded.
    `losses` has one entry per update.
    """

    updates: int
    trained_tokens: int = 0
    processed_tokens: int = 0
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def __add__(self, other: TrainResult) -> TrainResult:
        sums = {
            each.name: getattr(self, each.name) + getattr(other, each.name) for each in fields(self)
        }
        return TrainResult(**sums)


@contextmanager
def training_mode(
    model: PreTrainedModel, settings: TrainSettings, *, dropout: bool = True
) -> Iterator[Parameters]:
    """Put a model into training mode; yields the trained parameters by name.

    Without `dropout`, a loss can compare its probabilities with those that were computed before.
    ConfigError for a dtype that cannot be trained.
    """
    if settings.dtype == "float16":
        raise ConfigError(
            "`train.dtype` is float16, which loses small gradients", hint="use bfloat16 or float32"
        )
    with (
        _cpu(settings.threads),
        nullcontext() if dropout else _without_dropout(model),
        _trainable(model, settings) as parameters,
    ):
        device = next(iter(parameters.values())).device
        # of this device alone: by default it would open every GPU
        with torch.random.fork_rng([device.index] if device.type == "cuda" else []):
            yield parameters


def count_updates(examples: int, settings: TrainSettings) -> int:
    """The number of updates: `updates` if set, otherwise `epochs` over the examples, at least 1."""
    if settings.updates is not None:
        return settings.updates
    return max(1, round((settings.epochs or 1.0) * examples / settings.batch_size))


def learning_rate(update: int, updates: int, settings: TrainSettings) -> float:
    """Learning rate of an update (counted from 0): a linear warm-up, then the schedule, down to 0.

    >>> settings = TrainSettings(updates=10, learning_rate=1.0, warmup_ratio=0.2, schedule="linear")
    >>> [round(learning_rate(update, 10, settings), 2) for update in range(10)]
    [0.5, 1.0, 1.0, 0.88, 0.75, 0.62, 0.5, 0.38, 0.25, 0.12]
    """
    warm = round(settings.warmup_ratio * updates)
    if update < warm:
        return settings.learning_rate * (update + 1) / warm
    done = (update - warm) / max(1, updates - warm)
    shape = {
        "constant": 1.0,
        "linear": 1.0 - done,
        "cosine": (1.0 + math.cos(math.pi * done)) / 2.0,
    }
    return settings.learning_rate * shape[settings.schedule]


class Trainer(Generic[Item]):
    """One training. A subclass defines the loss and the weight of an item (an example or a pair).

    The loss of an update is the sum of its items' losses, divided by the sum of their weights.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        parameters: Parameters,
        items: list[Item],
        settings: TrainSettings,
        directory: Path | None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.model, self.parameters, self.items, self.settings = model, parameters, items, settings
        self.directory, self.ranks = directory, ranks
        self.sharded = ranks.count > 1 and is_sharded(model)
        self.device = next(iter(parameters.values())).device
        self.optimizer = torch.optim.AdamW(
            parameters.values(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.result = TrainResult(updates=0)
        self.updates = count_updates(len(items), settings)

    # defined by subclasses

    def loss(self, part: Sequence[Item]) -> torch.Tensor:
        """The weighted sum of the losses of some items."""
        raise NotImplementedError

    def weight(self, item: Item) -> float:
        raise NotImplementedError

    def sequences(self, item: Item) -> tuple[Rendered, ...]:
        """The token sequences of an item that go through the model, equally many of each item."""
        raise NotImplementedError

    def sequences_of(self, update: int, batch: Sequence[Item]) -> list[Rendered]:
        """The token sequences that go through the model in an update, counted from 0."""
        return [each for item in batch for each in self.sequences(item)]

    def hyperparameters(self) -> dict[str, Any]:
        """Everything that determines the result besides items and settings, as JSON values."""
        return {}

    def learning_rate(self, update: int) -> float:
        """The learning rate of an update, counted from 0."""
        return learning_rate(update, self.updates, self.settings)

    def batches(self) -> Iterator[list[int]]:
        """The indices of each update's items; endless."""
        return shuffled_batches(len(self.items), self.settings.batch_size, self.settings.seed)

    # shared

    def run(self, on_progress: OnProgress) -> TrainResult:
        """Train, starting from the latest training checkpoint if there is one."""
        self.ranks.agree(bytes.fromhex(self._fingerprint()), "examples")
        self._resume()
        reported = 0
        for update, batch in zip(range(self.updates), self.batches(), strict=False):
            if update < self.result.updates:
                continue
            started = time.monotonic()
            chosen = [self.items[index] for index in batch]
            rate = self.learning_rate(update)
            self._count(chosen, self._update(update, chosen, rate), started)
            self._save()
            done, losses = self.result.updates, tuple(self.result.losses[reported:])
            note = f"loss {losses[-1]:.3f}"
            on_progress(Progress("training", done, self.updates, note, losses=losses))
            reported = done
        return self.result

    def _update(self, update: int, batch: list[Item], rate: float) -> float:
        """One optimizer update; returns its loss."""
        # per update, so that a resumed training draws the same dropout; on each rank another
        torch.manual_seed(1_000_003 * self.settings.seed + update + (self.ranks.rank << 40))
        shares = [*self.backward(update, batch), torch.zeros((), device=self.device)]
        parameters = list(self.parameters.values())
        if not self.sharded:  # otherwise summed layer by layer
            self.ranks.sum_gradients(parameters)
        total: Any = torch.nn.utils.clip_grad_norm_(parameters, self.settings.max_grad_norm)
        norm = float(total.full_tensor() if self.sharded else total)
        loss = float(self.ranks.sum(torch.stack(shares).sum()))
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise ModelError(
                f"training diverged at update {update + 1}: loss {loss}, gradient norm {norm}",
                hint=f"lower `train.learning_rate` (it was {rate:.2g}), or use float32",
            )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def backward(self, update: int, batch: Sequence[Item]) -> list[torch.Tensor]:
        """Accumulate the gradients of an update; returns this rank's shares of its loss."""
        total = sum(self.weight(item) for item in batch)
        return self.accumulate(batch, lambda part: self.loss(part) / total)

    def accumulate(
        self, items: Sequence[Item], loss: Callable[[list[Item]], torch.Tensor]
    ) -> list[torch.Tensor]:
        """Accumulate the gradients of a sum over items; returns the terms of this rank's share."""
        terms = []
        for part, counts in self.own_parts(items):
            term = loss(part) * counts
            # gradients of a sharded model are averaged over ranks
            (term * self.ranks.count if self.sharded else term).backward()
            terms.append(term.detach())
        return terms

    def own_parts(self, items: Sequence[Item]) -> list[tuple[list[Item], bool]]:
        """This rank's share of some items, in micro-batches, and whether each counts.

        The ranks of a sharded model gather its weights together, so all make the same number of
        passes. A rank without a micro-batch left repeats the shortest item, which does not count.
        """
        shares = [self.micro_batches(share) for share in deal(items, self.ranks.count, self.length)]
        own = [(part, True) for part in shares[self.ranks.rank]]
        missing = max(map(len, shares)) - len(own) if self.sharded else 0
        return own + [([min(items, key=self.length)], False)] * missing

    def micro_batches(self, batch: Sequence[Item]) -> list[list[Item]]:
        """The batch in parts that fit into memory, padding included."""
        if not batch:  # a rank's share may be empty
            return []
        tokens = self.settings.max_tokens_per_microbatch // len(self.sequences(batch[0]))
        return micro_batches(
            batch, tokens, lambda item: max(each.width for each in self.sequences(item))
        )

    def length(self, item: Item) -> int:
        """The tokens of an item that go through the model."""
        return sum(len(each.ids) for each in self.sequences(item))

    def token_losses(
        self, part: Sequence[Rendered], temperature: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(−log p, weight, row in the part) of every token with a weight, [n] each.

        p is the distribution at a sampling temperature. No attention mask is needed: padding is on
        the right, where causal attention never looks.
        """
        ids, positions, targets, weights = (
            tensor.to(self.device) for tensor in padded_tensors(part)
        )
        with self._autocast(), logits_only_at(self.model, positions):
            logits = self.model(input_ids=ids, use_cache=False).logits.float()
        return (
            cross_entropy(
                logits if temperature == 1 else logits / temperature, targets, reduction="none"
            ),
            weights,
            positions // ids.shape[1],
        )

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.settings.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, DTYPES[self.settings.dtype])

    def _count(self, batch: list[Item], loss: float, started: float) -> None:
        before = self.result
        before.losses.append(loss)
        sequences = self.sequences_of(before.updates, batch)
        self.result = replace(
            before,
            updates=before.updates + 1,
            seconds=before.seconds + time.monotonic() - started,
            trained_tokens=before.trained_tokens + sum(each.trained for each in sequences),
            processed_tokens=before.processed_tokens + sum(len(each.ids) for each in sequences),
        )

    def count_passes(self, items: Iterable[Item], started: float) -> None:
        """Count passes over items without gradients, made before the first update."""
        self.result = replace(
            self.result,
            seconds=time.monotonic() - started,
            processed_tokens=sum(map(self.length, items)),
        )

    def save(self, directory: Path) -> None:
        """Write weights and optimizer moments for the next round, replacing `directory`."""
        write_state(directory, self._state(), self.ranks)

    def restore(self, directory: Path) -> None:
        """Continue with the moments that `save` wrote, and with its weights in float32.

        A weight is restored only if the present one equals it after rounding, so later training is
        not undone. StoreError if the file is missing or damaged.
        """
        state = self._blank_state()
        try:
            read_state(directory, state, self.ranks)
        except StoreError as error:
            error.hint = "remove this round's directory and those after it to train them again"
            raise
        same = self.ranks.all(
            [
                _is_rounded(_own(value.detach()), _own(state[f"weight/{name}"]))
                for name, value in self.parameters.items()
            ]
        )
        for name, unchanged in zip(self.parameters, same, strict=True):
            if not unchanged:
                del state[f"weight/{name}"]
        self._load(state)

    def _save(self) -> None:
        every, done = self.settings.save_every, self.result.updates
        if self.directory is None or every is None or done % every != 0:
            return
        checkpoint = self.directory / f"update-{done:08d}"
        write_state(checkpoint, self._state(), self.ranks)
        if self.ranks.first:
            manifest = {"fingerprint": self._fingerprint(), **asdict(self.result)}
            write_json(checkpoint / _MANIFEST_FILE, manifest)
            for older in self.directory.glob("update-*"):
                if older != checkpoint:
                    shutil.rmtree(older)

    def _resume(self) -> None:
        """Load the latest complete training checkpoint, if there is one."""
        pattern = f"update-*/{_MANIFEST_FILE}"
        manifests = sorted(self.directory.glob(pattern)) if self.directory else []
        latest = manifests[-1].parent if manifests else None
        self.ranks.agree(latest.name.encode() if latest else b"", "training checkpoints")
        if latest is None:
            return
        manifest = read_json(latest / _MANIFEST_FILE)
        if manifest.pop("fingerprint") != self._fingerprint():
            raise StoreError(
                f"`{latest}` belongs to a training with other examples or settings",
                hint="remove that directory to train from the start",
            )
        state = self._blank_state()
        try:
            read_state(latest, state, self.ranks)
        except StoreError as error:
            error.hint = "remove that directory to train from the start"
            raise
        self._load(state)
        self.result = TrainResult(**manifest)

    def _state(self) -> State:
        """Weights and optimizer state by flat names: `weight/<parameter>`, `exp_avg/<parameter>` …

        Parts of them if the model is sharded.
        """
        state = {f"weight/{name}": value.detach() for name, value in self.parameters.items()}
        for name, value in self.parameters.items():
            moments = self.optimizer.state[value]
            state |= {f"{kind}/{name}": tensor for kind, tensor in moments.items()}
        return {name: value.contiguous() for name, value in state.items()}

    def _blank_state(self) -> State:
        """Tensors of the shapes and types of `_state`, to be read into."""
        state = {}
        for name, value in self.parameters.items():
            for kind in ("weight", "exp_avg", "exp_avg_sq"):
                state[f"{kind}/{name}"] = torch.zeros_like(value.detach())
            state[f"step/{name}"] = torch.zeros((), device=value.device)
        return state

    def _load(self, state: State) -> None:
        for key, tensor in state.items():
            kind, name = key.split("/", 1)
            if kind == "weight":
                self.parameters[name].data.copy_(tensor)
            else:
                self.optimizer.state[self.parameters[name]][kind] = tensor

    def _fingerprint(self) -> str:
        """Digest of everything that determines the result: items and settings, except those of
        speed and memory."""
        settings = self.settings.model_dump(exclude=_SPEED)
        settings |= self.hyperparameters()
        settings["items"] = digest(each for item in self.items for each in self.sequences(item))
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def digest(sequences: Iterable[Rendered]) -> str:
    """A digest of token ids and weights."""
    found = hashlib.sha256()
    for each in sequences:
        found.update(
            np.array(each.ids, np.int64).tobytes() + np.array(each.weights, np.float64).tobytes()
        )
    return found.hexdigest()


@contextmanager
def _trainable(model: PreTrainedModel, settings: TrainSettings) -> Iterator[Parameters]:
    """The trained parameters by name, in float32 meanwhile: small updates vanish in bfloat16."""
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    dtypes = {name: value.dtype for name, value in parameters.items()}
    _cast(parameters, dict.fromkeys(parameters, torch.float32))
    if settings.gradient_checkpointing:
        _set_checkpointing(model, "enable", {"use_reentrant": False})
    model.train()
    try:
        yield parameters
    finally:
        model.eval()
        if settings.gradient_checkpointing:
            _set_checkpointing(model, "disable")
        model.zero_grad(set_to_none=True)
        _cast(parameters, dtypes)


@contextmanager
def _without_dropout(model: PreTrainedModel) -> Iterator[None]:
    rates = [
        (module, name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if isinstance(value, float) and _is_dropout_rate(module, name)
    ]
    try:
        for module, name, _ in rates:
            setattr(module, name, 0.0)
        yield
    finally:
        for module, name, value in rates:
            setattr(module, name, value)


def _is_dropout_rate(module: torch.nn.Module, name: str) -> bool:
    """Whether an attribute is a rate of dropout; some models apply it without a layer."""
    return "dropout" in name or name.endswith("pdrop") or isinstance(module, torch.nn.Dropout)


def _set_checkpointing(model: PreTrainedModel, action: str, *options: Any) -> None:
    """Call `activation_checkpointing_<action>`, or the method's name in older transformers."""
    name = f"activation_checkpointing_{action}"
    old_name = f"gradient_checkpointing_{action}"
    getattr(model, name if hasattr(model, name) else old_name)(*options)


def _cast(parameters: Parameters, dtypes: dict[str, torch.dtype]) -> None:
    """Change number formats in place. Those of a sharded model remain float32."""
    for name, value in parameters.items():
        if value.dtype != dtypes[name]:
            value.data = value.data.to(dtypes[name])


def _own(value: Any) -> torch.Tensor:
    """This rank's part of a tensor: all of it, unless it is sharded."""
    own: torch.Tensor = value.to_local() if hasattr(value, "to_local") else value
    return own


def _is_rounded(value: torch.Tensor, exact: torch.Tensor) -> bool:
    """Whether a tensor is another one, rounded to some number format."""
    return any(torch.equal(exact.to(dtype).float(), value) for dtype in DTYPES.values())


@contextmanager
def _cpu(threads: int | None) -> Iterator[None]:
    """Set the number of threads, and the faster of torch's two libraries for float32 matmuls.

    torch uses oneDNN only if it may lower the precision of float32. On x86 without AMX, oneDNN has
    no lower precision to offer and multiplies in float32. On AMD processors it takes half as long
    as MKL.
    """
    onednn: Any = torch.backends.mkldnn
    before, precision = torch.get_num_threads(), onednn.matmul.fp32_precision
    cpu = torch.cpu.get_capabilities()
    torch.set_num_threads(threads or before)
    if cpu.get("architecture") == "x86_64" and cpu.get("avx512_f") and not cpu.get("amx_tile"):
        onednn.matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        torch.set_num_threads(before)
        onednn.matmul.fp32_precision = precision
