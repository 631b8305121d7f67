"""The base student, trained once on the examples of a round: is it the data or the many rounds?

    python -m benchmarks.retrain RUN METHOD ROUND …

With `train.init_from = "last"`, the student of round r has been trained r times, mostly on the same
tasks. If it gets worse, either its examples do, or it overfits to them. For each ROUND, this trains
the base on the examples of that round, with the run's settings (or `--updates`), and plays the
run's test tasks greedily. Prints win rate and mean reward beside those of the round's own student.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean

from eef.models.loading import load_model
from eef.pipeline.context import RunContext
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import Stage
from eef.policies.local import LocalPolicy
from eef.rendering import render_all
from eef.rollouts.runner import play
from eef.rollouts.specs import RolloutSpec
from eef.training.sft import train_examples
from eef.trajectory import Author, TrajectorySet
from eef.utils.compute import process_settings


def retrained(context: RunContext, stage: Stage, updates: int | None) -> LocalPolicy:
    """The base, trained on the examples that a stage trained on."""
    recipe = context.recipe_of(stage)
    model, tokenizer = load_model(recipe.model.name, device=recipe.model.device)
    renderer = context.renderer(model, tokenizer)
    selection = context.run.selection(stage.method, stage.round)
    if selection is None:
        raise SystemExit(f"`{stage}` has no selection")
    trajectories = context.run.trajectories(stage.method)
    examples, _ = render_all(selection.examples, trajectories, context.prompt, renderer)
    settings = recipe.train.model_copy(update={"updates": updates} if updates else {})
    result = train_examples(model, examples, settings)
    print(f"  {result.updates} updates on {len(examples)} examples, loss {result.losses[-1]:.3f}")
    author = Author("student", f"retrained-{stage.method}@round{stage.round}")
    return LocalPolicy(model, tokenizer, renderer, author=author)


def score(context: RunContext, stage: Stage, policy: LocalPolicy) -> tuple[float, float]:
    """Win rate and mean reward on the test tasks of a run."""
    recipe = context.recipe_of(stage)
    tasks = context.env.tasks(recipe.evaluate.split).head(recipe.tasks.test)
    played = list(
        play(
            [RolloutSpec(task.id, task, None, 0, 0) for task in tasks],
            env=context.env,
            policy=policy,
            trajectories=TrajectorySet(),
            parameters=context.parameters(stage.sibling("evaluate")),
        )
    )
    return fmean(each.success for each in played), fmean(each.reward or 0.0 for each in played)


def main() -> None:
    """Parse the command line, train and evaluate."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.retrain",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="a run directory")
    parser.add_argument("method")
    parser.add_argument("rounds", type=int, nargs="+", metavar="ROUND")
    parser.add_argument("--updates", type=int, help="instead of the run's")
    given = parser.parse_args()
    context = RunContext(RunDirectory.open(given.run))
    with process_settings(1):
        for number in given.rounds:
            stage = Stage(given.method, number, "train")
            print(f"{given.method}, round {number}", flush=True)
            rate, reward = score(context, stage, retrained(context, stage, given.updates))
            print(f"  retrained: {100 * rate:.1f} %, mean reward {reward:.3f}", flush=True)
            if own := context.run.evaluation(given.method, number):
                print(f"  its own:   {100 * own.success_rate:.1f} %, {own.mean_reward:.3f}")


if __name__ == "__main__":
    main()
