"""The update loop: weighted losses, micro-batches, training checkpoints.

The loss of an update is the weighted mean over its whole batch, however the batch is cut into
micro-batches. Training checkpoints are safetensors and JSON. A training that was killed and resumed
ends with the same bits as an uninterrupted one; that exactness, and one loss rule for examples and
pairs, are why this is not a `transformers.Trainer`.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

from eef.errors import ConfigError, ModelError, StoreError
from eef.models.loading import DTYPES, logits_only_at, writing_weights
from eef.renderer import Rendered
from eef.training.batching import Item, padded_tensors, shuffled_batches
from eef.training.settings import TrainSettings
from eef.utils.jsonl import disk_errors, read_json, write_json
from eef.utils.progress import OnProgress, Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_STATE_FILE = "state.safetensors"
_MANIFEST_FILE = "manifest.json"  # written last: a checkpoint without it is ignored

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


@contextmanager
def training_mode(model: PreTrainedModel, settings: TrainSettings) -> Iterator[Parameters]:
    """Put a model into training mode; yields the trained parameters by name.

    ConfigError for a dtype that cannot be trained.
    """
    if settings.dtype == "float16":
        raise ConfigError(
            "`train.dtype` is float16, which loses small gradients", hint="use bfloat16 or float32"
        )
    with _cpu(settings.threads), _trainable(model, settings) as parameters, torch.random.fork_rng():
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
    ) -> None:
        self.model, self.parameters, self.items, self.settings = model, parameters, items, settings
        self.directory = directory
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

    def micro_batches(self, batch: Sequence[Item]) -> list[list[Item]]:
        """The batch in parts that fit into memory."""
        raise NotImplementedError

    def sequences(self, item: Item) -> tuple[Rendered, ...]:
        """The token sequences of an item that go through the model."""
        raise NotImplementedError

    def hyperparameters(self) -> dict[str, Any]:
        """Whatever determines the result besides items and settings, as JSON values."""
        return {}

    def learning_rate(self, update: int) -> float:
        """The learning rate of an update, counted from 0."""
        return learning_rate(update, self.updates, self.settings)

    # shared

    def run(self, on_progress: OnProgress) -> TrainResult:
        """Train, starting from the latest training checkpoint if there is one."""
        self._resume()
        order = shuffled_batches(len(self.items), self.settings.batch_size, self.settings.seed)
        for update, batch in zip(range(self.updates), order, strict=False):
            if update < self.result.updates:
                continue
            started = time.monotonic()
            chosen = [self.items[index] for index in batch]
            rate = self.learning_rate(update)
            self._count(chosen, self._update(update, chosen, rate), started)
            self._save()
            done, loss = self.result.updates, self.result.losses[-1]
            on_progress(Progress("training", done, self.updates, f"loss {loss:.3f}"))
        return self.result

    def _update(self, update: int, batch: list[Item], rate: float) -> float:
        """One optimizer update; returns its loss."""
        # per update, so that a resumed training draws the same dropout
        torch.manual_seed(1_000_003 * self.settings.seed + update)
        losses = self.backward(update, batch)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.max_grad_norm)
        loss = float(torch.stack(losses).sum())
        if not math.isfinite(loss) or not math.isfinite(float(norm)):
            raise ModelError(
                f"training diverged at update {update + 1}: loss {loss}, "
                f"gradient norm {float(norm)}",
                hint=f"lower `train.learning_rate` (it was {rate:.2g}), or use float32",
            )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def backward(self, update: int, batch: Sequence[Item]) -> list[torch.Tensor]:
        """Accumulate the gradients of an update; returns each micro-batch's share of its loss."""
        total = sum(self.weight(item) for item in batch)
        losses = []
        for part in self.micro_batches(batch):
            loss = self.loss(part) / total
            loss.backward()
            losses.append(loss.detach())
        return losses

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
        sequences = [each for item in batch for each in self.sequences(item)]
        self.result = replace(
            before,
            updates=before.updates + 1,
            seconds=before.seconds + time.monotonic() - started,
            trained_tokens=before.trained_tokens + sum(each.trained for each in sequences),
            processed_tokens=before.processed_tokens + sum(len(each.ids) for each in sequences),
        )

    def save(self, directory: Path) -> None:
        """Write weights and optimizer moments for the next round, replacing `directory`."""
        shutil.rmtree(directory, ignore_errors=True)
        with disk_errors(directory):
            directory.mkdir(parents=True)
        with writing_weights(directory / _STATE_FILE):
            save_file(_state(self.parameters, self.optimizer), directory / _STATE_FILE)

    def restore(self, directory: Path) -> None:
        """Continue with the moments that `save` wrote, and with its weights in float32.

        A weight is restored if the present one is the same rounded, so nothing that was trained
        since is undone. StoreError if the file is missing or damaged.
        """
        try:
            state = load_file(directory / _STATE_FILE, device=str(self.device))
            kept = {
                key: value
                for key, value in state.items()
                if not key.startswith("weight/")
                or _is_rounded(self.parameters[key.removeprefix("weight/")], value)
            }
            _restore(self.parameters, self.optimizer, kept)
        except (OSError, SafetensorError, KeyError) as error:
            raise StoreError(
                f"cannot read the optimizer state `{directory}`: {error}",
                hint="remove this round's directory and those after it to train them again",
            ) from error

    def _save(self) -> None:
        every, done = self.settings.save_every, self.result.updates
        if self.directory is None or every is None or done % every != 0:
            return
        checkpoint = self.directory / f"update-{done:08d}"
        shutil.rmtree(checkpoint, ignore_errors=True)
        with disk_errors(checkpoint):
            checkpoint.mkdir(parents=True)
        with writing_weights(checkpoint / _STATE_FILE):
            save_file(_state(self.parameters, self.optimizer), checkpoint / _STATE_FILE)
        manifest = {"fingerprint": self._fingerprint(), **asdict(self.result)}
        write_json(checkpoint / _MANIFEST_FILE, manifest)
        for older in self.directory.glob("update-*"):
            if older != checkpoint:
                shutil.rmtree(older)

    def _resume(self) -> None:
        """Load the latest complete training checkpoint, if there is one."""
        pattern = f"update-*/{_MANIFEST_FILE}"
        manifests = sorted(self.directory.glob(pattern)) if self.directory else []
        if not manifests:
            return
        manifest, checkpoint = read_json(manifests[-1]), manifests[-1].parent
        if manifest.pop("fingerprint") != self._fingerprint():
            raise StoreError(
                f"`{checkpoint}` belongs to a training with other examples or settings",
                hint="remove that directory to train from the start",
            )
        state = load_file(checkpoint / _STATE_FILE, device=str(self.device))
        _restore(self.parameters, self.optimizer, state)
        self.result = TrainResult(**manifest)

    def _fingerprint(self) -> str:
        """Digest of whatever determines the result: items and settings, except those of speed."""
        settings = self.settings.model_dump(exclude={"threads", "save_every"})
        settings |= self.hyperparameters()
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for each in (sequence for item in self.items for sequence in self.sequences(item)):
            digest.update(
                np.array(each.ids, np.int64).tobytes()
                + np.array(each.weights, np.float64).tobytes()
            )
        return digest.hexdigest()


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


def _set_checkpointing(model: PreTrainedModel, action: str, *options: Any) -> None:
    """Call `activation_checkpointing_<action>`, or the method's name in older transformers."""
    name = f"activation_checkpointing_{action}"
    old_name = f"gradient_checkpointing_{action}"
    getattr(model, name if hasattr(model, name) else old_name)(*options)


def _cast(parameters: Parameters, dtypes: dict[str, torch.dtype]) -> None:
    for name, value in parameters.items():
        value.data = value.data.to(dtypes[name])


def _state(parameters: Parameters, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Weights and optimizer state as flat names: `weight/<parameter>`, `exp_avg/<parameter>`, …"""
    state = {f"weight/{name}": value.detach().contiguous() for name, value in parameters.items()}
    for name, value in parameters.items():
        state |= {
            f"{kind}/{name}": tensor.contiguous() for kind, tensor in optimizer.state[value].items()
        }
    return state


def _restore(
    parameters: Parameters, optimizer: torch.optim.Optimizer, state: dict[str, torch.Tensor]
) -> None:
    for key, tensor in state.items():
        kind, name = key.split("/", 1)
        if kind == "weight":
            parameters[name].data.copy_(tensor)
        else:
            optimizer.state[parameters[name]][kind] = tensor


def _is_rounded(value: torch.Tensor, exact: torch.Tensor) -> bool:
    """Whether a tensor is another one, rounded to some number format."""
    return any(torch.equal(exact.to(dtype).float(), value) for dtype in DTYPES.values())


@contextmanager
def _cpu(threads: int | None) -> Iterator[None]:
    """Set the number of threads, and the faster of torch's two libraries for float32 products.

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
