"""Pool: some workers, and the seats in them. A seat is one episode in some worker.

Where a worker dies, or does not answer, it is ended and started anew; its episodes are begun again elsewhere and their
actions played again, with every answer compared, so that whoever plays them never notices. Only the request during
which a worker died counts: where it dies of the same request a second time, elsewhere, EnvDied goes to the caller and
the rollout is recorded as an error.
"""

from __future__ import annotations

import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any, TypeVar

from eef.env import StepResult
from eef.envs.simulators.worker import Lost, Opener, Worker
from eef.errors import EnvDied, EnvError

_NOWHERE = -1  # the generation of an episode that has to be begun again

T = TypeVar("T")


class Pool:
    """Some workers, started when they are first needed."""

    def __init__(self, opener: Opener, *, size: int, patience: float, name: str) -> None:
        self.workers = [
            Worker(opener, patience, f"worker {number} of {name}") for number in range(size)
        ]
        self._numbers = count()
        self._lock = threading.Lock()
        self._coming: Counter[Worker] = Counter()
        weakref.finalize(self, _close, self.workers)

    @property
    def restarts(self) -> int:
        """How often a worker, or the simulator in it, died, or hung and was ended."""
        return sum(worker.restarts for worker in self.workers)

    def seat(self) -> Seat:
        return Seat(self, next(self._numbers))

    def choose(self, avoid: Worker | None = None) -> Worker:
        """The worker with fewest episodes, counting those on their way; another one than `avoid` where there is one."""
        others = [worker for worker in self.workers if worker is not avoid] or self.workers
        return min(others, key=lambda worker: len(worker.seats) + self._coming[worker])

    @contextmanager
    def on_the_way(self) -> Iterator[Worker]:
        """The worker with fewest episodes, for something that counts as one of its own as long as this lasts: of many
        threads that ask at once, each is told another one."""
        with self._lock:
            worker = self.choose()
            self._coming[worker] += 1
        try:
            yield worker
        finally:
            with self._lock:
                self._coming[worker] -= 1

    def gold(self, start: Any) -> list[str]:
        """The simulator's own solution; asked a second time where the worker died of it."""
        try:
            with self.on_the_way() as worker:
                return worker.gold(start)
        except EnvDied:
            with self.on_the_way() as worker:
                return worker.gold(start)

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
        """Begin another episode, in another worker where there are fewer; returns its first observation."""
        freest = self._pool.choose()
        if self._worker is not None and len(freest.seats) + 1 < len(self._worker.seats):
            self.leave()
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
            with self._pool.on_the_way() as self._worker:
                return self._enter()
        while True:
            self._generation, first = self._worker.begin(self._number, self._start)
            try:
                again = [
                    self._worker.ask(self._generation, self._number, action)
                    for action, _ in self._played
                ]
            except Lost:
                continue
            if (self._first or first) != first or again != [result for _, result in self._played]:
                raise EnvError("an episode that was begun again in another worker went another way")
            return first
