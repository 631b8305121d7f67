"""A comparison's last students on a second test set: `python -m benchmarks.second_test RUNS [METHOD …]`; JSON last.

RUNS is a directory of `eef compare`. Settings of a recipe that were tried on its test tasks may suit these tasks; the
split `--split` (`validation`) was played by none of the runs. As many tasks as the recipe tests on, greedily.

    won      win rate of each seed, by method
    pairs    first minus second: difference, intervals over tasks and over tasks and seeds, both p values (`eef.analysis.stats`)
"""

from __future__ import annotations

import argparse
import json
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from eef.analysis.stats import difference_over_seeds, seed_effects, sign_flip_test
from eef.pipeline.pipeline import Run
from eef.pipeline.stages import BC, Stage
from eef.policy import Sampling
from eef.rollouts.runner import RolloutRunner, RolloutSpec, batches
from eef.trajectory import TrajectorySet
from eef.utils.compute import process_settings


def wins(run: Run, method: str, split: str) -> list[float]:
    """1.0 for each task of the split that the method's last student wins."""
    tasks, recipe = list(run.env.tasks(split).head(run.recipe.tasks.test)), run.recipe
    # what a round explores with is what the round before has left; the first one's is behavior cloning
    student = run.explorer(Stage(method, 1 if method == BC else recipe.rounds + 1, "explore"))
    sampling = Sampling(**recipe.evaluation_sampling.model_dump())
    launches = [RolloutSpec(task.id, task, None, 0, 0) for task in tasks]
    with RolloutRunner(
        run.env,
        student,
        TrajectorySet(),
        sampling=sampling,
        step_limit=run.step_limit,
        told=run.methods[method].told,
    ) as player:
        played = [
            item
            for batch in batches(launches, recipe.rollouts.batch_size)
            for item in player.play(batch)
        ]
    won = {item.task: item.success for item in played}
    return [float(won[task.id]) for task in tasks]


def compare(one: list[list[float]], other: list[list[float]]) -> dict[str, Any]:
    over_tasks, both = (
        difference_over_seeds(one, other),
        difference_over_seeds(one, other, over="both"),
    )
    effects = seed_effects(one, other)
    return {
        "difference": over_tasks.mean,
        "interval": over_tasks.interval,
        "interval_over_seeds": both.interval,
        "p": sign_flip_test(one, other),
        "p_over_seeds": effects.p_value if effects else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path)
    parser.add_argument("methods", nargs="*", default=["bc", "rft6", "eef"])
    parser.add_argument("--split", default="validation")
    given = parser.parse_args()
    runs = [Run.open(path.parent) for path in sorted(given.runs.glob("seed*/recipe.json"))]
    tables: dict[str, list[list[float]]] = {}
    with process_settings(1):
        for method in given.methods:
            tables[method] = [wins(run, method, given.split) for run in runs]
            print(method, [round(100 * fmean(row), 1) for row in tables[method]], flush=True)
    print(
        json.dumps(
            {
                "split": given.split,
                "won": {
                    method: [round(fmean(row), 4) for row in table]
                    for method, table in tables.items()
                },
                "pairs": {
                    f"{a}_vs_{b}": compare(tables[a], tables[b]) for b, a in combinations(tables, 2)
                },
            }
        )
    )


if __name__ == "__main__":
    main()
