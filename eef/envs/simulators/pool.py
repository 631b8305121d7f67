"""A pool of workers and the slots in them. A slot is one episode in some worker.

A worker that dies or hangs is restarted. Its episodes are restarted in another worker and their
actions replayed, with every result compared, so callers do not notice. Only the request during
which a worker died counts: if a second worker dies of the same request, EnvDied reaches the caller
and the rollout is recorded as failed.
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
from eef.envs.simulators.worker import SimulatorFactory, Worker, WorkerRestarted
from eef.errors import EnvDied, EnvError

_NOWHERE = -1  # the generation of an episode that has to be restarted

T = TypeVar("T")


class Pool:
    """Several workers of some `kind`, each started on first use."""

    def __init__(
        self,
        factory: SimulatorFactory,
        *,
        size: int,
        timeout: float,
        name: str,
        kind: Callable[[SimulatorFactory, float, str], Worker] = Worker,
    ) -> None:
        self.workers = [
            kind(factory, timeout, f"worker {number} of {name}") for number in range(size)
        ]
        self._numbers = count()
        self._lock = threading.Lock()
        self._reserved: Counter[Worker] = Counter()
        weakref.finalize(self, _close, self.workers)

    @property
    def restarts(self) -> int:
        """How often a worker or its simulator died or hung."""
        return sum(worker.restarts for worker in self.workers)

    def slot(self) -> Slot:
        """A slot of its own number, in no worker yet."""
        return Slot(self, next(self._numbers))

    def choose(self, avoid: Worker | None = None) -> Worker:
        """The worker with the fewest episodes and reservations, if possible not `avoid`."""
        others = [worker for worker in self.workers if worker is not avoid] or self.workers
        return min(others, key=lambda worker: len(worker.slots) + self._reserved[worker])

    @contextmanager
    def reserve(self) -> Iterator[Worker]:
        """The worker with the fewest episodes, counted as having one more inside the block.

        Threads that reserve at the same time thus get different workers.
        """
        with self._lock:
            worker = self.choose()
            self._reserved[worker] += 1
        try:
            yield worker
        finally:
            with self._lock:
                self._reserved[worker] -= 1

    def gold_actions(self, spec: Any) -> list[str]:
        """The simulator's own solution; requested a second time if the worker dies."""
        try:
            with self.reserve() as worker:
                return worker.gold_actions(spec)
        except EnvDied:
            with self.reserve() as worker:
                return worker.gold_actions(spec)

    def close(self) -> None:
        _close(self.workers)


def _close(workers: Sequence[Worker]) -> None:
    for worker in workers:
        worker.close()


class Slot:
    """One episode in some worker, with everything needed to replay it in another."""

    def __init__(self, pool: Pool, number: int) -> None:
        self._pool, self._number = pool, number
        self._worker: Worker | None = None
        self._generation = _NOWHERE
        self._spec: Any = None
        self._first = ""
        self._played: list[tuple[str, StepResult]] = []

    def reset(self, spec: Any) -> str:
        """Start another episode and return its first observation.

        The slot moves to another worker if that one holds fewer episodes.
        """
        freest = self._pool.choose()
        if self._worker is not None and len(freest.slots) + 1 < len(self._worker.slots):
            self.release()
        self._spec, self._first, self._played = spec, "", []
        self._first = self._retry(self._enter)
        return self._first

    def step(self, action: str) -> StepResult:
        result = self._retry(lambda: self._step(action))
        self._played.append((action, result))
        return result

    def release(self) -> None:
        """Drop the episode."""
        if self._worker is not None:
            self._worker.release(self._generation, self._number)
            self._worker = None

    def _retry(self, do: Callable[[], T]) -> T:
        """Call `do`, and if the worker dies of it, once more in another worker."""
        try:
            return do()
        except EnvDied:
            self._worker, self._generation = self._pool.choose(avoid=self._worker), _NOWHERE
            return do()

    def _step(self, action: str) -> StepResult:
        while True:
            assert self._worker is not None, "`reset` comes before `step`"
            try:
                return self._worker.step(self._generation, self._number, action)
            except WorkerRestarted:
                self._enter()

    def _enter(self) -> str:
        """Start the episode in a worker and replay the recorded actions.

        Raises EnvError if a result differs from the recorded one.
        """
        if self._worker is None:
            with self._pool.reserve() as self._worker:
                return self._enter()
        while True:
            self._generation, first = self._worker.reset(self._number, self._spec)
            try:
                again = [
                    self._worker.step(self._generation, self._number, action)
                    for action, _ in self._played
                ]
            except WorkerRestarted:
                continue
            if (self._first or first) != first or again != [result for _, result in self._played]:
                raise EnvError("an episode did not repeat when it was replayed in another worker")
            return first
