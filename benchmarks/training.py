"""Supervised training of a small student: `eef` against TRL's `SFTTrainer`, unpacked.

    python -m benchmarks.training
    python -m benchmarks.training --model models/smollm2 --examples 4 --updates 2

Both train all weights on the same token ids with the same masks, every example in every update, so
that the order does not matter. The losses of the first and the last update are compared. TRL runs
with each batch size per step that divides the examples (accumulated to one update); `eef` sorts an
update's examples into micro-batches by length. CPU seconds are compared, which depend less on other
processes than seconds do; with one thread and an idle machine the two are equal.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from typing import Any

import torch
import trl
from datasets import Dataset
from transformers import TrainerCallback

from eef.envs.registry import make_env, make_expert
from eef.models.loading import load_model
from eef.policy import GREEDY
from eef.renderer import Rendered, Renderer
from eef.rendering import render_all
from eef.rollouts.runner import RolloutParameters, play
from eef.rollouts.specs import RolloutSpec
from eef.selection import TrainingExample
from eef.training.settings import TrainSettings
from eef.training.sft import train_examples
from eef.trajectory import TrajectorySet

from .rollouts import SHOP

RATE = 1e-4


def make_examples(renderer: Renderer, count: int) -> list[Rendered]:
    """Whole expert episodes of different lengths, every completion trained."""
    env = make_env("webshop", SHOP)
    tasks = list(env.tasks("train").head(3 * count))
    specs = [RolloutSpec(task.id, task, None, number, 0) for number, task in enumerate(tasks)]
    played = TrajectorySet(
        play(
            specs,
            env=env,
            policy=make_expert(env, "strong"),
            trajectories=TrajectorySet(),
            parameters=RolloutParameters(sampling=GREEDY, step_limit=12),
        )
    )
    examples = [
        TrainingExample(
            id=each.id,
            task=each.task,
            trajectory=each.id,
            state=0,
            weights=(1.0,) * each.length,
            reasons=("expert-win",) * each.length,
        )
        for each in played
    ]
    rendered, _ = render_all(examples, played, env.prompt, renderer)
    return random.Random(0).sample(rendered, count)


def train_here(name: str, examples: list[Rendered], updates: int, threads: int) -> Any:
    model, _ = load_model(name, device="cpu")
    settings = TrainSettings(
        updates=updates,
        batch_size=len(examples),
        learning_rate=RATE,
        warmup_ratio=0.0,
        schedule="constant",
        threads=threads,
    )
    started = time.process_time()
    result = train_examples(model, examples, settings)
    return (time.process_time() - started) / updates, result.losses


class Clock(TrainerCallback):
    """The CPU seconds of every update."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *arguments: Any, **options: Any) -> None:
        self.started = time.process_time()

    def on_step_end(self, *arguments: Any, **options: Any) -> None:
        self.seconds.append(time.process_time() - self.started)


def train_with_trl(name: str, examples: list[Rendered], updates: int, batch: int) -> Any:
    model, tokenizer = load_model(name, device="cpu")
    rows = {
        "input_ids": [list(each.ids) for each in examples],
        "completion_mask": [[int(weight != 0) for weight in each.weights] for each in examples],
    }
    clock = Clock()
    with tempfile.TemporaryDirectory() as directory:
        config = trl.SFTConfig(
            output_dir=directory,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=len(examples) // batch,
            max_steps=updates,
            learning_rate=RATE,
            lr_scheduler_type="constant",
            max_grad_norm=1.0,
            max_length=None,
            completion_only_loss=True,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            logging_steps=1,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        )
        trainer = trl.SFTTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_dict(rows),
            processing_class=tokenizer,
            callbacks=[clock],
        )
        trainer.train()
    losses = [each["loss"] for each in trainer.state.log_history if "loss" in each]
    return sum(clock.seconds) / len(clock.seconds), losses


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.training",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="base")
    parser.add_argument("--examples", type=int, default=16)
    parser.add_argument("--updates", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    examples = make_examples(Renderer(load_model(options.model, device="cpu")[1]), options.examples)
    seconds, losses = train_here(options.model, examples, options.updates, options.threads)
    found: dict[str, Any] = {}
    for batch in (each for each in (1, 2, 4, 8, 16) if options.examples % each == 0):
        theirs, their_losses = train_with_trl(options.model, examples, options.updates, batch)
        found[str(batch)] = {
            "cpu_seconds_per_update": round(theirs, 2),
            "times_slower": round(theirs / seconds, 2),
            "losses": [round(their_losses[0], 4), round(their_losses[-1], 4)],
        }
    result = {
        "model": options.model,
        "examples": options.examples,
        "tokens": sum(len(each.ids) for each in examples),
        "threads": options.threads,
        "eef": {
            "cpu_seconds_per_update": round(seconds, 2),
            "losses": [round(losses[0], 4), round(losses[-1], 4)],
        },
        "trl_by_batch_size": found,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
