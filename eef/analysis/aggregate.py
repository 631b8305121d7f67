"""Aggregate: numbers per method and per pair of methods, over several seeds.

What has not been measured is None.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any, NamedTuple

from eef.analysis.asked import NO_MODELS, AskedModels
from eef.analysis.behaviors import BehaviorUse
from eef.analysis.label_noise import FalseRates, LabelNoise
from eef.analysis.stats import (
    Difference,
    McNemar,
    SeedTest,
)
from eef.methods.labels import LabelRule
from eef.pipeline.ledger import Cost
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
    plays and trains the same by construction (see `eef.analysis.aggregation`); such a variant is
    not a measurement of its own and has no pairs.

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
        """The actions trained in the last round; None without examples, or if not counted."""
        steps = {
            name.removeprefix("steps."): count
            for name, count in self.selected.items()
            if name.startswith("steps.")
        }
        if not self.selected.get("examples") or not steps:
            return None
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
        """(subject, rival, their pair): `eef`, or the best method, with each of its rivals.

        These are the control's method, the control (without one, neither), and the best of the
        other algorithms. Empty if no two methods have a finished seed in common.
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
        controlled = [item.algorithm for item in others if item.is_control]
        algorithms = dict.fromkeys([*controlled, *(item.algorithm for item in others[:1])])
        rivals = [item for each in algorithms for item in others if item.algorithm == each]
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
