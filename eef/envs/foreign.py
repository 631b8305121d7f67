"""Common parts of adapters for environments of other packages: numbered tasks, scaled rewards, and
whether episodes can be replayed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import Field, model_validator

from eef.config import Settings, unknown_name
from eef.env import BaseEnv
from eef.errors import EnvError
from eef.task import Task, TaskSet


class ForeignSettings(Settings):
    """Settings of every adapter."""

    instruction: str = ""
    """The goal in words, which starts every episode."""

    tasks_per_split: int = Field(default=100, ge=1, le=100_000)
    """Number of tasks in each of the splits `train` and `test`."""

    first_test: int = Field(default=0, ge=0)
    """Number of the first task of the split `test`."""

    first_train: int = Field(default=100_000, ge=0)
    """Number of the first task of the split `train`."""

    step_limit: int = Field(default=30, ge=1)
    """Default step limit of a rollout."""

    worst_return: float = 0.0
    """The sum of rewards that scores 0."""

    best_return: float = 1.0
    """The sum of rewards that scores 1."""

    success_threshold: float = Field(default=1.0, gt=0, le=1)
    """Score from which an episode is a win."""

    replayable: bool = True
    """Whether the same actions give the same episode; if not, methods that branch are refused."""

    ignored: tuple[str, ...] = Field(default=(), strict=False)
    """Regular expressions; their matches in observations are not compared when actions are
    replayed."""

    @model_validator(mode="after")
    def _is_consistent(self) -> ForeignSettings:
        if self.worst_return >= self.best_return:
            raise ValueError(
                f"`worst_return` is {self.worst_return:g}; expected less than `best_return`, "
                f"which is {self.best_return:g}"
            )
        apart = abs(self.first_test - self.first_train)
        if apart < self.tasks_per_split:
            raise ValueError(
                f"`first_test` and `first_train` are {apart} apart; the splits of "
                f"{self.tasks_per_split} tasks overlap"
            )
        return self


class ForeignEnv(BaseEnv):
    """Tasks by number, and the score of a sum of rewards."""

    def __init__(self, settings: ForeignSettings) -> None:
        self.step_limit = settings.step_limit
        self.success_threshold = settings.success_threshold
        self.replayable = settings.replayable
        self.ignored = settings.ignored
        self._scale = settings.worst_return, settings.best_return
        self._instruction = settings.instruction
        self._first = {"test": settings.first_test, "train": settings.first_train}
        self._tasks_per_split = settings.tasks_per_split

    def tasks(self, split: str) -> TaskSet:
        if split not in self._first:
            raise unknown_name("split", split, self._first, error=EnvError)
        first = self._first[split]
        numbers = range(first, first + self._tasks_per_split)
        return TaskSet.of([self._task(index, split) for index in numbers])

    def score(self, rewards: Iterable[float]) -> float:
        """The sum of the rewards on the scale from `worst_return` to `best_return`."""
        low, high = self._scale
        return min(1.0, max(0.0, (sum(rewards) - low) / (high - low)))

    def _task(self, index: int, split: str) -> Task:
        return Task(
            id=f"{self.name}/{index}",
            env=self.name,
            index=index,
            split=split,
            instruction=self._goal(index),
        )

    def _goal(self, index: int) -> str:
        """The goal of a task in words."""
        return f"{self._instruction or self.name} (task {index})"

    def _opened(self, observation: str) -> str:
        """The first observation, after the instruction."""
        return "\n".join(part for part in (self._instruction, observation) if part)


def react_rules(actions: str = "") -> str:
    """A prompt for agents that write ReAct; `actions` are the actions in words."""
    start = f"Actions: {actions}.\n" if actions else ""
    return f"{start}Answer with `Thought: …` and then `Action: …` on a line of its own."


def described(settings: ForeignSettings, *, without: Iterable[str] = ()) -> dict[str, Any]:
    """The settings as JSON data, for fingerprints."""
    return settings.model_dump(mode="json", exclude=set(without))
