"""A simulator without a JVM, for tests of the pool: it counts, dies, hangs or fails on demand."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eef.env import StepResult
from eef.envs.simulators.env import PooledEnv
from eef.envs.simulators.settings import PoolSettings
from eef.errors import ConfigError, EnvError
from eef.task import Task, TaskSet


@dataclass(frozen=True)
class CountingFactory:
    refuses: bool = False

    def __call__(self) -> Counting:
        if self.refuses:
            raise ConfigError("no counting here", hint="count elsewhere")
        return Counting()


class Counting:
    """Starts at the task's number; an action that is a number is added. 100 ends the episode."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}

    def reset(self, slot: int, spec: tuple[int]) -> str:
        (self.counts[slot],) = spec
        return f"at {spec[0]}"

    def step(self, slot: int, action: str) -> StepResult:
        verb, _, word = action.partition(" ")
        if verb == "die" and self._may(word):
            os._exit(9)
        if verb == "hang":
            time.sleep(60)
        if verb == "break":
            raise EnvError("it broke")
        if verb == "moody":
            return StepResult(f"in {os.getpid()}", 0.0, False)
        before = self.counts[slot]
        self.counts[slot] = min(100, before + int(action)) if action.isdigit() else before
        now = self.counts[slot]
        return StepResult(f"at {now}", (now - before) / 100, now == 100)

    def _may(self, word: str) -> bool:
        """Whether `die PATH` may die: once, and then the file exists."""
        if word and Path(word).exists():
            return False
        if word:
            Path(word).touch()
        return True

    def release(self, slot: int) -> None:
        self.counts.pop(slot, None)

    def gold_actions(self, spec: tuple[int]) -> list[str]:
        if spec == (5,):
            raise EnvError("no way from 5")
        return [str(100 - spec[0])]

    def is_alive(self) -> bool:
        return True

    def close(self) -> None:
        self.counts.clear()


class CountingEnv(PooledEnv):
    name = edition = "counting"
    step_limit = 10

    def __init__(
        self,
        *,
        workers: int = 1,
        timeout: float = 20.0,
        refuses: bool = False,
        placement: Literal["local", "ray"] = "local",
        cpus: float = 1.0,
    ) -> None:
        settings = PoolSettings(
            workers=workers, timeout=timeout, placement=placement, worker_cpus=cpus
        )
        super().__init__(CountingFactory(refuses), settings)

    def tasks(self, split: str) -> TaskSet:
        return TaskSet.of(
            [
                Task(
                    id=f"counting/up/{index}",
                    env=self.name,
                    index=index,
                    split=split,
                    instruction="count",
                )
                for index in range(0, 60, 5)
            ]
        )

    def episode_spec(self, task: Task) -> Any:
        return (task.index,)

    def fingerprint(self) -> dict[str, Any]:
        return {"env": self.name}
