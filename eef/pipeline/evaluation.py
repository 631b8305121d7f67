"""Evaluate: a policy plays a split → EvalResult, one outcome a task. Read by stats and report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from eef.errors import ConfigError, StoreError
from eef.pipeline.ledger import Cost, usage_of
from eef.trajectory import Trajectory

RECORD_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one task ended. `finished`: the environment ended the episode (WebShop: something was bought).

    An episode that broke counts as not won with reward 0 and is named in `error`: it is never left out of a mean.
    """

    task: str
    reward: float
    success: bool
    finished: bool
    steps: int
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalResult:
    """The outcomes of a policy on a split, in the order of the tasks.

    `method` and `round` say which checkpoint it was (round 0: behaviour cloning; the experts have method "expert").
    """

    policy: str
    method: str
    round: int
    split: str
    outcomes: tuple[Outcome, ...]
    cost: Cost

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

    def to_record(self) -> dict[str, Any]:
        return {"version": RECORD_VERSION, **asdict(self)}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> EvalResult:
        """The result of a record (StoreError: another version, or malformed)."""
        fields = dict(record)
        if fields.pop("version", None) != RECORD_VERSION:
            version = record.get("version")
            raise StoreError(
                f"evaluation record has version {version!r}, this `eef` reads {RECORD_VERSION}"
            )
        try:
            outcomes = tuple(Outcome(**outcome) for outcome in fields.pop("outcomes"))
            return cls(outcomes=outcomes, cost=Cost(**fields.pop("cost")), **fields)
        except (KeyError, TypeError) as error:
            raise StoreError(f"malformed evaluation record: {error}") from error


def summarise(
    trajectories: Iterable[Trajectory], *, policy: str, method: str, round: int, split: str
) -> EvalResult:
    """The result of finished evaluation rollouts, one a task. ConfigError where there is none."""
    played = list(trajectories)
    if not played:
        raise ConfigError(
            f"split {split!r} has no task to evaluate on",
            hint="see `evaluate.split` and the splits",
        )
    return EvalResult(
        policy=policy,
        method=method,
        round=round,
        split=split,
        outcomes=tuple(_outcome(trajectory) for trajectory in played),
        cost=usage_of(played),
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


def newly_solved(result: EvalResult, earlier: Iterable[EvalResult]) -> frozenset[str]:
    """Tasks won here and by none of the earlier ones (the expert, behaviour cloning)."""
    known: frozenset[str] = frozenset().union(*(other.wins for other in earlier))
    return result.wins - known
