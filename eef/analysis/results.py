"""Results: the numbers of a run, finished or not, for tables, the report and `results.json`.

They are computed from the run's evaluations, ledgers, selections and stored rollouts. What has not
been measured is None, never 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import combinations
from typing import Any

from eef.analysis.asked import NO_MODELS, AskedModels, asked_models, completions_per_turn
from eef.analysis.behaviors import BehaviorUse, count_behaviors
from eef.analysis.stats import (
    Difference,
    Interval,
    bootstrap_interval,
    holm,
    mcnemar,
    paired_difference,
    wilson_interval,
)
from eef.analysis.task_groups import TaskGroups, score_task_groups
from eef.errors import DataError
from eef.pipeline.evaluation import EvalResult, first_attempts, newly_solved
from eef.pipeline.ledger import COUNTS, Cost
from eef.pipeline.run_directory import RunData
from eef.pipeline.stages import BC, EXPERT, Stage, StageKind, round_methods

RECORD_VERSION = 3
"""Version 2 renamed `skills` to `behaviors`, and `kinds` to `task_groups`. Version 3 states which
models were asked."""

SHOWN_COUNTS = tuple(name for name in COUNTS if name != "rollouts")


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The score of a policy on the test tasks.

    `interval` is Wilson's 95 % interval of the win rate, `reward_interval` the 95 % bootstrap
    interval of the mean reward over tasks. `finished` is the share of episodes that the environment
    ended (in WebShop, by a purchase).
    """

    wins: int
    tasks: int
    win_rate: float
    interval: Interval
    mean_reward: float
    reward_interval: Interval
    finished: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundResult:
    """The results of one round of a method. None means that a stage is not done or does not exist.

    `newly_solved` counts test tasks won in this round, and by neither the expert nor behavior
    cloning. `explored` counts the round's rollouts on the training tasks, `selection` what the
    round trains on. `train_tasks_won` counts training tasks won by the expert or, up to this round,
    by the student, from the start or from a state of an expert trajectory. `behaviors` are those of
    won and of lost test episodes. `task_groups` are scores by group of test tasks, None if the
    tasks have no groups. `costs` are keyed by kind of stage.
    """

    round: int
    evaluation: EvalResult | None
    score: Score | None
    newly_solved: int | None
    explored: Mapping[str, int] | None
    selection: Mapping[str, int] | None
    train_tasks_won: int | None
    behaviors: Mapping[str, BehaviorUse]
    task_groups: TaskGroups | None
    costs: Mapping[str, Cost]

    @property
    def exploration(self) -> Cost | None:
        """Cost of the rollouts that can be trained on; for the expert, of collecting them."""
        return self.costs.get("explore") or self.costs.get("collect")

    def to_record(self) -> dict[str, Any]:
        return {
            "round": self.round,
            **_score_record(self.score),
            "newly_solved": self.newly_solved,
            "train_tasks_won": self.train_tasks_won,
            "explored": self.explored,
            "selection": self.selection,
            "behaviors": {part: use.to_record() for part, use in self.behaviors.items()},
            "task_groups": self.task_groups.to_record() if self.task_groups else None,
            "costs": {stage: asdict(cost) for stage, cost in self.costs.items()},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodResult:
    """A method and its rounds that have started. Its row in a table is its last evaluated round.

    `asked` are the models beside the student.
    """

    name: str
    rounds: tuple[RoundResult, ...]
    asked: AskedModels = NO_MODELS

    @property
    def completions_per_turn(self) -> float | None:
        """Completions of all models per turn of the last evaluation; None if not counted."""
        return completions_per_turn(self.last.costs.get("evaluate") if self.last else None)

    @property
    def wins_by_attempt(self) -> tuple[int, ...]:
        """Test tasks won within 1, 2, … attempts; empty if each was tried once."""
        return self.last.evaluation.wins_by_attempt if self.last and self.last.evaluation else ()

    @property
    def last(self) -> RoundResult | None:
        """The last round that was evaluated."""
        return next((item for item in reversed(self.rounds) if item.score is not None), None)

    @property
    def score(self) -> Score | None:
        """The score of `last`."""
        return self.last.score if self.last else None

    @property
    def evaluated(self) -> tuple[RoundResult, ...]:
        return tuple(item for item in self.rounds if item.score is not None)

    @property
    def rollouts(self) -> int | None:
        """Rollouts explored up to `last`: 0 for behavior cloning; the expert's trajectories."""
        return None if self.last is None else sum(cost.rollouts for cost in self._explorations())

    @property
    def tokens(self) -> int | None:
        """Tokens generated in `rollouts`."""
        return (
            None
            if self.last is None
            else sum(cost.generated_tokens for cost in self._explorations())
        )

    @property
    def seconds(self) -> float | None:
        """Seconds of all stages up to `last`."""
        return None if self.last is None else self.cost.seconds

    @property
    def cost(self) -> Cost:
        """Total cost of the method's own stages up to `last`, so without behavior cloning's."""
        return sum((cost for item in self._counted() for cost in item.costs.values()), Cost())

    def cost_of(self, *kinds: StageKind) -> Cost | None:
        """Total cost of the stages of some kinds up to `last`; None if there are none."""
        costs = [
            cost for item in self._counted() for kind, cost in item.costs.items() if kind in kinds
        ]
        return sum(costs, Cost()) if costs else None

    def rollouts_up_to(self, round: int) -> int:
        """Rollouts explored in the rounds 1 … `round`."""
        return sum(
            item.exploration.rollouts
            for item in self.rounds
            if item.exploration and item.round <= round
        )

    def to_record(self) -> dict[str, Any]:
        """The method's row, with its rounds.

        `rollouts` and `tokens` (generated by the student) count exploration alone; a budget of
        tokens counts those of roles as well. The other counts, and `roles`, are sums over all
        stages of the method, evaluation included.
        """
        last = self.last
        counts = {name: getattr(self.cost, name) if last else None for name in SHOWN_COUNTS}
        return {
            "round": last.round if last else None,
            **_score_record(self.score),
            "newly_solved": last.newly_solved if last else None,
            "train_tasks_won": last.train_tasks_won if last else None,
            "rollouts": self.rollouts,
            "tokens": self.tokens,
            "roles": [asdict(usage) for usage in self.cost.roles],
            "at_test": dict(self.asked.at_test),
            "in_training": dict(self.asked.in_training),
            "success_known": self.asked.success_known,
            "completions_per_turn": self.completions_per_turn,
            "wins_by_attempt": list(self.wins_by_attempt),
            **counts,
            "rounds": [item.to_record() for item in self.rounds],
        }

    def _counted(self) -> list[RoundResult]:
        return [
            item for item in self.rounds if self.last is not None and item.round <= self.last.round
        ]

    def _explorations(self) -> list[Cost]:
        return [item.exploration for item in self._counted() if item.exploration is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two methods on the same test tasks, each in its last evaluated round.

    Differences are first minus second, with 95 % intervals by paired bootstrap over tasks.
    `p_value` is that of the exact two-sided McNemar test of the wins, `p_adjusted` the same after
    Holm's correction for all comparisons of the run.
    """

    first: str
    second: str
    rounds: tuple[int, int]
    only_first: int
    only_second: int
    wins: Difference
    reward: Difference
    p_value: float
    p_adjusted: float

    def to_record(self) -> dict[str, Any]:
        return {
            "a": self.first,
            "b": self.second,
            "rounds": list(self.rounds),
            "only_a": self.only_first,
            "only_b": self.only_second,
            "win_difference": self.wins.mean,
            "win_interval": list(self.wins.interval),
            "p_value": self.p_value,
            "p_adjusted": self.p_adjusted,
            "reward_difference": self.reward.mean,
            "reward_interval": list(self.reward.interval),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    """The numbers of a run.

    `stages` are (done, planned). `never_solved` counts test tasks that no method won in any round.
    """

    name: str
    seed: int
    methods: tuple[MethodResult, ...]
    comparisons: tuple[Comparison, ...]
    stages: tuple[int, int]
    never_solved: int | None
    fingerprint: Mapping[str, Any]

    def __getitem__(self, method: str) -> MethodResult:
        return next(item for item in self.methods if item.name == method)

    @property
    def round_methods(self) -> tuple[MethodResult, ...]:
        """The methods that go through rounds."""
        return tuple(item for item in self.methods if item.name not in (EXPERT, BC))

    @property
    def unsolved_before(self) -> int | None:
        """Number of test tasks won by neither the expert nor behavior cloning.

        None until both are evaluated.
        """
        known = [
            last.evaluation
            for name in (EXPERT, BC)
            if (last := self[name].last) and last.evaluation
        ]
        return _unsolved(known) if len(known) == 2 else None

    def comparison(self, first: str, second: str) -> Comparison | None:
        """The comparison of two methods in either order; None until both are evaluated."""
        return next(
            (item for item in self.comparisons if {item.first, item.second} == {first, second}),
            None,
        )

    def to_record(self) -> dict[str, Any]:
        return {
            "version": RECORD_VERSION,
            "name": self.name,
            "seed": self.seed,
            "stages": {"done": self.stages[0], "planned": self.stages[1]},
            "methods": {method.name: method.to_record() for method in self.methods},
            "comparisons": [comparison.to_record() for comparison in self.comparisons],
            "never_solved": self.never_solved,
            "fingerprint": dict(self.fingerprint),
        }


def read_results(run: RunData) -> Results:
    """The results of a run so far. It only reads, so another process may be executing the run."""
    names = [EXPERT, BC, *round_methods(run.recipe)]
    baselines = [found for name in (EXPERT, BC) if (found := run.evaluation(name, 0)) is not None]
    methods = tuple(_read_method(run, name, baselines) for name in names)
    played = [item.evaluation for method in methods for item in method.rounds if item.evaluation]
    planned = run.stages
    return Results(
        name=run.recipe.name,
        seed=run.recipe.seed,
        methods=methods,
        comparisons=_compare(methods),
        stages=(sum(run.is_done(stage) for stage in planned), len(planned)),
        never_solved=_unsolved(played) if played else None,
        fingerprint=run.fingerprint,
    )


def score(result: EvalResult) -> Score:
    """The score of an evaluation."""
    rewards = [outcome.reward for outcome in result.outcomes]
    wins, tasks = len(result.wins), len(rewards)
    return Score(
        wins=wins,
        tasks=tasks,
        win_rate=result.success_rate,
        interval=wilson_interval(wins, tasks),
        mean_reward=result.mean_reward,
        reward_interval=bootstrap_interval(rewards),
        finished=sum(outcome.finished for outcome in result.outcomes) / tasks,
    )


def _read_method(run: RunData, method: str, baselines: list[EvalResult]) -> MethodResult:
    numbers = [0] if method in (EXPERT, BC) else list(range(1, run.rounds_of(method) + 1))
    started = [number for number in numbers if _stages_done(run, method, number)]
    return MethodResult(
        name=method,
        rounds=tuple(_read_round(run, method, number, baselines) for number in started),
        asked=asked_models(run, method),
    )


def _read_round(
    run: RunData,
    method: str,
    round: int,
    baselines: list[EvalResult],
) -> RoundResult:
    done = _stages_done(run, method, round)
    result = run.evaluation(method, round)
    selection = run.selection(method, round) if "select" in done else None
    episodes = first_attempts(run.evaluation_rollouts(method, round)) if result else ()
    played = method == BC or not {"collect", "explore"}.isdisjoint(done)
    return RoundResult(
        round=round,
        evaluation=result,
        score=score(result) if result else None,
        newly_solved=_newly_solved(method, result, baselines),
        explored=_explored(run, method, round),
        selection=selection.counts if selection else None,
        train_tasks_won=run.train_tasks_won(method, round) if played else None,
        behaviors=count_behaviors(episodes, run.recipe.env.name) if result else {},
        task_groups=score_task_groups(episodes, run.recipe.env.name),
        costs={
            kind: cost
            for kind in done
            if (cost := run.costs(method).get(Stage(method, round, kind))) is not None
        },
    )


def _stages_done(run: RunData, method: str, round: int) -> list[StageKind]:
    """The kinds of a round's finished stages."""
    return [
        stage.kind
        for stage in run.stages
        if (stage.method, stage.round) == (method, round) and run.is_done(stage)
    ]


def _newly_solved(
    method: str, result: EvalResult | None, baselines: list[EvalResult]
) -> int | None:
    """None for the two baselines, and until both are evaluated."""
    if result is None or method in (EXPERT, BC) or len(baselines) < 2:
        return None
    return len(newly_solved(result, baselines))


def _explored(run: RunData, method: str, round: int) -> Mapping[str, int] | None:
    """The counts of an exploration, and of its rollouts from states of expert trajectories."""
    counts = run.summary(Stage(method, round, "explore"))
    if counts is None:
        return None
    inside, wins = run.branches(method, round)
    return {**counts, "from_inside": inside, "wins_from_inside": wins}


def _unsolved(results: list[EvalResult]) -> int:
    """Number of tasks that were won in none of these evaluations."""
    tasks = {outcome.task for result in results for outcome in result.outcomes}
    return len(tasks.difference(*(result.wins for result in results)))


def _compare(methods: tuple[MethodResult, ...]) -> tuple[Comparison, ...]:
    """All pairs of evaluated methods; the later one in the run's order comes first."""
    rows = [
        (method.name, last.evaluation)
        for method in methods
        if (last := method.last) and last.evaluation
    ]
    pairs = [(first, second) for second, first in combinations(rows, 2)]
    tests = [mcnemar(*_paired(first[1], second[1], "success")) for first, second in pairs]
    adjusted = holm([test.p_value for test in tests])
    return tuple(
        Comparison(
            first=first[0],
            second=second[0],
            rounds=(first[1].round, second[1].round),
            only_first=test.only_first,
            only_second=test.only_second,
            wins=paired_difference(*_paired(first[1], second[1], "success")),
            reward=paired_difference(*_paired(first[1], second[1], "reward")),
            p_value=test.p_value,
            p_adjusted=p_adjusted,
        )
        for (first, second), test, p_adjusted in zip(pairs, tests, adjusted, strict=True)
    )


def _paired(first: EvalResult, second: EvalResult, field: str) -> tuple[list[Any], list[Any]]:
    """A field of the outcomes of two evaluations, paired by the tasks of the first.

    DataError if a task of the first result is missing from the second.
    """
    values = {outcome.task: getattr(outcome, field) for outcome in second.outcomes}
    missing = [outcome.task for outcome in first.outcomes if outcome.task not in values]
    if missing:
        raise DataError(
            f"the evaluation of `{second.method}` lacks {len(missing)} tasks that the evaluation "
            f"of `{first.method}` has, for example {missing[0]}",
            hint="remove the damaged `evaluation.json`; `eef run DIR` writes it again",
        )
    return (
        [getattr(outcome, field) for outcome in first.outcomes],
        [values[outcome.task] for outcome in first.outcomes],
    )


def _score_record(score: Score | None) -> dict[str, Any]:
    """The fields of a score, or None for each."""
    if score is None:
        return dict.fromkeys((each.name for each in fields(Score)), None)
    record = asdict(score)
    return {
        **record,
        "interval": list(score.interval),
        "reward_interval": list(score.reward_interval),
    }
