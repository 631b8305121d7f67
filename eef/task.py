"""Tasks, and the ordered set of tasks in a split."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One goal in one environment (the paper's *subtask*).

    id           unique over all environments, starts with the environment's name (`webshop/12`)
    index        the environment's own number for the task, unique over its splits (WebShop: the
                 official goal index)
    instruction  the goal in words
    step_limit   limit of this task alone; a lower limit of the environment or recipe takes
                 precedence
    seed         seed of what chance decides in its episode, for environments that are `seeded`;
                 0 in the tasks of a split
    """

    id: str
    env: str
    index: int
    split: str
    instruction: str
    step_limit: int | None = None
    seed: int = 0


def env_of(task: str) -> str:
    """The environment in a task id.

    >>> env_of("webshop/12")
    'webshop'
    """
    return task.partition("/")[0]


@dataclass(frozen=True, slots=True)
class TaskSet:
    """The tasks of a split, in a fixed order."""

    tasks: tuple[Task, ...]

    def __len__(self) -> int:
        return len(self.tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks)

    def __getitem__(self, position: int) -> Task:
        return self.tasks[position]

    @classmethod
    def of(cls, tasks: Sequence[Task]) -> TaskSet:
        return cls(tuple(tasks))

    def head(self, count: int | None) -> TaskSet:
        """The first `count` tasks; all of them for None."""
        return self if count is None else TaskSet(self.tasks[:count])

    def shuffled(self, seed: int) -> TaskSet:
        """The same tasks in an order that depends only on `seed`."""
        tasks = list(self.tasks)
        random.Random(seed).shuffle(tasks)
        return TaskSet(tuple(tasks))

    def filter(self, keep: Callable[[Task], bool]) -> TaskSet:
        return TaskSet(tuple(task for task in self.tasks if keep(task)))
