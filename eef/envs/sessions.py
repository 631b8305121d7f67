"""Sessions: episodes of one environment, each in a clone, for clients elsewhere."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol, TypeVar, runtime_checkable

from eef.env import Env, StepResult, execute, seeded_task
from eef.errors import ConfigError, EnvError, ReplayMismatch
from eef.replay import compare_observations, replay
from eef.task import Task
from eef.trajectory import Author, PathStep, Step

LOG = logging.getLogger(__name__)
_RECORDER = Author("expert", "record")  # who played a path that a client sends
Result = TypeVar("Result")
_SPLITS = ("train", "test")


@runtime_checkable
class NumbersTasks(Env, Protocol):
    """An environment that numbers all its tasks, not only those of its splits.

    task_count   number of tasks; they are numbered from 0
    task         the task of a number; EnvError if it does not exist
    """

    @property
    def task_count(self) -> int: ...
    def task(self, index: int) -> Task: ...


@runtime_checkable
class ListsActions(Protocol):
    """An environment that lists the actions available now, as JSON data."""

    def available(self) -> dict[str, Any]: ...


class Refusal(Exception):
    """A request that gets an error as its answer."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.hint = status, message, hint


@dataclass(slots=True)
class Session:
    """One episode in progress. `lock` admits one request at a time; `used` is its last use."""

    env: Env
    used: float
    observation: str = ""
    instruction: str = ""
    rewards: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reset(self, task: Task, seed: int = 0) -> str:
        self.observation = self.env.reset(seeded_task(self.env, task, seed))
        self.instruction, self.rewards = task.instruction, []
        return self.observation

    def restore(self, task: Task, path: Sequence[PathStep], last: str, seed: int) -> str:
        """Replay a path and compare what is observed, `last` at its end."""
        self.instruction = task.instruction
        result, _, rewards = replay(self.env, seeded_task(self.env, task, seed), path)
        self.observation, self.rewards = result.observation, list(rewards)
        if result.terminated:
            raise Refusal(422, f"the episode of {task.id} is over in this state")
        if compare_observations(self.env.ignored, last, result.observation) == "different":
            raise ReplayMismatch(
                f"replay of {task.id}: the observation in the state differs from the record",
                step=len(path),
                expected=last,
                observed=result.observation,
            )
        return result.observation

    def step(self, action: str) -> tuple[StepResult, float]:
        """Execute an action; returns its result and the score so far."""
        result = execute(self.env, action)
        self.observation = result.observation
        self.rewards.append(result.reward)
        return result, float(self.env.score(self.rewards))

    def available(self) -> dict[str, Any]:
        """The actions available now. Refusal if the environment does not list them."""
        if not isinstance(self.env, ListsActions):
            raise Refusal(404, f"{self.env.name} does not list its available actions")
        return self.env.available()


class _Tasks:
    """The tasks of an environment by number: its own numbers, or `Task.index` of its splits.

    ConfigError if there is none, or if two tasks share a number.
    """

    def __init__(self, env: Env) -> None:
        self._name = env.name
        self.numbers: Sequence[int]
        self._task: Callable[[int], Task]
        reason = f"{env.name} has no task"
        if isinstance(env, NumbersTasks):
            self.numbers, self._task = range(env.task_count), env.task
        else:
            found: dict[int, Task] = {}
            for split in _SPLITS:
                try:
                    tasks = env.tasks(split)
                except EnvError as error:
                    LOG.warning("no task of split %r is served: %s", split, error.message)
                    reason = error.message
                    continue
                for task in tasks:
                    other = found.setdefault(task.index, task)
                    if other.id != task.id:
                        raise ConfigError(
                            f"`{other.id}` and `{task.id}` both have the index {task.index}",
                            hint="give each task an `index` of its own: clients name tasks by it",
                        )
            self.numbers, self._task = sorted(found), found.__getitem__
        if not self.numbers:
            raise ConfigError(
                f"nothing to serve: {reason}",
                hint=f"the tasks of the splits {' and '.join(map(repr, _SPLITS))} are served",
            )

    def __getitem__(self, number: int) -> Task:
        """The task of a number. EnvError if there is none."""
        try:
            return self._task(number)
        except KeyError:
            raise EnvError(f"{self._name}: no task has the index {number}") from None


class Sessions:
    """Episodes of an environment by number, safe to use from several threads.

    At most `limit` sessions are open at a time. A session without requests for `idle_s` seconds is
    closed. `seed` determines the random tasks, `clock` returns seconds. Unless the environment is
    `concurrent`, one thread alone calls it and its clones. ConfigError if it has no task, or if two
    tasks share an index.
    """

    def __init__(
        self,
        env: Env,
        *,
        limit: int,
        idle_s: float,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limit, self.idle_s = limit, idle_s
        self._env, self._clock = env, clock
        self._chance, self._numbers = random.Random(seed), count()
        self._open: OrderedDict[int, Session] = OrderedDict()  # least recently used first
        self._opening = 0
        self._lock = threading.Lock()
        self._player = None if env.concurrent else ThreadPoolExecutor(1, "environment")
        self._tasks = self._play(lambda: _Tasks(env))

    def _play(self, call: Callable[[], Result]) -> Result:
        """Call an environment, in the thread in which it may be called."""
        return call() if self._player is None else self._player.submit(call).result()

    @property
    def success_threshold(self) -> float:
        return self._env.success_threshold

    def create(self) -> int:
        """Start a session with an episode; returns its number. Refusal if all are taken."""
        self.expire()
        with self._lock:
            if len(self._open) + self._opening >= self.limit:
                raise Refusal(
                    503, f"all {self.limit} sessions are taken", "close one, or try again later"
                )
            self._opening += 1
            number = next(self._numbers)
        env: Env | None = None
        try:
            env = self._play(self._env.clone)
        finally:
            with self._lock:
                self._opening -= 1
                if env is not None:
                    self._open[number] = Session(env, self._clock())
        try:
            self.reset(number, None)
        except BaseException:  # no client would learn its number
            self.close(number)
            raise
        return number

    def reset(self, number: int, index: int | None, seed: int = 0) -> str:
        """Start the task of an index, or a random one. Raises Refusal and EnvError."""
        task = self._task(index)
        with self.at(number) as session:
            return self._play(lambda: session.reset(task, seed))

    def restore(
        self,
        number: int,
        index: int,
        actions: Sequence[str],
        observations: Sequence[str],
        seed: int = 0,
    ) -> str:
        """Bring a session into a recorded state. Raises Refusal, EnvError and ReplayMismatch."""
        if len(observations) != len(actions) + 1:
            raise Refusal(
                422,
                f"{len(observations)} observations for {len(actions)} actions",
                "send one before each action, and the one in the state",
            )
        task = self._task(index)
        path = [
            PathStep(Step(observation=seen, completion="", action=action), "record", _RECORDER)
            for seen, action in zip(observations, actions, strict=False)
        ]
        with self.at(number) as session:
            return self._play(lambda: session.restore(task, path, observations[-1], seed))

    def step(self, number: int, action: str) -> tuple[StepResult, float]:
        """Execute an action; returns its result and the score so far."""
        with self.at(number) as session:
            return self._play(lambda: session.step(action))

    def available(self, number: int) -> dict[str, Any]:
        """The actions available now. Refusal if the environment does not list them."""
        with self.at(number) as session:
            return self._play(session.available)

    def close(self, number: int) -> bool:
        """Close a session; returns whether it existed. An error of its environment is logged."""
        with self._lock:
            session = self._open.pop(number, None)
        if session is not None:
            with session.lock:
                try:
                    self._play(session.env.close)
                except Exception:
                    LOG.exception("session %d could not be closed properly", number)
        return session is not None

    def expire(self) -> None:
        """Close the sessions that were idle for too long; one that has a request is not idle."""
        with self._lock:
            last = self._clock() - self.idle_s
            idle = [
                number
                for number, session in self._open.items()
                if session.used < last and not session.lock.locked()
            ]
        for number in idle:
            self.close(number)

    def numbers(self) -> list[int]:
        with self._lock:
            return sorted(self._open)

    @contextmanager
    def at(self, number: int) -> Iterator[Session]:
        """Context with exclusive access to a session. Raises Refusal if it does not exist."""
        self.expire()
        with self._lock:
            session = self._open.get(number)
            if session is not None:
                session.used = self._clock()
                self._open.move_to_end(number)
        if session is None:
            raise self._unknown(number)
        with session.lock:
            if number not in self._open:  # closed while this thread waited
                raise self._unknown(number)
            try:
                yield session
            finally:
                session.used = self._clock()

    def _unknown(self, number: int) -> Refusal:
        return Refusal(
            404,
            f"no session {number}: it was never created, or closed, or idle for {self.idle_s:g} s",
            "create one: POST /create",
        )

    def _task(self, index: int | None) -> Task:
        if index is None:
            with self._lock:
                index = self._chance.choice(self._tasks.numbers)
        number = index
        return self._play(lambda: self._tasks[number])
