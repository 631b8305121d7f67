"""Masked, weighted supervised fine-tuning: rendered examples → changed weights of a model.

After `eef.renderer` (ids and weights), before `eef.models.checkpoint`; `eef.preference` trains on pairs in the same way, by
`Training`. An update's loss is taken over all trained tokens of its whole batch, L = −Σ w·log p / Σ w, however the
batch is cut into micro-batches. Points to resume from are safetensors and JSON; a training which was killed and goes on
ends with the same bits as one which was not.
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
from typing import Any, Generic

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy

from eef.errors import ConfigError, ModelError, StoreError
from eef.models.loading import DTYPES, logits_only_at, writing_weights
from eef.renderer import Rendered
from eef.training.batching import Item, batches, tensors
from eef.training.settings import TrainSettings
from eef.utils.jsonl import disk_errors, read_json, write_json
from eef.utils.progress import OnProgress, Progress

STATE_FILE = "state.safetensors"
MANIFEST_FILE = "manifest.json"  # written last: without it a point is not there

Parameters = dict[str, torch.nn.Parameter]


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training did. `trained_tokens` carried weight, `processed_tokens` went through the model (no padding)."""

    updates: int
    trained_tokens: int = 0
    processed_tokens: int = 0
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0


@contextmanager
def training(model: Any, settings: TrainSettings) -> Iterator[Parameters]:
    """Within it a model's parameters (those that are trained) may be changed. ConfigError: untrainable dtype."""
    if settings.dtype == "float16":
        raise ConfigError(
            "`train.dtype` float16 would lose small gradients", hint="take bfloat16 or float32"
        )
    with _cpu(settings.threads), _trainable(model, settings) as parameters, torch.random.fork_rng():
        yield parameters


def count_updates(examples: int, settings: TrainSettings) -> int:
    """Updates that the settings stand for: `updates` itself, or `epochs` over that many examples, at least 1."""
    if settings.updates is not None:
        return settings.updates
    return max(1, round((settings.epochs or 1.0) * examples / settings.batch_size))


def learning_rate(update: int, updates: int, settings: TrainSettings) -> float:
    """Learning rate of an update (from 0): a linear rise over the warm-up, then the schedule, down to 0.

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


class Training(Generic[Item]):
    """One training: what it changes, and how far it is. A subclass says what the loss of an item is.

    An update's loss is that of all its items by the sum of their weights, however the batch is cut into parts.
    """

    def __init__(
        self,
        model: Any,
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

    # what a subclass says

    def loss(self, part: Sequence[Item]) -> torch.Tensor:
        """The weighted sum of the losses of some items."""
        raise NotImplementedError

    def weight(self, item: Item) -> float:
        raise NotImplementedError

    def parts(self, batch: Sequence[Item]) -> list[list[Item]]:
        """The batch in parts that fit into memory."""
        raise NotImplementedError

    def renderings(self, item: Item) -> tuple[Rendered, ...]:
        """What of an item goes through the model."""
        raise NotImplementedError

    def rules(self) -> dict[str, Any]:
        """What decides the result beside items and settings, JSON-ready."""
        return {}

    # what they share

    def run(self, on_progress: OnProgress) -> TrainResult:
        self._resume()
        order = batches(len(self.items), self.settings.batch_size, self.settings.seed)
        for update, batch in zip(range(self.updates), order, strict=False):
            if update < self.result.updates:
                continue
            started = time.monotonic()
            chosen = [self.items[index] for index in batch]
            rate = learning_rate(update, self.updates, self.settings)
            self._count(chosen, self._update(update, chosen, rate), started)
            self._save()
            done, loss = self.result.updates, self.result.losses[-1]
            on_progress(Progress("training", done, self.updates, f"loss {loss:.3f}"))
        return self.result

    def _update(self, update: int, batch: list[Item], rate: float) -> float:
        """One optimizer update; returns its loss."""
        torch.manual_seed(
            1_000_003 * self.settings.seed + update
        )  # for dropout: a resumed training draws the same
        total = sum(self.weight(item) for item in batch)
        losses = [self._backward(part, total) for part in self.parts(batch)]
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.max_grad_norm)
        loss = float(torch.stack(losses).sum())
        if not math.isfinite(loss) or not math.isfinite(float(norm)):
            raise ModelError(
                f"training broke down at update {update + 1}: loss {loss}, gradient norm {float(norm)}",
                hint=f"lower `train.learning_rate` (it was {rate:.2g}), or take `train.dtype` float32",
            )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def _backward(self, part: list[Item], total: float) -> torch.Tensor:
        """Add the gradients of a micro-batch; returns its share of the batch's loss."""
        loss = self.loss(part) / total
        loss.backward()
        return loss.detach()

    def token_losses(
        self, part: Sequence[Rendered]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(−log p, weight, row in the part) of every token with a weight, [n] each.

        Padding stands on the right, where causal attention never looks, so that no mask is needed.
        """
        ids, positions, targets, weights = (tensor.to(self.device) for tensor in tensors(part))
        with self._autocast(), logits_only_at(self.model, positions):
            logits = self.model(input_ids=ids, use_cache=False).logits
        return (
            cross_entropy(logits.float(), targets, reduction="none"),
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
        rendered = [each for item in batch for each in self.renderings(item)]
        self.result = replace(
            before,
            updates=before.updates + 1,
            seconds=before.seconds + time.monotonic() - started,
            trained_tokens=before.trained_tokens + sum(each.trained for each in rendered),
            processed_tokens=before.processed_tokens + sum(len(each.ids) for each in rendered),
        )

    def _save(self) -> None:
        every, done = self.settings.save_every, self.result.updates
        if self.directory is None or every is None or done % every != 0:
            return
        point = self.directory / f"update-{done:08d}"
        shutil.rmtree(point, ignore_errors=True)
        with disk_errors(point):
            point.mkdir(parents=True)
        save_tensors(_state(self.parameters, self.optimizer), point / STATE_FILE)
        write_json(
            point / MANIFEST_FILE, {"fingerprint": self._fingerprint(), **asdict(self.result)}
        )
        for older in self.directory.glob("update-*"):
            if older != point:
                shutil.rmtree(older)

    def _resume(self) -> None:
        """Take up the latest complete point there is."""
        points = sorted(self.directory.glob(f"update-*/{MANIFEST_FILE}")) if self.directory else []
        if not points:
            return
        manifest = read_json(points[-1])
        if manifest.pop("fingerprint") != self._fingerprint():
            raise StoreError(
                f"`{points[-1].parent}` belongs to a training with other examples or settings",
                hint="remove that directory to train from the start",
            )
        state = load_file(points[-1].parent / STATE_FILE, device=str(self.device))
        _restore(self.parameters, self.optimizer, state)
        self.result = TrainResult(**manifest)

    def _fingerprint(self) -> str:
        """Of all that decides the result: the items, and the settings but for those of speed."""
        settings = {**self.settings.model_dump(exclude={"threads", "save_every"}), **self.rules()}
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
        for each in (rendered for item in self.items for rendered in self.renderings(item)):
            digest.update(
                np.array(each.ids, np.int64).tobytes()
                + np.array(each.weights, np.float64).tobytes()
            )
        return digest.hexdigest()


@contextmanager
def _trainable(model: Any, settings: TrainSettings) -> Iterator[Parameters]:
    """The parameters that are trained, by name, kept in float32 while they are: small updates vanish in bfloat16."""
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    dtypes = {name: value.dtype for name, value in parameters.items()}
    _cast(parameters, dict.fromkeys(parameters, torch.float32))
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    try:
        yield parameters
    finally:
        model.eval()
        if settings.gradient_checkpointing:
            model.gradient_checkpointing_disable()
        model.zero_grad(set_to_none=True)
        _cast(parameters, dtypes)


def _cast(parameters: Parameters, dtypes: dict[str, torch.dtype]) -> None:
    for name, value in parameters.items():
        value.data = value.data.to(dtypes[name])


def save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write a safetensors file. StoreError when it cannot be written."""
    with writing_weights(path):
        save_file(tensors, path)


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


@contextmanager
def _cpu(threads: int | None) -> Iterator[None]:
    """Number of threads, and the faster of torch's two libraries for float32 products.

    oneDNN is asked only where it may lower the precision of float32. Without AMX it has no lower one to offer on
    x86, and multiplies in float32; on AMD processors it then takes half the time that MKL takes.
    """
    onednn: Any = torch.backends.mkldnn
    before, precision = torch.get_num_threads(), onednn.matmul.fp32_precision
    can = torch.cpu.get_capabilities()
    torch.set_num_threads(threads or before)
    if can.get("architecture") == "x86_64" and can.get("avx512_f") and not can.get("amx_tile"):
        onednn.matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        torch.set_num_threads(before)
        onednn.matmul.fp32_precision = precision
