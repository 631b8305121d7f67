"""A comparison's final students on a second test set.

`python -m benchmarks.second_test RUNS [METHOD …]`, where RUNS is the output directory of `eef
compare`. Settings that were tuned on a recipe's test tasks may be overfitted to them. This plays,
greedily, as many tasks of another split (`--split`, by default `validation`), which no run has
played. The last line of the output is JSON:

    won      win rate of each seed, by method
    pairs    first minus second: difference, intervals over tasks and over tasks and seeds, and both
             p values (see `eef.analysis.stats`)
"""

from __future__ import annotations

import argparse
import json
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from eef.analysis.stats import difference_over_seeds, seed_effects, sign_flip_test
from eef.pipeline.context import RunContext
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import BC, Stage
from eef.rollouts.runner import RolloutSpec, play
from eef.trajectory import TrajectorySet
from eef.utils.compute import process_settings


def wins(context: RunContext, method: str, split: str) -> list[float]:
    """1.0 for each task of the split that the method's final student wins, 0.0 for the others."""
    recipe = context.recipe
    tasks = list(context.env.tasks(split).head(recipe.tasks.test))
    final = Stage(method, 0 if method == BC else recipe.rounds, "train")
    played = play(
        [RolloutSpec(task.id, task, None, 0, 0) for task in tasks],
        env=context.env,
        policy=context.student(final),
        trajectories=TrajectorySet(),
        parameters=context.parameters(Stage(final.method, final.round, "evaluate")),
    )
    won = {item.task: item.success for item in played}
    return [float(won[task.id]) for task in tasks]


def compare(one: list[list[float]], other: list[list[float]]) -> dict[str, Any]:
    """The difference of two methods, with intervals and p values; one list per seed."""
    over_tasks = difference_over_seeds(one, other)
    over_both = difference_over_seeds(one, other, over="both")
    effects = seed_effects(one, other)
    return {
        "difference": over_tasks.mean,
        "interval": over_tasks.interval,
        "interval_over_seeds": over_both.interval,
        "p": sign_flip_test(one, other),
        "p_over_seeds": effects.p_value if effects else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="output directory of `eef compare`")
    parser.add_argument("methods", nargs="*", default=["bc", "rft6", "eef"])
    parser.add_argument("--split", default="validation", help="default validation")
    given = parser.parse_args()
    paths = sorted(path.parent for path in given.runs.glob("seed*/recipe.json"))
    runs = [RunContext(RunDirectory.open(path)) for path in paths]
    tables: dict[str, list[list[float]]] = {}
    with process_settings(1):
        for method in given.methods:
            tables[method] = [wins(run, method, given.split) for run in runs]
            print(method, [round(100 * fmean(row), 1) for row in tables[method]], flush=True)
    result = {
        "split": given.split,
        "won": {name: [round(fmean(row), 4) for row in table] for name, table in tables.items()},
        "pairs": {
            f"{first}_vs_{second}": compare(tables[first], tables[second])
            for second, first in combinations(tables, 2)
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
