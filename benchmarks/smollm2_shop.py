"""SmolLM2-135M as a student of the shop that is not taught to turn pages.

    python -m benchmarks.smollm2 models/smollm2
    python -m benchmarks.smollm2_shop lessons models/smollm2 models/lessons.npz
    python -m benchmarks.smollm2_shop train models/smollm2 models/lessons.npz models/smollm2-shop
    eef compare recipes/careless.toml --set model.name=models/smollm2-shop …

Add `--set sampling.max_tokens=160`: turns have up to 106 tokens of this tokenizer, and the recipe
allows 96.

Like the base student of the shop (`eef.students.webshop`), it learns from episodes of the flawless
expert in random shops, none of which a recipe uses. In a turn that changes the page or goes back,
only the reading carries loss, not the decision, so it meets these turns as context alone.
"""

from __future__ import annotations

import argparse
import random
import re
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eef.chat import build_conversation
from eef.envs.webshop.expert import BACK, NEXT
from eef.models.checkpoint import save_checkpoint
from eef.models.loading import load_model, load_tokenizer
from eef.policies.local import LocalPolicy
from eef.policy import Sampling
from eef.renderer import Rendered, Renderer
from eef.rollouts.runner import RolloutParameters, play
from eef.rollouts.specs import RolloutSpec
from eef.students.webshop import MARKS, play_shop, random_shop
from eef.training.settings import TrainSettings
from eef.training.sft import train_examples
from eef.trajectory import Author, Trajectory, TrajectorySet
from eef.utils.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator

_MARK = re.compile("|".join(rf"(?<!\S){re.escape(mark)}(?!\S)" for mark in MARKS))


def lesson(trajectory: Trajectory, renderer: Renderer) -> Rendered:
    """An episode with loss on its completions; of those that change the page, on the reading.

    Example: `Thought: need red. B000000123 blue not no. none fits. next page.` carries loss up to
    and including `none fits.`.
    """
    turns = trajectory.steps
    whole = renderer.render(build_conversation("", turns), [1.0] * len(turns))
    weights: list[float] = []
    step = iter(turns)
    for trained, run in groupby(whole.weights, key=bool):
        ids = list(run)
        taught = len(ids)
        if trained and (turn := next(step)).action in (NEXT, BACK):
            taught = _reading(turn.completion, renderer)
        weights += [float(trained)] * taught + [0.0] * (len(ids) - taught)
    assert next(step, None) is None, "each completion is one run of trained tokens"
    return Rendered(whole.ids, tuple(weights))


def _reading(completion: str, renderer: Renderer) -> int:
    """The number of tokens of a completion up to its last verdict."""
    end = max((match.end() for match in _MARK.finditer(completion)), default=0)
    offsets = renderer.tokenizer(
        completion, add_special_tokens=False, return_offsets_mapping=True
    ).offset_mapping
    return sum(last <= end for _, last in offsets)


def lessons(renderer: Renderer, *, shops: int, tasks: int, longest: int) -> Iterator[Rendered]:
    """Lessons of at most `longest` tokens from random shops."""
    rng = random.Random(1_000)
    for _ in range(shops):
        for trajectory in play_shop(random_shop(rng), tasks, rng.randrange(2**31)):
            rendered = lesson(trajectory, renderer)
            if rendered.width <= longest:
                yield rendered


def write_lessons(path: Path, rendered: list[Rendered]) -> None:
    """Write lessons to one compressed NumPy file."""
    np.savez_compressed(
        path,
        ids=np.fromiter(chain.from_iterable(each.ids for each in rendered), np.int32),
        trained=np.fromiter(chain.from_iterable(each.weights for each in rendered), np.bool_),
        widths=np.array([each.width for each in rendered]),
    )


def read_lessons(path: Path) -> list[Rendered]:
    """Read what `write_lessons` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        ends = arrays["widths"].cumsum()[:-1]
        pairs = zip(np.split(arrays["ids"], ends), np.split(arrays["trained"], ends), strict=True)
        return [
            Rendered(tuple(ids.tolist()), tuple(trained.astype(float).tolist()))
            for ids, trained in pairs
        ]


def win_rate(policy: LocalPolicy, tasks: int) -> float:
    """Share of the tasks of one more random shop that a student wins greedily."""
    shop = random_shop(random.Random(2_000))
    chosen = list(shop.tasks("train").head(tasks))
    parameters = RolloutParameters(
        sampling=Sampling(temperature=0.0, max_tokens=96),
        step_limit=12,
        batch_size=len(chosen),
    )
    played = play(
        [RolloutSpec(task.id, task, None, 0, 0) for task in chosen],
        env=shop,
        policy=policy,
        trajectories=TrajectorySet(),
        parameters=parameters,
    )
    return sum(each.success for each in played) / len(chosen)


def train(source: str, path: Path, directory: Path, settings: TrainSettings, tested: int) -> None:
    """Train a model on lessons and write it to `directory`."""
    model, tokenizer = load_model(source)

    def show(progress: Progress) -> None:
        if progress.done % 20 == 0 or progress.done == progress.total:
            print(f"{progress.done} of {progress.total}: {progress.note}", flush=True)

    result = train_examples(model, read_lessons(path), settings, on_progress=show)
    about = {"recipe": "benchmarks.smollm2_shop", "settings": settings.model_dump()}
    save_checkpoint(model, tokenizer, directory, base=source, about=about)
    print(f"{result.processed_tokens} tokens in {result.seconds:.0f} s", flush=True)
    if tested:
        author = Author("student", "smollm2-shop")
        policy = LocalPolicy(model, tokenizer, Renderer(tokenizer), author=author)
        print(f"wins {100 * win_rate(policy, tested):.1f} % of {tested} tasks of another shop")


def main() -> None:
    """Parse the command line; make lessons or train."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.smollm2_shop",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("lessons", help="play episodes and write lessons")
    learn = commands.add_parser("train", help="train a model on lessons")
    for each in (make, learn):
        each.add_argument("model", help="directory of the pretrained model")
        each.add_argument("file", type=Path, help="the lessons, .npz")
    make.add_argument("--shops", type=int, default=100)
    make.add_argument("--tasks", type=int, default=40, help="tasks per shop")
    make.add_argument("--longest", type=int, default=2500, help="tokens of an episode")
    learn.add_argument("directory", type=Path, help="where the student is written")
    learn.add_argument("--updates", type=int, default=250)
    learn.add_argument("--batch-size", type=int, default=16)
    learn.add_argument("--learning-rate", type=float, default=5e-4)
    learn.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    learn.add_argument("--microbatch", type=int, default=32_768, help="tokens per forward pass")
    learn.add_argument("--tested", type=int, default=100, help="tasks that are played at the end")
    given = parser.parse_args()
    if given.command == "lessons":
        renderer = Renderer(load_tokenizer(given.model))
        made = list(lessons(renderer, shops=given.shops, tasks=given.tasks, longest=given.longest))
        write_lessons(given.file, made)
        print(f"{len(made)} lessons, {sum(each.width for each in made)} tokens")
        return
    settings = TrainSettings(
        updates=given.updates,
        batch_size=given.batch_size,
        learning_rate=given.learning_rate,
        dtype=given.dtype,
        max_tokens_per_microbatch=given.microbatch,
        warmup_ratio=0.06,
        weight_decay=0.01,
    )
    train(given.model, given.file, given.directory, settings, given.tested)


if __name__ == "__main__":
    main()
