"""PooledEnv: an environment of a simulator that needs a process of its own (a JVM); a clone is a seat in a pool."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from math import fsum
from typing import Any, Self

from eef.env import StepResult
from eef.envs.simulators.pool import Pool, Seat
from eef.envs.simulators.worker import Opener
from eef.errors import ConfigError, EnvError
from eef.task import Task, TaskSet
from eef.trajectory import Step


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """How an environment is played in workers. `memory`: heap of each JVM in MB; `patience`: seconds until a call
    counts as hung."""

    workers: int
    memory: int
    patience: float

    def __post_init__(self) -> None:
        for name, value, least in (("workers", self.workers, 1), ("memory", self.memory, 64)):
            if value < least:
                raise ConfigError(f"`env.{name}` is {value}, expected {least} or more")
        if self.patience <= 0:
            raise ConfigError(f"`env.patience` is {self.patience}, expected some seconds")


class PooledEnv:
    """An environment (`eef.env.Env`) whose episodes are played in a pool; which tasks there are is left to say.

    Rewards are what an action adds to the simulator's score, whose range is [0, 1], or -1 for a failure.
    """

    name: str
    edition: str
    """Name and version of the simulator, and all else that decides which gold paths it makes."""
    step_limit: int
    prompt: str
    success_threshold = 1.0
    supports_snapshot = False
    concurrent = True

    def __init__(self, opener: Opener, settings: PoolSettings) -> None:
        if self.step_limit < 1:
            raise ConfigError(f"`env.step_limit` is {self.step_limit}, expected 1 or more")
        self.opener = opener
        self.pool = Pool(opener, size=settings.workers, patience=settings.patience, name=self.name)
        self._seat: Seat | None = None
        self._is_clone = False

    @property
    def worker_restarts(self) -> int:
        return self.pool.restarts

    def tasks(self, split: str) -> TaskSet:
        raise NotImplementedError

    def fingerprint(self) -> dict[str, Any]:
        raise NotImplementedError

    def start_of(self, task: Task) -> Any:
        """What the simulator begins a task with. EnvError for one that is not of this environment."""
        raise NotImplementedError

    def think(self, first_observation: str, action: str) -> str:
        """What a scripted expert says before an action."""
        return f"Now I {action}."

    def reset(self, task: Task) -> str:
        start = self.start_of(task)
        if self._seat is None:
            self._seat = self.pool.seat()
        return self._seat.begin(start)

    def step(self, action: str) -> StepResult:
        if self._seat is None:
            raise EnvError(f"{self.name}: no episode has begun", hint="call `reset` first")
        return self._seat.act(action)

    def score(self, rewards: Iterable[float]) -> float:
        """The simulator's last score; 0 for a failure."""
        return min(1.0, max(0.0, round(fsum(rewards), 6)))

    def snapshot(self) -> Any:
        raise EnvError(
            f"{self.name} has no snapshots",
            hint="play the recorded actions again (`eef.env.replay`)",
        )

    def restore(self, snapshot: Any) -> None:
        self.snapshot()

    def can_branch_at(self, steps: Sequence[Step], t: int) -> bool:
        return True

    def clone(self) -> Self:
        other = copy(self)
        other._seat, other._is_clone = None, True
        return other

    def close(self) -> None:
        """End the episode; the environment that is no clone ends its workers too (they start again when needed)."""
        if self._seat is not None:
            self._seat.leave()
            self._seat = None
        if not self._is_clone:
            self.pool.close()
