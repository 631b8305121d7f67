"""Aggregate: trials of several methods and seeds → numbers per method and per pair of methods.

One seed does not show how much of a result is luck. Two methods are compared on the seeds for which
both are finished. What has not been measured is None.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from statistics import fmean, stdev
from typing import Any, NamedTuple

from eef.analysis.asked import NO_MODELS, AskedModels, completions_per_turn
from eef.analysis.behaviors import BehaviorUse
from eef.analysis.label_noise import FalseRates, LabelNoise
from eef.analysis.stats import (
    Difference,
    McNemar,
    SeedTest,
    difference_over_seeds,
    holm,
    mcnemar,
    pass_at_k,
    sign_flip_test,
    t_test_over_seeds,
)
from eef.analysis.trial import Scores, Trial
from eef.errors import ConfigError
from eef.methods.labels import LabelRule
from eef.methods.registry import make_method
from eef.note import RoleUsage
from eef.pipeline.ledger import COUNTS, Cost
from eef.pipeline.stages import BC, EXPERT

RECORD_VERSION = 6


BY_STUDENT = ("student-win", "student-failure", "refined")
"""Reasons of trained steps that the student's rollouts have played."""


class TrainedSteps(NamedTuple):
    """Trained actions by origin, mean over seeds.

    `student` are actions of the student's rollouts, `prefix` those of the trajectories they
    branched from; of these, `beneficial` and `neutral` are parts. None if no action has that label.
    """

    student: float
    prefix: float
    beneficial: float | None
    neutral: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodAggregate:
    """The results of a method after its last round, over all seeds.

    `win_rates` and `rewards` have one entry per seed, None if that trial is not finished. `rounds`
    are win rates by round, then by seed. `cost` is the mean over seeds of all stages; `explored`
    the mean cost of exploration up to each round. `behaviors` are those of test episodes by round,
    then by seed. `pass_at_k` is (k, chance that at least one of k rollouts wins), over rollouts
    from the start of training tasks in the last round. `selected` counts what the last round trains
    on, mean over seeds; `passes` is how often its training went through its examples (None if it
    trained on pairs). `solved` counts test tasks won after the last round by difficulty, mean over
    seeds; `newly_solved` counts, per seed, those won by neither the expert nor behavior cloning.

    `algorithm` is the method that a variant configures, `options` are all options, and `changes`
    are those that differ from the options of `algorithm`. `repeats` is the name of a method that
    plays and trains the same by construction (see `_repeats`); such a variant is not a measurement
    of its own and has no pairs.

    `asked` are the models beside the student, `completions_per_turn` those of all models in the
    last evaluation, and `rates_by_attempt` the shares of test tasks won within 1, 2, … attempts
    (empty if each was tried once); all are means over the finished seeds.
    """

    name: str
    algorithm: str
    options: Mapping[str, Any]
    changes: Mapping[str, Any]
    win_rates: tuple[float | None, ...]
    rewards: tuple[float | None, ...]
    rounds: Mapping[int, tuple[float | None, ...]]
    cost: Cost | None
    explored: Mapping[int, Cost]
    behaviors: Mapping[int, tuple[Mapping[str, BehaviorUse], ...]]
    pass_at_k: tuple[int, float] | None
    selected: Mapping[str, float]
    solved: Mapping[str, float]
    newly_solved: tuple[int | None, ...]
    label_noise: tuple[LabelNoise, ...]
    passes: float | None = None
    repeats: str | None = None
    asked: AskedModels = NO_MODELS
    completions_per_turn: float | None = None
    rates_by_attempt: tuple[float, ...] = ()

    @property
    def is_variant(self) -> bool:
        """Whether it is another method with changed options.

        A method with other experts counts as a method of its own, and so does the control.
        """
        return bool(self.changes) and "experts" not in self.changes and not self.is_control

    @property
    def is_control(self) -> bool:
        """Whether it is rejection sampling that keeps one win per task and changes nothing else.

        EEF keeps one solution per task as well. Only what it adds to this control comes from the
        experts' failures.
        """
        return dict(self.changes) == {"cap": 1}

    @property
    def known(self) -> list[float]:
        """The win rates of the finished seeds."""
        return [rate for rate in self.win_rates if rate is not None]

    @property
    def mean(self) -> float | None:
        """Mean win rate over the finished seeds."""
        return fmean(self.known) if self.known else None

    @property
    def mean_reward(self) -> float | None:
        known = [value for value in self.rewards if value is not None]
        return fmean(known) if known else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the win rate over seeds; None for fewer than two seeds."""
        return stdev(self.known) if len(self.known) > 1 else None

    @property
    def exploration(self) -> Cost | None:
        """Mean cost of exploration in all rounds; None if no seed has finished them."""
        return self.explored.get(max(self.rounds))

    @property
    def trained_steps(self) -> TrainedSteps | None:
        """The actions trained in the last round; None without examples."""
        if not self.selected.get("examples"):
            return None
        steps = {
            name.removeprefix("steps."): count
            for name, count in self.selected.items()
            if name.startswith("steps.")
        }
        student = sum(steps.pop(name, 0) for name in BY_STUDENT)
        return TrainedSteps(
            student, sum(steps.values()), steps.get("beneficial"), steps.get("neutral")
        )

    def noise_sizes(self, sizes: Sequence[int]) -> list[int]:
        """Those of some numbers of rollouts that the measurements of label noise have drawn from
        every state."""
        least = min(state.rollouts for noise in self.label_noise for state in noise.states)
        return [size for size in sizes if size <= least]

    def mean_behavior(self, round: int, part: str, name: str) -> float | None:
        """Times a behavior occurs per "won" or "lost" test episode of a round, mean over seeds."""
        known = [
            mean
            for use in self.behaviors[round]
            if use and (mean := use[part].means[name]) is not None
        ]
        return fmean(known) if known else None

    def final_behavior(self, name: str) -> float | None:
        """Times a behavior occurs per test episode after the last round, mean over seeds."""
        known = [
            sum(part.episodes * (part.means[name] or 0.0) for part in use.values())
            / max(1, sum(part.episodes for part in use.values()))
            for use in self.behaviors.get(max(self.behaviors, default=0), ())
            if use
        ]
        return fmean(known) if known else None

    def false_rates(self, n: int, rule: LabelRule) -> FalseRates:
        """Shares of false labels with `n` rollouts per state, mean over the measured seeds."""
        rates = [noise.false_rates(n, rule) for noise in self.label_noise]
        segments, beneficial, harmful = (
            fmean(known)
            if (known := [value for rate in rates if (value := getattr(rate, part)) is not None])
            else None
            for part in ("segments", "beneficial", "harmful")
        )
        return FalseRates(fmean(rate.states for rate in rates), segments, beneficial, harmful)

    def to_record(self) -> dict[str, Any]:
        return {**asdict(self), "mean": self.mean, "deviation": self.deviation}


@dataclass(frozen=True, slots=True, kw_only=True)
class PairAggregate:
    """Two methods compared on the `seeds` for which both are finished, on the same tasks.

    Differences are first minus second. `p_value` is the exact sign-flip test over tasks, all seeds
    of a task together (for one seed, McNemar's test); `p_adjusted` applies Holm's correction within
    the pair's family: two methods, a variant and its method, or any other pair. `over_tasks` and
    `over_both` are the difference of win rates with a bootstrap interval over tasks, and over tasks
    and seeds; `reward` is the difference of mean rewards, over both. `over_seeds` is the t test on
    the seeds' win rates, `reward_over_seeds` the one on their mean rewards. `by_seed` is McNemar's
    test of each seed. `first_alone` counts tasks that the first method won after its last round in
    any seed, and the second in no round of any seed; `second_alone` is the reverse.
    """

    first: str
    second: str
    seeds: tuple[int, ...]
    p_value: float
    p_adjusted: float
    over_tasks: Difference
    over_both: Difference
    reward: Difference
    over_seeds: SeedTest | None
    reward_over_seeds: SeedTest | None
    by_seed: tuple[McNemar, ...]
    first_alone: int
    second_alone: int

    @property
    def name(self) -> str:
        """`eef_vs_rft6`"""
        return f"{self.first}_vs_{self.second}"

    def to_record(self) -> dict[str, Any]:
        return {
            "first": self.first,
            "second": self.second,
            "seeds": list(self.seeds),
            "difference": self.over_tasks.mean,
            "interval": list(self.over_tasks.interval),
            "interval_over_seeds": list(self.over_both.interval),
            "p": self.p_value,
            "p_adjusted": self.p_adjusted,
            "reward_difference": self.reward.mean,
            "reward_interval_over_seeds": list(self.reward.interval),
            "t_test_over_seeds": _test_record(self.over_seeds),
            "reward_t_test_over_seeds": _test_record(self.reward_over_seeds),
            "by_seed": [test._asdict() for test in self.by_seed],
            "first_alone": self.first_alone,
            "second_alone": self.second_alone,
        }


def _test_record(test: SeedTest | None) -> dict[str, Any] | None:
    return {**test._asdict(), "interval": list(test.interval)} if test else None


@dataclass(frozen=True, slots=True)
class Aggregate:
    """The trials of several seeds together. The student's methods are paired, the experts are not.

    `tasks` counts the test tasks of each difficulty, `never_solved` those that no method won in any
    round of any seed.
    """

    seeds: tuple[int, ...]
    methods: tuple[MethodAggregate, ...]
    pairs: tuple[PairAggregate, ...]
    tasks: Mapping[str, int]
    never_solved: Mapping[str, int]

    def rates_in(self, item: MethodAggregate, seeds: Collection[int]) -> list[float]:
        """A method's win rates in some of the seeds, without those that are not finished."""
        return [
            rate
            for seed, rate in zip(self.seeds, item.win_rates, strict=True)
            if seed in seeds and rate is not None
        ]

    def mean_in(self, item: MethodAggregate, seeds: Collection[int]) -> float | None:
        """A method's mean win rate over some of the seeds; None if none of them is finished."""
        rates = self.rates_in(item, seeds)
        return fmean(rates) if rates else None

    @property
    def variants(self) -> list[MethodAggregate]:
        return [item for item in self.methods if item.is_variant]

    @property
    def behavior_names(self) -> list[str]:
        """The names of all counted behaviors."""
        uses = (use for item in self.methods for each in item.behaviors.values() for use in each)
        return list(dict.fromkeys(name for use in uses if use for name in use["won"].means))

    @property
    def control(self) -> MethodAggregate | None:
        """The control: rejection sampling that keeps one win per task. None if it was not run."""
        return next((item for item in self.methods if item.is_control and item.known), None)

    def headline_pairs(self) -> list[tuple[MethodAggregate, MethodAggregate, PairAggregate]]:
        """(subject, rival, their pair): `eef`, or the best method, and the best other algorithm.

        If the rival has a control, or is one, its pair follows. Empty if no two methods have a
        finished seed in common.
        """
        known = sorted(
            (
                item
                for item in self.methods
                if item.mean is not None and item.name not in (EXPERT, BC) and not item.is_variant
            ),
            key=lambda item: (item.is_control, -(item.mean or 0.0)),
        )
        subject = next((item for item in known if item.name == "eef"), next(iter(known), None))
        if subject is None:
            return []
        others = [item for item in known if item.algorithm != subject.algorithm]
        rivals = [item for item in others if item.algorithm == others[0].algorithm]
        pairs = ((rival, self.pair(subject.name, rival.name)) for rival in rivals)
        return [(subject, rival, pair) for rival, pair in pairs if pair]

    def pair(self, one: str, other: str) -> PairAggregate | None:
        """The pair of two methods in either order; None if they have no finished seed in common."""
        return next(
            (each for each in self.pairs if {each.first, each.second} == {one, other}), None
        )

    def to_record(self) -> dict[str, Any]:
        return {
            "version": RECORD_VERSION,
            "seeds": list(self.seeds),
            "methods": [method.to_record() for method in self.methods],
            "pairs": [pair.to_record() for pair in self.pairs],
            "tasks": dict(self.tasks),
            "never_solved": dict(self.never_solved),
        }


class _TrialGrid:
    """Trials by method and seed; some may be missing."""

    def __init__(self, trials: Iterable[Trial]) -> None:
        self.trials = {(trial.method, trial.seed): trial for trial in trials}
        order = {trial.method: (trial.order, trial.method) for trial in self.trials.values()}
        self.methods = sorted(order, key=order.__getitem__)
        self.seeds = tuple(sorted({seed for _, seed in self.trials}))

    def row(self, method: str) -> list[Trial | None]:
        """A method's trials, one per seed."""
        return [self.trials.get((method, seed)) for seed in self.seeds]

    def known(self, method: str) -> list[Trial]:
        return [trial for trial in self.row(method) if trial is not None]

    @cached_property
    def difficulty(self) -> dict[str, str]:
        """Each test task as "easy", "medium" or "hard".

        An easy task is won in more than two thirds of the evaluations before exploration (those of
        the expert and of behavior cloning, of all seeds); a hard one in less than a third.
        """
        baselines = [
            trial for name in (EXPERT, BC) for trial in self.known(name) if trial.final_scores
        ]
        wins = Counter(task for trial in baselines for task in trial.wins(0))
        return {
            task: "hard"
            if 3 * wins[task] < len(baselines)
            else "easy"
            if 3 * wins[task] > 2 * len(baselines)
            else "medium"
            for trial in baselines[:1]
            for task in trial.tasks
        }

    def newly_solved(self, trial: Trial) -> int | None:
        """Number of test tasks won after the last round, and by neither baseline of the same seed.

        None if the trial or a baseline (the expert, behavior cloning) is not finished.
        """
        baselines = [self.trials.get((name, trial.seed)) for name in (EXPERT, BC)]
        before = [each.wins(0) for each in baselines if each is not None and each.final_scores]
        return (
            len(trial.wins(trial.last_round).difference(*before))
            if trial.final_scores and len(before) == 2
            else None
        )


def aggregate_trials(trials: Iterable[Trial]) -> Aggregate:
    """The aggregate of trials of one study at one budget, finished or not."""
    grid = _TrialGrid(trials)
    ever = _ever_won(grid.trials.values())
    methods = tuple(_aggregate_method(grid, name) for name in grid.methods)
    return Aggregate(
        grid.seeds,
        methods,
        _aggregate_pairs(grid, methods),
        dict(Counter(grid.difficulty.values())),
        dict(Counter(level for task, level in grid.difficulty.items() if task not in ever)),
    )


def _ever_won(trials: Iterable[Trial]) -> set[str]:
    """Tasks won in any round."""
    return {task for trial in trials for round in trial.scores for task in trial.wins(round)}


def _finally_won(trials: Iterable[Trial]) -> set[str]:
    """Tasks won after the last round."""
    return {
        task for trial in trials if trial.final_scores for task in trial.wins(max(trial.scores))
    }


def _aggregate_method(grid: _TrialGrid, name: str) -> MethodAggregate:
    row, known = grid.row(name), grid.known(name)
    rounds = tuple(range(1, max(trial.rounds for trial in known) + 1)) or (0,)
    final = [trial.final_scores if trial else None for trial in row]
    finished = [trial for trial in known if trial.final_scores]
    exploring = "collect" if name == EXPERT else "explore"
    return MethodAggregate(
        name=name,
        algorithm=known[0].algorithm,
        options=known[0].options,
        changes=_changes(grid, known[0]),
        win_rates=tuple(_win_rate(scores) for scores in final),
        rewards=tuple(fmean(scores.rewards) if scores else None for scores in final),
        rounds={
            round: tuple(_win_rate(trial.scores.get(round)) if trial else None for trial in row)
            for round in rounds
        },
        cost=_mean_cost([trial.cost_of() for trial in finished]) if finished else None,
        explored={
            round: _mean_cost(
                [trial.cost_of(exploring, round) for trial in known if round in trial.scores]
            )
            for round in rounds
            if any(round in trial.scores for trial in known)
        },
        behaviors={
            round: tuple(trial.behaviors[round] for trial in known if round in trial.behaviors)
            for round in rounds
        },
        pass_at_k=_pass_at_k(known),
        selected=_mean_counts(
            [counts for trial in known if (counts := trial.selected.get(trial.last_round))]
        ),
        solved=_mean_counts(
            [
                Counter(level for task, level in grid.difficulty.items() if task in won)
                for won in (_finally_won([trial]) for trial in finished)
            ]
        ),
        newly_solved=tuple(grid.newly_solved(trial) if trial else None for trial in row),
        label_noise=tuple(trial.label_noise for trial in known if trial.label_noise),
        passes=_mean_passes(finished),
        repeats=_repeats(grid, known[0]),
        asked=known[0].asked,
        completions_per_turn=completions_per_turn(
            _mean_cost(
                [
                    trial.costs.get(trial.last_round, {}).get("evaluate", Cost())
                    for trial in finished
                ]
            )
            if finished
            else None
        ),
        rates_by_attempt=_rates_by_attempt(finished),
    )


def _rates_by_attempt(trials: Sequence[Trial]) -> tuple[float, ...]:
    """The share of test tasks won within 1, 2, … attempts; further ones may change nothing."""
    counts = [
        (trial.wins_by_attempt, len(trial.tasks)) for trial in trials if trial.wins_by_attempt
    ]
    most = max((len(wins) for wins, _ in counts), default=0)
    return tuple(
        fmean(wins[min(attempt, len(wins) - 1)] / tasks for wins, tasks in counts)
        for attempt in range(most)
    )


def _win_rate(scores: Scores | None) -> float | None:
    return fmean(scores.won) if scores else None


def _changes(grid: _TrialGrid, trial: Trial) -> dict[str, Any]:
    """The options of a variant that differ from its method's.

    A method without a trial has its default options. An override that the method has and the
    variant lacks is None.
    """
    if trial.method == trial.algorithm:
        return {}
    method = next(iter(grid.known(trial.algorithm)), None)
    options = method.options if method else _default_options(trial.algorithm)
    return {
        key: trial.options.get(key)
        for key in {**options, **trial.options}
        if options.get(key) != trial.options.get(key)
    }


def _default_options(algorithm: str) -> dict[str, Any]:
    try:
        return make_method(algorithm).options.model_dump(mode="json")
    except ConfigError:  # a method of a package that is not installed
        return {}


def _repeats(grid: _TrialGrid, trial: Trial) -> str | None:
    """The control, if a trial is that of `eef` with M = 0: both play and train the same.

    With M = 0, `eef` plans only the task's start and has no segment and no recovery state. It then
    trains on one win per task, the student's own first, then the shortest, as `cap = 1` does.
    """
    if trial.algorithm != "eef" or trial.options.get("M") != 0:
        return None
    others = (next(iter(grid.known(name))) for name in grid.methods)
    return next(
        (
            each.method
            for each in others
            if each.options.get("cap") == 1 and _wins_alike(grid, trial.method, each.method)
        ),
        None,
    )


def _wins_alike(grid: _TrialGrid, one: str, other: str) -> bool:
    """Whether two methods win the same tasks in every round of every seed they share."""
    shared = [
        (first.scores, second.scores)
        for first, second in zip(grid.row(one), grid.row(other), strict=True)
        if first and second
    ]
    return bool(shared) and all(
        first[round].won == second[round].won
        for first, second in shared
        for round in first.keys() & second.keys()
    )


def _mean_passes(trials: Sequence[Trial]) -> float | None:
    """How often the last round's training went through its examples, mean over seeds."""
    passes = [
        cost.updates * _batch_size(trial) / examples
        for trial in trials
        if (counts := trial.selected.get(trial.last_round))
        and (examples := counts.get("examples"))
        and not counts.get("pairs")
        and (cost := trial.costs.get(trial.last_round, {}).get("train"))
        and "train.batch_size" in trial.settings
    ]
    return fmean(passes) if passes else None


def _batch_size(trial: Trial) -> int:
    own = trial.options.get("overrides.train.batch_size")
    return int(trial.settings["train.batch_size"] if own is None else own)


def _mean_cost(costs: Sequence[Cost]) -> Cost:
    total, number = sum(costs, Cost()), len(costs)
    counts = {name: getattr(total, name) / number for name in COUNTS}
    means = {name: value if name == "seconds" else round(value) for name, value in counts.items()}
    roles = tuple(
        RoleUsage(
            **{
                name: value if name == "role" else round(value / number)
                for name, value in asdict(usage).items()
            }
        )
        for usage in total.roles
    )
    return Cost(**means, roles=roles)


def _mean_counts(counts: Sequence[Mapping[str, int]]) -> dict[str, float]:
    names = dict.fromkeys(name for each in counts for name in each)
    return {name: fmean(each.get(name, 0) for each in counts) for name in names}


def _pass_at_k(trials: Sequence[Trial]) -> tuple[int, float] | None:
    """(k, mean pass@k over training tasks and seeds); k is the fewest rollouts of any task."""
    counts = [count for trial in trials for count in trial.starts]
    k = min((played for _, played in counts), default=0)
    return (k, fmean(pass_at_k(wins, played, k) for wins, played in counts)) if k else None


TrialPairs = Sequence[tuple[Trial, Trial]]
"""The finished trials of two methods, paired by seed."""


def _aggregate_pairs(
    grid: _TrialGrid, methods: Sequence[MethodAggregate]
) -> tuple[PairAggregate, ...]:
    """All pairs of the student's methods with a seed in common; the later method comes first."""
    found, families = [], []
    measured = [item for item in methods if item.name != EXPERT and item.repeats is None]
    for earlier, later in combinations(measured, 2):
        paired = [
            (one, other)
            for one, other in zip(grid.row(later.name), grid.row(earlier.name), strict=True)
            if one and other and one.final_scores and other.final_scores
        ]
        if paired:
            found.append((later.name, earlier.name, paired))
            families.append(_family(later, earlier))
    tests = [sign_flip_test(*_tables(paired, "won")) for _, _, paired in found]
    adjusted = _holm_by_family(tests, families)
    return tuple(
        _aggregate_pair(*pair, p_value, corrected)
        for pair, p_value, corrected in zip(found, tests, adjusted, strict=True)
    )


def _family(first: MethodAggregate, second: MethodAggregate) -> str:
    """The family of hypotheses that a pair is tested and corrected with."""
    variants = [item for item in (first, second) if item.is_variant]
    if not variants:
        return "methods"
    with_its_method = len(variants) == 1 and {first.name, second.name} == {
        variants[0].name,
        variants[0].algorithm,
    }
    return "variants" if with_its_method else "rest"


def _holm_by_family(p_values: Sequence[float], families: Sequence[str]) -> list[float]:
    adjusted = list(p_values)
    for family in set(families):
        indices = [index for index, name in enumerate(families) if name == family]
        corrected = holm([p_values[index] for index in indices])
        for index, value in zip(indices, corrected, strict=True):
            adjusted[index] = value
    return adjusted


def _aggregate_pair(
    first: str, second: str, paired: TrialPairs, p_value: float, p_adjusted: float
) -> PairAggregate:
    wins = _tables(paired, "won")
    ones, others = zip(*paired, strict=True)
    return PairAggregate(
        first=first,
        second=second,
        seeds=tuple(one.seed for one, _ in paired),
        p_value=p_value,
        p_adjusted=p_adjusted,
        over_tasks=difference_over_seeds(*wins),
        over_both=difference_over_seeds(*wins, over="both"),
        reward=difference_over_seeds(*_tables(paired, "rewards"), over="both"),
        over_seeds=t_test_over_seeds(*wins),
        reward_over_seeds=t_test_over_seeds(*_tables(paired, "rewards")),
        by_seed=tuple(
            mcnemar([win > 0 for win in one], [win > 0 for win in other])
            for one, other in zip(*wins, strict=True)
        ),
        first_alone=len(_finally_won(ones) - _ever_won(others)),
        second_alone=len(_finally_won(others) - _ever_won(ones)),
    )


def _tables(paired: TrialPairs, field: str) -> tuple[list[list[float]], list[list[float]]]:
    """A field of the final scores, [seeds, tasks] of the first and of the second method.

    All trials of a study have the same tasks in the same order.
    """
    one, other = (
        [[float(value) for value in getattr(pair[side].final_scores, field)] for pair in paired]
        for side in (0, 1)
    )
    return one, other
