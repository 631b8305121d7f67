"""Trainings of a tiny model that one process or several ranks perform; torchrun runs this module.

`python -m torch.distributed.run … -m tests.fakes.rank_program DIR` performs all of `JOBS` in `DIR`,
which has the tiny model in `model`, and writes `<job>.json` and `<job>.safetensors` from rank 0.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from eef.errors import DataError
from eef.models.checkpoint import save_checkpoint
from eef.models.loading import load_model
from eef.models.settings import LoraSettings
from eef.renderer import Rendered, RenderedPair
from eef.training.dpo import train_pairs
from eef.training.policy_gradient import CarriedState, train_acts
from eef.training.ranks import ALONE, Ranks, gather_weights, join_ranks, place_on_ranks
from eef.training.settings import PolicyGradientSettings, TrainSettings
from eef.training.sft import train_examples
from eef.training.trainer import TrainResult

LORA = LoraSettings(rank=4)
JOBS = ("sft", "sft-lora", "sft-single", "dpo", "dpo-lora", "acts", "acts-lora", "bfloat16")
"""`sft-single` has batches of one example, so that all ranks but one have none."""
STOP_AT = 5  # updates; the latest checkpoint is that of update 4


class StopError(Exception):
    """Stands for the end of the process."""


def sequence(draw: torch.Generator, *, signed: bool = False) -> Rendered:
    length = int(torch.randint(5, 40, (), generator=draw))
    ids = torch.randint(0, 256, (length,), generator=draw).tolist()
    weights = torch.randint(-2 if signed else 0, 3, (length,), generator=draw).div(2).tolist()
    return Rendered(tuple(ids), (0.0, *weights[1:-1], 1.0))


def items(count: int = 13, *, seed: int = 1, signed: bool = False) -> list[Rendered]:
    draw = torch.Generator().manual_seed(seed)
    return [sequence(draw, signed=signed) for _ in range(count)]


def settings(**changes: Any) -> TrainSettings:
    values = {
        "updates": 6,
        "batch_size": 6,
        "learning_rate": 3e-4,
        "max_tokens_per_microbatch": 60,
        "save_every": 2,
        "threads": 1,
    }
    return TrainSettings.model_validate({**values, **changes})


def perform(
    job: str,
    directory: Path,
    ranks: Ranks = ALONE,
    *,
    checkpoints: Path | None = None,
    stop_at: int | None = None,
) -> tuple[TrainResult, Any]:
    """(result, trained model) of a job, which raises StopError after `stop_at` updates."""
    kind = job.split("-")[0]
    dtype = "bfloat16" if job == "bfloat16" else "float32"
    model, _ = load_model(
        str(directory / "model"),
        dtype=dtype,
        device="cpu",
        lora=LORA if job.endswith("lora") else None,
    )
    chosen = settings(dtype=dtype, **({"batch_size": 1} if job == "sft-single" else {}))
    model = place_on_ranks(model, ranks, chosen.dtype)

    def watch(progress: Any) -> None:
        if progress.done == stop_at:
            raise StopError

    options: Any = {"directory": checkpoints, "ranks": ranks, "on_progress": watch}
    if kind == "dpo":
        pairs = [RenderedPair(*both) for both in zip(items(8), items(8, seed=2), strict=True)]
        return train_pairs(model, pairs, chosen, 0.1, **options), model
    if kind == "acts":
        gradient = PolicyGradientSettings(
            learning_rate=3e-4, epochs=2, batch_size=5, kl=0.1, imitation=0.5
        )
        reference, _ = load_model(str(directory / "model"), device="cpu")
        result = train_acts(
            model,
            items(signed=True),
            chosen,
            gradient,
            temperature=0.7,
            examples=items(4, seed=3),
            reference=reference,
            carried=CarriedState(before=None, after=directory / f"{job}-{ranks.count}-optimizer"),
            **options,
        )
        return result, model
    return train_examples(model, items(), chosen, **options), model


def weights_of(model: Any, ranks: Ranks = ALONE) -> dict[str, torch.Tensor]:
    """The trained weights by name; of a sharded model, on rank 0 alone."""
    gathered = gather_weights(model, ranks, "float32")
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    whole = gathered if gathered is not None else dict(model.named_parameters())
    return {name: value.detach().float() for name, value in whole.items() if name in trained}


def main(directory: Path) -> None:
    ranks = join_ranks("cpu")

    def report(job: str, result: TrainResult, model: Any) -> None:
        weights = weights_of(model, ranks)
        if ranks.first:
            record = {"losses": result.losses, "processed": result.processed_tokens}
            (directory / f"{job}.json").write_text(json.dumps(record))
            save_file(weights, directory / f"{job}.safetensors")

    for job in JOBS:
        report(job, *perform(job, directory, ranks))
    for job in ("sft", "sft-lora"):
        # a training that one process started and these ranks finish
        checkpoints = directory / "from-one" / job
        report(f"{job}-from-one", *perform(job, directory, ranks, checkpoints=checkpoints))
        # a training that these ranks start and one process finishes
        try:
            perform(job, directory, ranks, checkpoints=directory / "to-one" / job, stop_at=STOP_AT)
        except StopError:
            ranks.wait()
    model, tokenizer = load_model(str(directory / "tied"), dtype="bfloat16", device="cpu")
    weights = gather_weights(place_on_ranks(model, ranks, "bfloat16"), ranks, "bfloat16")
    if ranks.first:
        save_checkpoint(model, tokenizer, directory / "exported", base="tied", weights=weights)
    model, _ = load_model(str(directory / "model"), device="cpu", lora=LORA)
    try:  # the ranks were given different examples
        train_examples(
            place_on_ranks(model, ranks, "float32"), items(seed=ranks.rank), settings(), ranks=ranks
        )
    except DataError as error:
        (directory / f"disagreement-{ranks.rank}.txt").write_text(error.message)
    ranks.wait()
    os._exit(0)  # as `eef.pipeline.ranks` ends


if __name__ == "__main__":
    main(Path(sys.argv[1]))
