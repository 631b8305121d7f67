"""Survey: many settings of the laboratory, each with several seeds, and what was measured before.

`python -m benchmarks.laboratory.survey NAME` runs one part and writes
`results/laboratory/NAME.json`: one row per setting with its values, the potential measured before
any method trained (means over seeds, and with the first seed alone, as a user measures it), and the
win rates of the methods by seed.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.laboratory.trial import METHODS, Explorer, Outcome, Start, run_trial
from benchmarks.laboratory.world import Setting
from eef.analysis.potential import Potential, measure_potential
from eef.methods.registry import make_method
from eef.trajectory import TrajectorySet

RESULTS = Path(__file__).parents[2] / "results" / "laboratory"
MAIN = ("rft6", "cap1", "eef")

SHOP = Setting(
    tasks=120,
    length=5,
    needs=0.6,
    rare=0.003,
    rare_skills=4,
    spread=2.5,
    expert_before=0.12,
    expert_after=0.3,
    rate=0.03,
)
"""A setting that resembles the demo's shop: see `docs/when.md` for the comparison."""

CARELESS = replace(SHOP, expert_before=0.05, expert_after=0.85)
"""The same with an expert that is careless once it has shown a rare skill."""


def random_setting(generator: random.Random) -> Setting:
    """A setting drawn from a wide range of all axes."""

    def log(low: float, high: float) -> float:
        return round(low * (high / low) ** generator.random(), 4)

    def shares() -> tuple[float, float, float]:
        drawn = [generator.expovariate(1.0) for _ in range(3)]
        one, other, third = (each / sum(drawn) for each in drawn)
        return one, other, third

    length = generator.randint(3, 12)
    rare_per_task = generator.choice((1, 1, 2) if length < 6 else (1, 2, 3))
    return Setting(
        tasks=generator.choice((40, 80, 120)),
        length=length,
        slack=generator.randint(2, 8),
        styles=generator.choice((1, 3, 8)),
        needs=round(generator.uniform(0.1, 0.9), 2),
        rare_per_task=rare_per_task,
        rare_skills=round(log(1, 30)),
        common_skills=generator.choice((2, 4, 8)),
        rare=log(0.0005, 0.1),
        common=round(generator.uniform(0.7, 0.97), 3),
        undo=round(generator.uniform(0.05, 0.8), 2),
        spread=round(generator.uniform(0.5, 2.0), 2),
        errors=shares(),
        expert_before=log(0.01, 0.3),
        expert_rare=log(0.02, 0.8),
        expert_after=log(0.02, 0.95),
        expert_errors=shares(),
        expert_undo=round(generator.uniform(0.1, 0.95), 2),
        rate=log(0.02, 0.1),
    )


def measure(start: Start) -> tuple[Potential, dict[str, float]]:
    """(potential, known counts) before any method trains: round 1 of RFT×6 and of EEF.

    The known counts use the world's structure, which a user does not have: `known_taught`, the
    tasks with rare decisions that the expert wins, and `known_shown`, those it loses although it
    acts right at all rare decisions.
    """
    sets = []
    for name in ("rft6", "eef"):
        trajectories = TrajectorySet(start.expert)
        explorer = Explorer(start.world, trajectories)
        explorer.explore(make_method(name), start.tasks, 1, start.student, None)
        sets.append(trajectories)
    taught = shown = 0
    for index, episode in enumerate(start.expert):
        rare = start.world.rare_decisions(index)
        right = {step.observation for step in episode.steps if step.action.startswith("right")}
        if rare and all(str(decision) in right for decision in rare):
            taught, shown = taught + episode.success, shown + (not episode.success)
    known = {"known_taught": float(taught), "known_shown": float(shown)}
    return measure_potential(*sets, start.tasks), known


def survey(
    settings: Iterable[Setting],
    seeds: Sequence[int],
    methods: Sequence[str] = MAIN,
    *,
    labels: bool = False,
    tokens: bool = False,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """One row per setting. With `tokens`, a round has the steps that RFT×6 takes in one."""
    rows = []
    for setting in settings:
        found: dict[str, list[Outcome]] = {name: [] for name in methods}
        measured, students = [], []
        for seed in seeds:
            start = Start.make(setting, seed)
            potential, known = measure(start)
            measured.append({**asdict(potential), **known})
            students.append(start.student.win_rate())
            budget = run_trial(start, "rft6").steps // setting.rounds if tokens else None
            for name in methods:
                outcome = run_trial(
                    start,
                    name,
                    steps_per_round=budget,
                    options=(options or {}).get(name),
                    measure_labels=labels,
                )
                found[name].append(outcome)
        rows.append(
            {
                "setting": asdict(setting),
                "measured": {
                    name: round(fmean(each[name] for each in measured), 4) for name in measured[0]
                },
                "measured_once": {name: round(value, 4) for name, value in measured[0].items()},
                "cloned": round(fmean(students), 4),
                "win_rates": {name: [o.win_rate for o in each] for name, each in found.items()},
                "unsolved": {
                    name: round(fmean(o.unsolved for o in each), 2) for name, each in found.items()
                },
                "only": only_solved(found),
                **({"labels": label_counts(found)} if labels else {}),
            }
        )
    return rows


def only_solved(found: Mapping[str, Sequence[Outcome]]) -> list[float]:
    """Test tasks that EEF wins and the control does not, and the reverse, mean over seeds."""
    if not {"eef", "cap1"} <= {*found}:
        return []
    pairs = [(one.won, other.won) for one, other in zip(found["eef"], found["cap1"], strict=True)]
    return [
        fmean(float((one & ~other).mean()) for one, other in pairs),
        fmean(float((other & ~one).mean()) for one, other in pairs),
    ]


def label_counts(found: Mapping[str, Sequence[Outcome]]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for name, outcomes in found.items():
        total: dict[str, int] = {}
        for outcome in outcomes:
            for key, count in outcome.labels.items():
                total[key] = total.get(key, 0) + count
        counts[name] = total
    return counts


def grid(base: Setting, **axes: Sequence[Any]) -> list[Setting]:
    """All combinations of values of some fields, the first field outermost."""
    return [
        replace(base, **dict(zip(axes, values, strict=True))) for values in product(*axes.values())
    ]


def parts() -> dict[str, Any]:
    """The parts of the survey by name, each a function without arguments that returns rows."""
    train, held = random.Random("train"), random.Random("held out")
    three, four = range(3), range(4)
    return {
        "sample": lambda: survey([random_setting(train) for _ in range(240)], four),
        "held-out": lambda: survey([random_setting(held) for _ in range(160)], four),
        "tokens": lambda: survey(
            [random_setting(random.Random(f"tokens {i}")) for i in range(60)],
            three,
            tokens=True,
        ),
        "dose-sharing": lambda: survey(
            grid(
                replace(SHOP, expert_before=0.05),
                rare_skills=(1, 2, 4, 8, 16, 32),
                expert_after=(0.05, 0.3, 0.6, 0.85, 0.95),
            ),
            four,
        ),
        "rare-needs": lambda: survey(
            grid(CARELESS, rare=(0.001, 0.01, 0.05, 0.2), needs=(0.1, 0.3, 0.6, 0.9)), four
        ),
        "behind-before": lambda: survey(
            grid(CARELESS, common=(0.6, 0.75, 0.85, 0.95), expert_before=(0.02, 0.1, 0.2, 0.4)),
            four,
        ),
        "length-M": lambda: survey(
            grid(CARELESS, length=(3, 6, 12, 20)), range(6), ("cap1", "M1", "M2", "eef", "M8")
        ),
        "budget": lambda: survey(
            grid(CARELESS, rollouts=(2, 4, 6, 12), rounds=(1, 3, 6)), four, ("cap1", "eef")
        ),
        "parts": lambda: survey(
            [
                SHOP,
                CARELESS,
                replace(CARELESS, errors=(0.1, 0.1, 0.8)),
                replace(CARELESS, errors=(0.1, 0.8, 0.1), undo=0.15),
                replace(CARELESS, expert_errors=(0.6, 0.2, 0.2), slack=2),
                replace(CARELESS, length=12),
            ],
            range(8),
            tuple(name for name in METHODS if name not in ("M1", "M2", "M8")),
            labels=True,
        ),
        "labels": lambda: survey(
            [SHOP, CARELESS, replace(CARELESS, label_flips=0.1), replace(CARELESS, rare=0.05)],
            range(8),
            (
                *("cap1", "eef", "pooled", "smoothed", "smoothed-all"),
                *("stop-solved", "stop-hopeless", "stop-either"),
            ),
            labels=True,
        ),
        "noise": lambda: survey(
            grid(CARELESS, label_flips=(0.0, 0.05, 0.1, 0.2)),
            range(6),
            ("cap1", "eef", "n2", "n3", "pooled"),
            labels=True,
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", nargs="*", default=[*parts()], help=", ".join(parts()))
    for name in parser.parse_args().part:
        began = time.monotonic()
        rows = parts()[name]()
        RESULTS.mkdir(parents=True, exist_ok=True)
        text = "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"
        (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")
        trials = sum(len(each) for row in rows for each in row["win_rates"].values())
        print(f"{name}: {len(rows)} settings, {trials} trials, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
