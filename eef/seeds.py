"""Seeds: several runs of one recipe that differ in their seed alone → numbers of each method and of each pair.

One run says how a method did, not how far luck carried it. Behind `eef.pipeline`, beside `eef.report`, which speaks of
one run; read by `eef compare` and `eef results`. Two methods are compared in the seeds where both are finished; what is
missing is shown as missing (None).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from statistics import fmean, stdev
from typing import Any

from eef.evaluate import EvalResult
from eef.ledger import LEDGER_FILE, Cost, Ledger
from eef.pipeline import BC, EXPERT, Run, explorers
from eef.report.skills import SkillUse, measure_skills
from eef.stats import (
    Difference,
    McNemar,
    SeedEffects,
    difference_over_seeds,
    holm,
    mcnemar,
    pass_at_k,
    seed_effects,
    sign_flip_test,
)
from eef.store import read_trajectories
from eef.trajectory import TrajectorySet

RECORD_VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodOverSeeds:
    """A method after its last round: win rate and mean reward of each seed, None where that seed is not finished.

    `rounds` are its win rates by round and seed, `cost` the mean over seeds of all its stages, `skills` those of test
    episodes of the last round, by seed. `pass_at_k` is of training tasks, by rollouts from their start in the last
    round: (k, chance that one of k wins). `solved` and `newly_solved` count test tasks by difficulty.
    """

    name: str
    win_rates: tuple[float | None, ...]
    rewards: tuple[float | None, ...]
    rounds: Mapping[int, tuple[float | None, ...]]
    cost: Cost | None
    explored: Cost | None
    skills: Mapping[int, tuple[Mapping[str, SkillUse], ...]]
    pass_at_k: tuple[int, float] | None
    solved: Mapping[str, int]
    newly_solved: tuple[int | None, ...]

    @property
    def known(self) -> list[float]:
        return [rate for rate in self.win_rates if rate is not None]

    @property
    def mean(self) -> float | None:
        return fmean(self.known) if self.known else None

    @property
    def mean_reward(self) -> float | None:
        known = [value for value in self.rewards if value is not None]
        return fmean(known) if known else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the win rate over seeds; None for a single seed."""
        return stdev(self.known) if len(self.known) > 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PairOverSeeds:
    """Two methods on the same tasks in the `seeds` where both are finished; differences are first minus second.

    `p_value`: exact sign-flip test over tasks, all seeds of a task together (with one seed McNemar's test).
    `p_adjusted`: by Holm's correction for all pairs. `difference`: of win rates, bootstrap interval over tasks; `both`:
    over tasks
    and seeds. `effects`: the seed as a random effect. `by_seed`: McNemar's test of each.
    """

    first: str
    second: str
    seeds: tuple[int, ...]
    p_value: float
    p_adjusted: float
    difference: Difference
    both: Difference
    reward: Difference
    effects: SeedEffects | None
    by_seed: tuple[McNemar, ...]

    def to_record(self) -> dict[str, Any]:
        effects = self.effects
        return {
            "first": self.first, "second": self.second, "seeds": list(self.seeds),
            "difference": self.difference.mean, "interval": list(self.difference.interval),
            "interval_over_seeds": list(self.both.interval), "p": self.p_value, "p_adjusted": self.p_adjusted,
            "reward_difference": self.reward.mean, "reward_interval": list(self.reward.interval),
            "random_effect": {**effects._asdict(), "interval": list(effects.interval)} if effects else None,
            "by_seed": [test._asdict() for test in self.by_seed],
        }


@dataclass(frozen=True, slots=True)
class OverSeeds:
    """What several seeds say together; the student's methods are paired, the experts are not.

    `tasks` counts the test tasks of each difficulty; `never_solved` those that no method won in any seed or round.
    """

    seeds: tuple[int, ...]
    methods: tuple[MethodOverSeeds, ...]
    pairs: tuple[PairOverSeeds, ...]
    tasks: Mapping[str, int]
    never_solved: Mapping[str, int]

    def to_record(self) -> dict[str, Any]:
        return {
            "version": RECORD_VERSION,
            "seeds": list(self.seeds),
            "methods": [
                {**asdict(method), "mean": method.mean, "deviation": method.deviation} for method in self.methods
            ],
            "pairs": [pair.to_record() for pair in self.pairs],
            "tasks": dict(self.tasks),
            "never_solved": dict(self.never_solved),
        }


def gather_seeds(runs: Sequence[Run]) -> OverSeeds:
    """The numbers of runs, finished or not."""
    names = list(dict.fromkeys(name for run in runs for name in (EXPERT, BC, *explorers(run.recipe))))
    last = {name: [_last(run, name) for run in runs] for name in names}
    difficulty = _difficulty(last)
    seeds = tuple(run.recipe.seed for run in runs)
    won = _won_ever(runs, names)
    return OverSeeds(
        seeds,
        tuple(_method(runs, name, last, difficulty) for name in names),
        _pairs(names[1:], last, seeds),
        dict(Counter(difficulty.values())),
        dict(Counter(level for task, level in difficulty.items() if task not in won)),
    )


def _last(run: Run, method: str) -> EvalResult | None:
    return run.evaluation(method, 0 if method in (EXPERT, BC) else run.recipe.rounds)


def _difficulty(last: Mapping[str, Sequence[EvalResult | None]]) -> dict[str, str]:
    """Each test task as easy, medium or hard: won by all, some or none of the evaluations before any exploring (the
    expert's and behaviour cloning's, of all seeds)."""
    baselines = [result for name in (EXPERT, BC) for result in last[name] if result is not None]
    tasks = [outcome.task for result in baselines[:1] for outcome in result.outcomes]
    wins = Counter(task for result in baselines for task in result.wins)
    return {
        task: "hard" if not wins[task] else "easy" if wins[task] == len(baselines) else "medium" for task in tasks
    }


def _won_ever(runs: Sequence[Run], names: Sequence[str]) -> set[str]:
    results = (run.evaluation(name, round) for run in runs for name in names for round in range(run.recipe.rounds + 1))
    return {task for result in results if result is not None for task in result.wins}


def _method(
    runs: Sequence[Run], name: str, last: Mapping[str, Sequence[EvalResult | None]], difficulty: Mapping[str, str]
) -> MethodOverSeeds:
    results = last[name]
    most = max(run.recipe.rounds for run in runs)
    numbers = (0,) if name in (EXPERT, BC) else tuple(range(1, most + 1))
    by_round = {number: [run.evaluation(name, number) for run in runs] for number in numbers}
    wins = {task for result in results if result for task in result.wins}
    return MethodOverSeeds(
        name=name,
        win_rates=tuple(result.success_rate if result else None for result in results),
        rewards=tuple(result.mean_reward if result else None for result in results),
        rounds={
            number: tuple(each.success_rate if each else None for each in found) for number, found in by_round.items()
        },
        cost=_mean_cost(runs, name, None),
        explored=_mean_cost(runs, name, "explore"),
        skills={
            number: tuple(_skills(run, name, number) for run in runs if run.evaluation(name, number))
            for number in numbers
        },
        pass_at_k=_pass_at_k(runs, name),
        solved=dict(Counter(difficulty[task] for task in wins if task in difficulty)),
        newly_solved=tuple(
            len([task for task in result.wins if difficulty.get(task) == "hard"]) if result else None
            for result in results
        ),
    )


def _skills(run: Run, method: str, round: int) -> Mapping[str, SkillUse]:
    folder = run.directory / method / f"round{round}" / "evaluation"
    return measure_skills(read_trajectories(folder), run.recipe.env.name)


def _mean_cost(runs: Sequence[Run], method: str, kind: str | None) -> Cost | None:
    """The mean over seeds of a method's stages (of a kind) so far; None where there is none."""
    paths = [path for run in runs if (path := run.directory / method / LEDGER_FILE).is_file()]
    totals = [
        sum((cost for stage, cost in Ledger(path).entries.items() if kind in (None, stage.stage)), Cost())
        for path in paths
    ]
    if not totals:
        return None
    total = asdict(sum(totals, Cost()))
    return Cost(**{
        name: value / len(totals) if name == "seconds" else round(value / len(totals)) for name, value in total.items()
    })


def _pass_at_k(runs: Sequence[Run], method: str) -> tuple[int, float] | None:
    """(k, mean pass@k over training tasks and seeds), k the rollouts from the start that every task has."""
    counts: list[tuple[int, int]] = []
    for run in runs:
        if method not in (EXPERT, BC) and run.evaluation(method, run.recipe.rounds):
            counts += _from_start(run.trajectories(method), run.recipe.rounds)
    k = min((played for _, played in counts), default=0)
    return (k, fmean(pass_at_k(wins, played, k) for wins, played in counts)) if k else None


def _from_start(trajectories: TrajectorySet, round: int) -> list[tuple[int, int]]:
    """(wins, rollouts) from the start of each task in a round."""
    counts: dict[str, tuple[int, int]] = {}
    for item in trajectories:
        if item.round == round and item.start is None and item.status != "error":
            wins, played = counts.get(item.task, (0, 0))
            counts[item.task] = (wins + item.success, played + 1)
    return list(counts.values())


def _pairs(
    names: Sequence[str], last: Mapping[str, Sequence[EvalResult | None]], seeds: Sequence[int]
) -> tuple[PairOverSeeds, ...]:
    """All pairs that have a seed in common, the later method in the order first; Holm over all of them."""
    found = []
    for earlier, later in combinations(names, 2):
        both = [
            (seed, one, other) for seed, one, other in zip(seeds, last[later], last[earlier], strict=True)
            if one is not None and other is not None
        ]
        if both:
            found.append((later, earlier, both))
    tests = [sign_flip_test(*_tables(both, "success")) for _, _, both in found]
    return tuple(
        _pair(first, second, both, p_value, adjusted)
        for (first, second, both), p_value, adjusted in zip(found, tests, holm(tests), strict=True)
    )


Both = Sequence[tuple[int, EvalResult, EvalResult]]


def _pair(first: str, second: str, both: Both, p_value: float, adjusted: float) -> PairOverSeeds:
    wins = _tables(both, "success")
    return PairOverSeeds(
        first=first, second=second, seeds=tuple(seed for seed, _, _ in both), p_value=p_value, p_adjusted=adjusted,
        difference=difference_over_seeds(*wins), both=difference_over_seeds(*wins, over="both"),
        reward=difference_over_seeds(*_tables(both, "reward")), effects=seed_effects(*wins),
        by_seed=tuple(
            mcnemar([win > 0 for win in one], [win > 0 for win in other]) for one, other in zip(*wins, strict=True)
        ),
    )


def _tables(both: Both, field: str) -> tuple[list[list[float]], list[list[float]]]:
    """A field of the outcomes, [seeds, tasks] of the first and of the second; all play the same tasks in one order."""
    return (
        [[float(getattr(outcome, field)) for outcome in one.outcomes] for _, one, _ in both],
        [[float(getattr(outcome, field)) for outcome in other.outcomes] for _, _, other in both],
    )
