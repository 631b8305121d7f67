"""A comparison's final students on a second test set.

`python -m benchmarks.second_test RUNS [METHOD …]`, where RUNS is the output directory of `eef
compare`. Settings that were tuned on a recipe's test tasks may be overfitted to them. This plays,
greedily, as many tasks of another split (`--split`, by default `validation`), which no run has
played. The result is JSON, in the file `--out` or in the last line of the output:

    tasks    ids of the tasks played
    seeds    seeds of the runs
    wins     by method, a row of 0 and 1 per seed
    rewards  by method, a row per seed
    pairs    first minus second: difference, intervals over tasks and over tasks and seeds, and both
             p values (see `eef.analysis.stats`), of wins and of rewards
"""

from __future__ import annotations

import argparse
import json
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from eef.analysis.stats import difference_over_seeds, sign_flip_test, t_test_over_seeds
from eef.pipeline.context import RunContext
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import BC, Stage
from eef.rollouts.runner import play
from eef.rollouts.specs import RolloutSpec
from eef.trajectory import TrajectorySet
from eef.utils.compute import process_settings
from eef.utils.jsonl import write_json


def outcomes(context: RunContext, method: str, split: str) -> tuple[list[float], list[float]]:
    """(wins as 1.0 or 0.0, rewards) of the method's final student on each task of the split."""
    recipe = context.recipe
    tasks = list(context.env.tasks(split).head(recipe.tasks.test))
    final = Stage(method, 0 if method == BC else context.run.rounds_of(method), "train")
    tested = final.sibling("evaluate")
    if context.run.roles_at_test(method):
        raise SystemExit(f"{method} asks roles at test time, which this does not")
    suffix = context.prompt_suffix(tested)
    played = play(
        [RolloutSpec(task.id, task, None, 0, 0, suffix) for task in tasks],
        env=context.env,
        policy=context.student(final),
        trajectories=TrajectorySet(),
        parameters=context.parameters(tested),
    )
    by_task = {item.task: item for item in played}
    return (
        [float(by_task[task.id].success) for task in tasks],
        [by_task[task.id].reward or 0.0 for task in tasks],
    )


def compare(one: list[list[float]], other: list[list[float]], *, exact: bool) -> dict[str, Any]:
    """The difference of two methods, with intervals and p values; one list per seed.

    The `exact` test over tasks needs whole numbers, so rewards have none.
    """
    over_tasks = difference_over_seeds(one, other)
    over_both = difference_over_seeds(one, other, over="both")
    over_seeds = t_test_over_seeds(one, other)
    return {
        "difference": over_tasks.mean,
        "interval": over_tasks.interval,
        "interval_over_seeds": over_both.interval,
        "p": sign_flip_test(one, other) if exact else None,
        "p_over_seeds": over_seeds.p_value if over_seeds else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="output directory of `eef compare`")
    parser.add_argument("methods", nargs="*", default=["bc", "rft6", "eef"])
    parser.add_argument("--split", default="validation", help="default validation")
    parser.add_argument("--out", type=Path, help="file for the result")
    given = parser.parse_args()
    paths = sorted(path.parent for path in given.runs.glob("seed*/recipe.json"))
    runs = [RunContext(RunDirectory.open(path)) for path in paths]
    tested = runs[0].recipe.tasks.test
    wins: dict[str, list[list[float]]] = {}
    rewards: dict[str, list[list[float]]] = {}
    with process_settings(1):
        for method in given.methods:
            played = [outcomes(run, method, given.split) for run in runs]
            wins[method], rewards[method] = ([each[part] for each in played] for part in (0, 1))
            print(method, [round(100 * fmean(row), 1) for row in wins[method]], flush=True)
    result = {
        "split": given.split,
        "tasks": [task.id for task in runs[0].env.tasks(given.split).head(tested)],
        "seeds": [run.recipe.seed for run in runs],
        "wins": {
            name: [[int(win) for win in row] for row in table] for name, table in wins.items()
        },
        "rewards": rewards,
        "pairs": {
            f"{first}_vs_{second}": {
                "wins": compare(wins[first], wins[second], exact=True),
                "rewards": compare(rewards[first], rewards[second], exact=False),
            }
            for second, first in combinations(wins, 2)
        },
    }
    if given.out:
        write_json(given.out, result)
    else:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
