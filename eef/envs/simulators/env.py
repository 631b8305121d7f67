"""PooledEnv: base class of environments whose simulator runs in processes of its own (a JVM)."""

from __future__ import annotations

from collections.abc import Iterable
from math import fsum
from typing import Any, Self

from eef.env import BaseEnv, StepResult
from eef.envs.simulators.pool import Pool, Slot
from eef.envs.simulators.ray_worker import kind_of_worker
from eef.envs.simulators.settings import PoolSettings
from eef.envs.simulators.worker import SimulatorFactory
from eef.errors import EnvError
from eef.task import Task


class PooledEnv(BaseEnv):
    """An environment (`eef.env.Env`) whose episodes are slots in a pool of workers.

    A subclass provides `tasks`, `episode_spec` and `fingerprint`. A reward is what an action adds
    to the simulator's score, whose range is [0, 1], or -1 for a failure.
    """

    edition: str
    """Name and version of the simulator, and all that determines the gold paths it generates."""

    concurrent = True

    def __init__(self, factory: SimulatorFactory, settings: PoolSettings) -> None:
        self.factory = factory
        self.pool = Pool(
            factory,
            size=settings.workers,
            timeout=settings.timeout,
            name=self.name,
            kind=kind_of_worker(settings),
        )
        self._slot: Slot | None = None
        self._is_clone = False

    @property
    def worker_restarts(self) -> int:
        return self.pool.restarts

    def episode_spec(self, task: Task) -> Any:
        """The simulator's specification of a task's episode.

        Raises EnvError for a task of another environment.
        """
        raise NotImplementedError

    def think(self, first_observation: str, action: str) -> str:
        """The thought that a scripted expert writes before an action."""
        return f"Now I {action}."

    def reset(self, task: Task) -> str:
        spec = self.episode_spec(task)
        if self._slot is None:
            self._slot = self.pool.slot()
        return self._slot.reset(spec)

    def step(self, action: str) -> StepResult:
        if self._slot is None:
            raise EnvError(f"{self.name}: no episode has started", hint="call `reset` first")
        return self._slot.step(action)

    def score(self, rewards: Iterable[float]) -> float:
        """The simulator's last score; 0 for a failure."""
        return min(1.0, max(0.0, round(fsum(rewards), 6)))

    def clone(self) -> Self:
        other = super().clone()
        other._slot, other._is_clone = None, True
        return other

    def close(self) -> None:
        """End the episode, and the workers too unless this is a clone (they restart on demand)."""
        if self._slot is not None:
            self._slot.release()
            self._slot = None
        if not self._is_clone:
            self.pool.close()
