"""Training state on disk: tensors by name, written and read by any number of ranks.

Built on `torch.distributed.checkpoint` in its safetensors form: each rank writes a file with its
parts of the tensors, and any number of ranks reads them again.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from eef.errors import StoreError
from eef.models.loading import writing_weights
from eef.training.ranks import Ranks

State = dict[str, torch.Tensor]


def write_state(directory: Path, state: State, ranks: Ranks) -> None:
    """Write tensors, replacing `directory`. All ranks call it. StoreError if the disk is full."""
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    with writing_weights(directory):
        if ranks.first:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)
    ranks.wait()
    writer = HuggingFaceStorageWriter(str(directory), save_distributed=True)
    with writing_weights(directory), _own_errors():
        save(state, storage_writer=writer, no_dist=ranks.count == 1)


def read_state(directory: Path, state: State, ranks: Ranks) -> None:
    """Read tensors into those of `state`. All ranks call it.

    StoreError if a file is missing or damaged, or holds tensors of other shapes.
    """
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(directory))
    try:
        with _own_errors():
            load(state, storage_reader=reader, no_dist=ranks.count == 1)
    except Exception as error:
        raise StoreError(f"cannot read the training state `{directory}`: {error}") from error


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raise the error of the first rank that failed instead of torch's collection of them.

    torch's warning about a single rank is suppressed.
    """
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
            yield
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from error
