"""Rollouts of a small student: `eef`'s local engine against `transformers.generate`.

    python -m benchmarks.rollouts                     # the base student in a generated shop
    python -m benchmarks.rollouts --model models/smollm2 --episodes 8 --steps 4
    python -m benchmarks.rollouts --run runs/demo     # prompt tokens computed, EEF against RFT×6

All play the same episodes with the same weights, greedily; texts are compared. `generate` is called
for one episode at a time, and for all that are still running at once, padded on the left. Only the
time of the policy counts, the environment's is the same. CPU seconds are compared, which depend
less on other processes than seconds do; with one thread and an idle machine the two are equal.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from eef.envs.registry import make_env
from eef.models.loading import load_model
from eef.pipeline.ledger import Cost
from eef.pipeline.run_directory import RunDirectory
from eef.policies.local import LocalPolicy
from eef.policy import Completion, Conversation, Replays, Sampling
from eef.renderer import Renderer
from eef.rollouts.runner import RolloutParameters, play
from eef.rollouts.specs import RolloutSpec
from eef.trajectory import Author, TrajectorySet

SHOP = {
    "data": "synthetic",
    "goals": "human",
    "prompt": "none",
    "products_per_page": 4,
    "step_limit": 12,
    "synthetic": {"seed": 7, "products": 800, "family_size": 12, "price_spread": 0},
}


class Timed:
    """A policy with the CPU seconds that its calls take."""

    author = Author("student", "benchmark")
    replays: Replays = "batch"

    def __init__(self, act: Any) -> None:
        self._act, self.seconds = act, 0.0

    def act(
        self, conversations: Sequence[Conversation], seeds: Sequence[int], sampling: Sampling
    ) -> list[Completion]:
        started = time.process_time()
        completions: list[Completion] = self._act(conversations, seeds, sampling)
        self.seconds += time.process_time() - started
        return completions


class Generate:
    """`model.generate` for `batch` conversations at a time, each prompt from its start."""

    def __init__(self, model: Any, renderer: Renderer, batch: int) -> None:
        self.model, self.renderer, self.batch = model, renderer, batch

    def __call__(
        self, conversations: Sequence[Conversation], seeds: Sequence[int], sampling: Sampling
    ) -> list[Completion]:
        return [
            completion
            for first in range(0, len(conversations), self.batch)
            for completion in self._complete(conversations[first : first + self.batch], sampling)
        ]

    def _complete(
        self, conversations: Sequence[Conversation], sampling: Sampling
    ) -> list[Completion]:
        prompts = [self.renderer.prompt(each) for each in conversations]
        width, stops = max(map(len, prompts)), sorted(self.renderer.stop_ids)
        ids = torch.tensor([[stops[0]] * (width - len(each)) + each for each in prompts])
        mask = torch.tensor([[0] * (width - len(each)) + [1] * len(each) for each in prompts])
        with torch.inference_mode():
            written = self.model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=sampling.max_tokens,
                do_sample=False,
                eos_token_id=stops,
                pad_token_id=stops[0],
            )[:, width:].tolist()
        return [self._read(tokens) for tokens in written]

    def _read(self, tokens: list[int]) -> Completion:
        stops = self.renderer.stop_ids
        end = next((place for place, token in enumerate(tokens) if token in stops), len(tokens))
        text, drifted = self.renderer.read_sampled(tokens[:end])
        return Completion(text=text, generated_tokens=end, tokens=drifted)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    env = make_env("webshop", SHOP)
    tasks = env.tasks("train").head(options.episodes)
    specs = [RolloutSpec(task.id, task, None, number, 0) for number, task in enumerate(tasks)]
    parameters = RolloutParameters(
        sampling=Sampling(temperature=0.0, max_tokens=options.max_tokens),
        step_limit=options.steps,
        batch_size=options.episodes,
    )
    seconds, texts = {}, {}
    for name in ("local", "one at a time", "batched"):
        model, tokenizer = load_model(options.model, device="cpu")
        renderer = Renderer(tokenizer)
        act = (
            LocalPolicy(model, tokenizer, renderer, author=Timed.author).act
            if name == "local"
            else Generate(model, renderer, 1 if name == "one at a time" else options.episodes)
        )
        policy = Timed(act)
        played = play(
            specs, env=env, policy=policy, trajectories=TrajectorySet(), parameters=parameters
        )
        texts[name] = {each.id: [step.completion for step in each.steps] for each in played}
        seconds[name] = round(policy.seconds, 2)
    turns = sum(map(len, texts["local"].values()))
    equal = {
        name: sum(texts[name][each] == texts["local"][each] for each in texts[name])
        for name in texts
    }
    return {
        "model": options.model,
        "episodes": len(specs),
        "turns": turns,
        "threads": options.threads,
        "cpu_seconds": seconds,
        "equal_episodes": equal,
        "times_faster": {
            name: round(seconds[name] / seconds["local"], 1) for name in seconds if name != "local"
        },
    }


def prompt_tokens(directory: Path) -> dict[str, Any]:
    """Prompt tokens that the explore stages of a run computed (not cached), per method."""
    run = RunDirectory.open(directory)
    totals: dict[str, Cost] = {}
    for stage in run.stages:
        if stage.kind == "explore" and (cost := run.costs(stage.method).get(stage)):
            totals[stage.method] = totals.get(stage.method, Cost()) + cost
    return {
        method: {
            "rollouts": cost.rollouts,
            "prompt_tokens": cost.prompt_tokens,
            "computed": cost.prompt_tokens - cost.cached_tokens,
            "computed_per_rollout": round(
                (cost.prompt_tokens - cost.cached_tokens) / max(1, cost.rollouts)
            ),
        }
        for method, cost in totals.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rollouts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="base")
    parser.add_argument("--episodes", type=int, default=32)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--run", type=Path, help="report the prompt tokens of a run instead")
    options = parser.parse_args()
    print(json.dumps(prompt_tokens(options.run) if options.run else measure(options), indent=2))


if __name__ == "__main__":
    main()
