"""EvalResult: the outcomes of a policy on a split, one per task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict

from eef.errors import ConfigError
from eef.pipeline.ledger import Cost, usage_of
from eef.rollouts.specs import is_first_attempt
from eef.trajectory import Trajectory
from eef.utils.records import STRICT_FIELDS, Migration, Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one task ended. `finished` means that the environment ended the episode.

    A failed episode counts as lost with reward 0 and is named in `error`; no mean excludes it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT_FIELDS

    task: str
    reward: float
    success: bool
    finished: bool
    steps: int
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalResult(Record):
    """The outcomes of a policy on a split, in the order of the tasks.

    `method` and `round` identify the checkpoint (round 0 is behavior cloning; experts have method
    "expert"). `outcomes` are those of the first attempt at each task. `wins_by_attempt` has the
    number of tasks won within 1, 2, … attempts, for methods that use a known failure to try again;
    it is empty if each task was tried once.
    """

    KIND: ClassVar[str] = "evaluation"
    VERSION: ClassVar[int] = 2
    MIGRATIONS: ClassVar[Mapping[int, Migration]] = {
        1: lambda record: {"wins_by_attempt": [], **record}
    }

    policy: str
    method: str
    round: int
    split: str
    outcomes: tuple[Outcome, ...]
    cost: Cost
    wins_by_attempt: tuple[int, ...] = ()

    @property
    def wins(self) -> frozenset[str]:
        """Ids of the tasks won."""
        return frozenset(outcome.task for outcome in self.outcomes if outcome.success)

    @property
    def success_rate(self) -> float:
        return len(self.wins) / len(self.outcomes)

    @property
    def mean_reward(self) -> float:
        return sum(outcome.reward for outcome in self.outcomes) / len(self.outcomes)


def summarize(
    trajectories: Iterable[Trajectory],
    *,
    policy: str,
    method: str,
    round: int,
    split: str,
    retries: Sequence[Trajectory] = (),
    cost: Cost | None = None,
) -> EvalResult:
    """The result of finished evaluation rollouts, one per task. ConfigError if there are none.

    `retries` are further attempts at the same tasks, in order. `cost` is that of the evaluation, by
    default that of these rollouts.
    """
    played = list(trajectories)
    if not played:
        raise ConfigError(
            f"split {split!r} has no task to evaluate on",
            hint="set `evaluate.split` to a split that has tasks",
        )
    return EvalResult(
        policy=policy,
        method=method,
        round=round,
        split=split,
        outcomes=tuple(_outcome(trajectory) for trajectory in played),
        cost=usage_of([*played, *retries]) if cost is None else cost,
        wins_by_attempt=_wins_by_attempt(played, retries) if retries else (),
    )


def _wins_by_attempt(first: Sequence[Trajectory], retries: Sequence[Trajectory]) -> tuple[int, ...]:
    """The tasks won within 1, 2, … attempts."""
    attempts = {item.task: [item.success] for item in first}
    for item in retries:
        attempts[item.task].append(item.success)
    most = max(map(len, attempts.values()))
    return tuple(
        sum(any(each[:count]) for each in attempts.values()) for count in range(1, most + 1)
    )


def _outcome(trajectory: Trajectory) -> Outcome:
    return Outcome(
        task=trajectory.task,
        reward=trajectory.reward or 0.0,
        success=trajectory.success,
        finished=trajectory.status == "terminated",
        steps=trajectory.length,
        error=trajectory.error,
    )


def first_attempts(rollouts: Iterable[Trajectory]) -> list[Trajectory]:
    """The rollouts of an evaluation that its score counts, one per task.

    If a first attempt failed, its repetition counts; retries after a known loss do not.
    """
    first = {item.task: item for item in rollouts if is_first_attempt(item.id, item.task)}
    return list(first.values())


def newly_solved(result: EvalResult, earlier: Iterable[EvalResult]) -> frozenset[str]:
    """Tasks won here and by none of the earlier results (the expert, behavior cloning)."""
    known: frozenset[str] = frozenset().union(*(other.wins for other in earlier))
    return result.wins - known
