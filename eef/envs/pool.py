"""Pool: worker processes in which episodes are played, and `PooledEnv`, which makes an environment of that.

For simulators that need a process of their own (a JVM). A worker holds one simulator with any number of episodes; a
clone of the environment is a *seat*, one episode in some worker. Where a worker dies, or does not answer, it is ended
and started anew; its episodes are begun again elsewhere and their actions played again, with every answer compared,
so that whoever plays them never notices. Only the request during which a worker died counts: where it dies of the
same request a second time, elsewhere, EnvDied goes to the caller and the rollout is recorded as an error.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from itertools import count
from math import fsum
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, Protocol, Self, TypeVar

from eef.env import StepResult
from eef.errors import ConfigError, EefError, EnvDied, EnvError
from eef.process import SPAWN, Failure, end_process, start_process
from eef.task import Task, TaskSet

START_PATIENCE = 120.0  # seconds for a fresh interpreter and its JVM, on a machine that is busy
_MARGIN = 10.0  # a worker gives its simulator up before it is given up itself
_SECONDS_TO_END = 5.0
_DEAD_BEFORE = "dead before it was asked"
_NOWHERE = -1  # the generation of an episode that has to be begun again


class Simulator(Protocol):
    """What a worker holds: many episodes, each under the number of its seat. `start` says what an episode begins with.

    `act` after the end of an episode answers that it is over. EnvError: that episode cannot go on; EnvDied: none can.
    """

    def begin(self, seat: int, start: Any) -> str: ...
    def act(self, seat: int, action: str) -> StepResult: ...
    def leave(self, seat: int) -> None: ...
    def gold(self, start: Any) -> list[str]:
        """The simulator's own solution of what begins with `start`, as actions; not played yet."""
        ...

    def is_alive(self) -> bool: ...
    def close(self) -> None: ...


Opener = Callable[[], Simulator]
"""Makes a simulator, in the worker; it is sent there, so it is a record."""


T = TypeVar("T")


class Lost(Exception):
    """The worker was started anew since the episode began in it."""


class Worker:
    """One process and what goes to and fro; `ask` may be called from any thread and is answered in turn.

    `generation` counts the processes that it has had, `deaths` those that died or hung; `seats` are the episodes in the
    present one.
    """

    def __init__(self, opener: Opener, patience: float, name: str) -> None:
        self.generation = self.deaths = 0
        self.seats: set[int] = set()
        self._opener, self._patience, self._name = opener, patience, name
        self._lock = threading.Lock()
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def begin(self, seat: int, start: Any) -> tuple[int, str]:
        """Begin an episode; returns the generation it lives in and the first observation."""
        with self._lock:
            first = self._anew("begin", seat, start)
            self.seats.add(seat)
            return self.generation, str(first)

    def ask(self, generation: int, seat: int, action: str) -> StepResult:
        """Play on in an episode. Raises Lost where it is gone with the process it was begun in."""
        with self._lock:
            if generation != self.generation:
                raise Lost
            result = self._exchange("act", seat, action)
            assert isinstance(result, StepResult)
            return result

    def leave(self, generation: int, seat: int) -> None:
        """Forget an episode."""
        with self._lock:
            if generation == self.generation:
                self.seats.discard(seat)
                with suppress(EnvDied, Lost):  # then it is forgotten as well
                    self._exchange("leave", seat)

    def gold(self, start: Any) -> list[str]:
        with self._lock:
            return list(self._anew("gold", start))

    def close(self) -> None:
        """End the process where there is one; it is started again when it is asked."""
        with self._lock:
            self._bury()

    def _anew(self, name: str, *args: Any) -> Any:
        """A request that needs no episode: one found dead is started again for it."""
        while True:
            with suppress(Lost):
                return self._exchange(name, *args)

    def _exchange(self, name: str, *args: Any) -> Any:
        """Raises Lost where the worker, or its simulator, is found dead: this request is not what it died of."""
        if self._process is not None and not self._process.is_alive():
            self._mourn()
            raise Lost
        if self._pipe is None:
            self._start()
        return self._request((name, args), self._patience + _MARGIN)

    def _start(self) -> None:
        self._pipe, theirs = SPAWN.Pipe()
        self._process = start_process(_serve, (self._opener, theirs), name=self._name, leaf=True)
        theirs.close()
        self._request(None, START_PATIENCE)

    def _request(self, request: tuple[str, tuple[Any, ...]] | None, patience: float) -> Any:
        """Send a request (None: just started) and wait for its answer; whatever else happens is the worker's end."""
        assert self._pipe is not None, "asked after the start"
        try:
            if request is not None:
                self._pipe.send(request)
            if not self._pipe.poll(patience):
                raise EOFError
            answer = self._pipe.recv()
        except (EOFError, OSError):
            self._mourn()
            raise EnvDied(f"{self._name} ended, or did not answer in {patience:.0f} s") from None
        except BaseException:  # an interruption between question and answer: the next answer would be the wrong one
            self._bury()
            raise
        if answer == _DEAD_BEFORE or (isinstance(answer, Failure) and answer.kind is EnvDied):
            self._mourn()
        if answer == _DEAD_BEFORE:
            raise Lost
        if isinstance(answer, Failure):
            if answer.kind is ConfigError:  # it could not even be opened
                self._bury()
            raise answer.error()
        return answer

    def _mourn(self) -> None:
        self.deaths += 1
        self._bury()

    def _bury(self) -> None:
        """End what is left of the process, and reap it."""
        if self._process is None or self._pipe is None:
            return
        self._pipe.close()
        end_process(self._process, _SECONDS_TO_END)
        self._process.close()
        self._process = self._pipe = None
        self.generation += 1
        self.seats.clear()


class Pool:
    """Some workers, started when they are first needed."""

    def __init__(self, opener: Opener, *, size: int, patience: float, name: str) -> None:
        self.workers = [Worker(opener, patience, f"worker {number} of {name}") for number in range(size)]
        self._numbers = count()
        weakref.finalize(self, _close, self.workers)

    @property
    def deaths(self) -> int:
        """How often a worker, or the simulator in it, died, or hung and was ended."""
        return sum(worker.deaths for worker in self.workers)

    def seat(self) -> Seat:
        return Seat(self, next(self._numbers))

    def choose(self, avoid: Worker | None = None) -> Worker:
        """The worker with fewest episodes, another one than `avoid` where there is one."""
        others = [worker for worker in self.workers if worker is not avoid] or self.workers
        return min(others, key=lambda worker: len(worker.seats))

    def gold(self, start: Any) -> list[str]:
        """The simulator's own solution; asked a second time where the worker died of it."""
        try:
            return self.choose().gold(start)
        except EnvDied:
            return self.choose().gold(start)

    def close(self) -> None:
        _close(self.workers)


def _close(workers: Sequence[Worker]) -> None:
    for worker in workers:
        worker.close()


class Seat:
    """One episode in some worker, and all that is needed to play it again in another."""

    def __init__(self, pool: Pool, number: int) -> None:
        self._pool, self._number = pool, number
        self._worker: Worker | None = None
        self._generation = _NOWHERE
        self._start: Any = None
        self._first = ""
        self._played: list[tuple[str, StepResult]] = []

    def begin(self, start: Any) -> str:
        """Begin another episode; returns its first observation."""
        self._start, self._first, self._played = start, "", []
        self._first = self._twice(self._enter)
        return self._first

    def act(self, action: str) -> StepResult:
        result = self._twice(lambda: self._act(action))
        self._played.append((action, result))
        return result

    def leave(self) -> None:
        """Give the episode up."""
        if self._worker is not None:
            self._worker.leave(self._generation, self._number)
            self._worker = None

    def _twice(self, do: Callable[[], T]) -> T:
        """Do it, and where the worker dies of it once more in another one."""
        try:
            return do()
        except EnvDied:
            self._worker, self._generation = self._pool.choose(avoid=self._worker), _NOWHERE
            return do()

    def _act(self, action: str) -> StepResult:
        while True:
            assert self._worker is not None, "begun before it is played"
            try:
                return self._worker.ask(self._generation, self._number, action)
            except Lost:
                self._enter()

    def _enter(self) -> str:
        """Begin the episode in a worker and play again what was played.

        Raises EnvError where an answer is not the one of before.
        """
        if self._worker is None:
            self._worker = self._pool.choose()
        while True:
            self._generation, first = self._worker.begin(self._number, self._start)
            try:
                again = [self._worker.ask(self._generation, self._number, action) for action, _ in self._played]
            except Lost:
                continue
            if (self._first or first) != first or again != [result for _, result in self._played]:
                raise EnvError("an episode that was begun again in another worker went another way")
            return first


def _serve(opener: Opener, pipe: Connection) -> None:
    """What a worker does: answer requests until there are no more, or its simulator is dead."""
    logging.disable()  # py4j's
    try:
        simulator = opener()
    except EefError as error:
        pipe.send(Failure.of(error))
        return
    try:
        pipe.send(None)
        while True:
            name, args = pipe.recv()
            if not simulator.is_alive():
                pipe.send(_DEAD_BEFORE)
                return
            try:
                pipe.send(getattr(simulator, name)(*args))
            except EefError as error:
                pipe.send(Failure.of(error))
    except EOFError:
        pass
    finally:
        simulator.close()


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
        self._opener = opener
        self.pool = Pool(opener, size=settings.workers, patience=settings.patience, name=self.name)
        self._seat: Seat | None = None
        self._is_clone = False

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
        raise EnvError(f"{self.name} has no snapshots", hint="play the recorded actions again (`eef.env.replay`)")

    def restore(self, snapshot: Any) -> None:
        self.snapshot()

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
