"""Policy gradients against the other methods at equal generated tokens, with both tests.

`python -m benchmarks.equal_tokens [TRIALS]`. The trials of policy gradients have a budget of
rollouts. Here they are paired with the trials of the same seeds that have a budget of tokens.
Prints the generated tokens of each method over all rounds, and a row per pair.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from eef.analysis.study import load_study, make_study
from eef.analysis.trial import Trial

POLICY_GRADIENTS = ("grpo", "gigpo", "eef+grpo", "eef-first+grpo")


def generated_tokens(trial: Trial) -> int:
    """What the student generated while it explored, over all rounds."""
    return sum(cost["explore"].generated_tokens for cost in trial.costs.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("trials", type=Path, nargs="?", default=Path("results/trials"))
    found = load_study([parser.parse_args().trials]).trials
    with_tokens = [trial for trial in found if trial.budget.unit == "tokens"]
    gradients = [
        replace(trial, budget=with_tokens[0].budget)
        for trial in found
        if trial.budget.unit == "rollouts" and trial.method in POLICY_GRADIENTS
    ]
    compared = [*with_tokens, *gradients]
    for method in dict.fromkeys(trial.method for trial in compared if trial.rounds):
        tokens = fmean(generated_tokens(trial) for trial in compared if trial.method == method)
        print(f"{method:15} {tokens:10,.0f} tokens")
    for pair in make_study(compared).aggregates["tokens"].pairs:
        if (pair.first in POLICY_GRADIENTS) == (pair.second in POLICY_GRADIENTS):
            continue
        low, high = (100 * end for end in pair.over_both.interval)
        seeds = pair.over_seeds
        p = f"{seeds.floor_p_value:.4f}" if seeds else "–"
        print(
            f"{pair.first} − {pair.second}: {100 * pair.over_tasks.mean:+.1f} "
            f"[{low:+.1f}, {high:+.1f}], p = {pair.p_value:.4f} over tasks, {p} over "
            f"{len(pair.seeds)} seeds"
        )


if __name__ == "__main__":
    main()
