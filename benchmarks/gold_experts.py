"""Win rates of ScienceWorld's scripted experts: `python -m benchmarks.gold_experts [EXPERT …]`.

Each expert plays the first training tasks of the preset `eto-24` (`--tasks`; by default 144, six of
most groups) within ETO's step limits. The output is one line of JSON:

    won       share of the tasks
    score     mean final score x 100
    failed    number of tasks that end with 0 (a wrong focus, or nothing done)
    by_group  [won, tasks] of each task group
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from contextlib import closing
from statistics import fmean
from typing import Any

from eef.envs.scienceworld import ScienceWorld, ScienceWorldSettings
from eef.envs.simulators.gold_paths import GoldPath, make_gold_expert, play_path
from eef.envs.spec import group_in_id


def measure(env: ScienceWorld, name: str, tasks: int) -> dict[str, Any]:
    """All figures of one expert."""
    expert, chosen = make_gold_expert(env, name), env.tasks("train").head(tasks)
    played: dict[str, GoldPath] = {
        task.id: play_path(env, task, expert.plan(task)[: task.step_limit]) for task in chosen
    }
    won = Counter(group_in_id(task) for task, path in played.items() if path.reward >= 1.0)
    groups = Counter(map(group_in_id, played))
    return {
        "tasks": len(played),
        "won": round(won.total() / len(played), 3),
        "score": round(100 * fmean(path.reward for path in played.values()), 1),
        "failed": sum(path.reward == 0.0 for path in played.values()),
        "by_group": {group: [won[group], groups[group]] for group in groups},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Measure the win rates of ScienceWorld's scripted experts."
    )
    parser.add_argument("experts", nargs="*", default=["flawless", "strong", "weak"])
    parser.add_argument(
        "--tasks", type=int, default=144, help="number of training tasks of eto-24 (default 144)"
    )
    given = parser.parse_args()
    with closing(ScienceWorld(ScienceWorldSettings(tasks="eto-24"))) as env:
        print(json.dumps({name: measure(env, name, given.tasks) for name in given.experts}))


if __name__ == "__main__":
    main()
