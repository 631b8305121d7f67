"""Ranks: the processes that train one model together, and what they exchange.

Every rank has all examples of a training and takes its share of each batch. A model whose weights
are all trained is sharded: each rank holds a part of every weight and of its optimizer moments, and
gathers one layer at a time (FSDP). A model with adapters is whole on every rank, and the gradients
of the adapters are summed. With one rank, nothing here calls `torch.distributed`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import distributed

from eef.errors import ConfigError, DataError
from eef.models.loading import DTYPES, gpu_count, has_adapters
from eef.models.settings import DType

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)

_PATIENCE = timedelta(minutes=30)  # ranks on a slow disk may load a model that much later


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's place among `count` ranks; rank 0 writes what is not sharded."""

    rank: int = 0
    count: int = 1
    device: str = "cpu"

    @property
    def first(self) -> bool:
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all ranks, in place."""
        if self.count > 1:
            distributed.all_reduce(values)
        return values

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Replace each gradient by its sum over all ranks; a missing one counts as 0."""
        if self.count == 1:
            return
        gradients = [
            torch.zeros_like(each) if each.grad is None else each.grad for each in parameters
        ]
        flat = self.sum(torch.cat([each.flatten() for each in gradients]))
        parts = flat.split([each.numel() for each in gradients])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter)

    def all(self, verdicts: Sequence[bool]) -> list[bool]:
        """For each verdict, whether it is true on all ranks."""
        if self.count == 1:
            return list(verdicts)
        falses = torch.tensor([not each for each in verdicts], dtype=torch.int32)
        return [not each for each in self.sum(falses.to(self.device)).tolist()]

    def merge(
        self, found: Mapping[Key, torch.Tensor], lengths: Mapping[Key, int]
    ) -> Mapping[Key, torch.Tensor]:
        """The vectors by key that the ranks have computed, each vector on one of them.

        `lengths` has every key, in the same order on all ranks.
        """
        if self.count == 1:
            return found
        vectors = [
            found[key].to(self.device) if key in found else torch.zeros(length, device=self.device)
            for key, length in lengths.items()
        ]
        merged = self.sum(torch.cat(vectors))
        return dict(zip(lengths, merged.split(list(lengths.values())), strict=True))

    def agree(self, digest: bytes, what: str) -> None:
        """Raise DataError on every rank unless all have the same digest, of at most 32 bytes."""
        if self.count == 1:
            return
        own = torch.tensor(list(digest.ljust(32)), dtype=torch.uint8, device=self.device)
        all_of_them = [torch.empty_like(own) for _ in range(self.count)]
        distributed.all_gather(all_of_them, own)
        other = [rank for rank, each in enumerate(all_of_them) if not each.equal(all_of_them[0])]
        if other:
            raise DataError(
                f"the ranks have different {what}: rank {other[0]} of {self.count} differs from "
                "rank 0",
                hint="if the run directory is on a shared disk, another node may have read it too "
                "early: run the same command again",
            )

    def wait(self) -> None:
        """Wait until all ranks are here."""
        if self.count > 1:
            self.sum(torch.zeros(1, device=self.device))


ALONE = Ranks()
"""The one rank of an ordinary training."""


def join_ranks(device: str) -> Ranks:
    """Join the ranks that torchrun or Ray Train has started, as the environment describes them.

    `device` is `auto`, `cuda` or `cpu`. Each rank uses the GPU of its local rank, and NCCL; on CPUs
    they use Gloo. ConfigError if there is no such GPU, or if this process is not one of ranks.
    """
    try:
        local, count = (int(os.environ[name]) for name in ("LOCAL_RANK", "WORLD_SIZE"))
    except (KeyError, ValueError):
        raise ConfigError(
            "this process was not started by torchrun: it has no `LOCAL_RANK` and `WORLD_SIZE`",
            hint="`eef stage train DIR --ranks N` starts N ranks",
        ) from None
    check_rank_devices(int(os.environ.get("LOCAL_WORLD_SIZE", count)), device)
    where = f"cuda:{local}" if device != "cpu" and gpu_count() else "cpu"
    if not distributed.is_initialized():  # Ray Train has done it
        if where != "cpu":
            torch.cuda.set_device(where)
        distributed.init_process_group("gloo" if where == "cpu" else "nccl", timeout=_PATIENCE)
    return Ranks(distributed.get_rank(), distributed.get_world_size(), where)


def check_rank_devices(ranks: int, device: str) -> None:
    """ConfigError if the ranks of one machine cannot have a device each."""
    if device not in ("auto", "cuda", "cpu"):
        raise ConfigError(
            f"`model.device` is {device!r}, and `train.ranks` is {ranks}: each rank needs its own",
            hint="set `model.device` to `auto`",
        )
    count = gpu_count()
    if device == "cuda" and not count:
        raise ConfigError("`model.device` is 'cuda'; no GPU found", hint="set it to `cpu`")
    if device != "cpu" and 0 < count < ranks:
        raise ConfigError(
            f"`train.ranks` is {ranks}; this process can use {count} GPU{'s' * (count > 1)}",
            hint=f"lower it to {count}; with several `jobs`, each has a part of the GPUs",
        )
    cores = max(2, os.cpu_count() or 1)  # two ranks are what tests need
    if (device == "cpu" or not count) and ranks > cores:
        raise ConfigError(
            f"`train.ranks` is {ranks}; there is no GPU to use, and this machine has {cores} cores",
            hint=f"lower it to {cores}",
        )


def deal(items: Sequence[Item], count: int, length: Callable[[Item], int]) -> list[list[Item]]:
    """Items for each of `count` ranks, with about the same total length.

    From the longest to the shortest, each goes to the rank with the smallest total so far.

    >>> deal([9, 2, 3, 10], 2, lambda tokens: tokens)
    [[10, 2], [9, 3]]
    """
    if count == 1:
        return [list(items)]
    shares: list[list[Item]] = [[] for _ in range(count)]
    totals = [0] * count
    for item in sorted(items, key=lambda item: -length(item)):
        least = totals.index(min(totals))
        shares[least].append(item)
        totals[least] += length(item)
    return shares


def place_on_ranks(model: PreTrainedModel, ranks: Ranks, dtype: DType) -> PreTrainedModel:
    """Prepare a model on the CPU for training by several ranks, in place.

    A full model is sharded: weights at rest are float32, cut over the ranks, and are gathered in
    `dtype` when a layer is computed. Its decoder layers are units of their own. Adapters are those
    of rank 0.
    """
    if ranks.count == 1:
        return model
    if has_adapters(model):
        model.to(ranks.device)
        for value in model.parameters():
            if value.requires_grad:
                distributed.broadcast(value.data, 0)
        return model
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(torch.device(ranks.device).type, (ranks.count,))
    return shard(model, mesh, dtype)


def shard(model: PreTrainedModel, mesh: Any, dtype: DType) -> PreTrainedModel:
    """Shard a full model over a device mesh, one unit per decoder layer, in place."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    precision = MixedPrecisionPolicy(
        param_dtype=None if dtype == "float32" else DTYPES[dtype], reduce_dtype=torch.float32
    )
    layers = set(model._no_split_modules or ())
    units = [module for module in model.modules() if type(module).__name__ in layers]
    for unit in (*units, model):
        for value in unit.parameters():  # those of earlier units are float32 already
            if value.dtype != torch.float32:
                value.data = value.data.float()
        # the outermost unit too: weights kept from a pass without gradients would become stale
        fully_shard(unit, mesh=mesh, mp_policy=precision, reshard_after_forward=True)
    return model


def is_sharded(model: PreTrainedModel) -> bool:
    """Whether each rank holds a part of every weight."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def gather_weights(
    model: PreTrainedModel, ranks: Ranks, dtype: DType
) -> dict[str, torch.Tensor] | None:
    """The whole weights of a sharded model by name, in `dtype` and on the CPU of rank 0.

    All ranks must call it; the others get no entries. None if the model is not sharded.
    """
    if ranks.count == 1 or not is_sharded(model):
        return None
    parameters: dict[str, Any] = dict(model.named_parameters())
    whole = {}
    for name, value in parameters.items():
        gathered = value.detach().full_tensor()
        if ranks.first:
            whole[name] = gathered.to("cpu", DTYPES[dtype])
    if ranks.first:
        kept = model.state_dict()
        named = {name for name, _ in model.named_buffers()}
        whole |= {name: kept[name].cpu() for name in named & kept.keys()}
    return whole
