"""A worker process that holds one simulator with any number of episodes, and its protocol.

The parent sends requests (`Worker`), the process answers them (`_serve`), one at a time.
`eef.envs.simulators.pool` distributes episodes over workers.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, Protocol

from eef.env import StepResult
from eef.errors import ConfigError, EefError, EnvDied, EnvError
from eef.utils.processes import SPAWN, Failure, end_process, start_process

START_TIMEOUT = 120.0  # seconds for a fresh interpreter and its JVM on a busy machine
_MARGIN = 10.0  # the worker's own timeout for its simulator expires before the parent's
_SECONDS_TO_NOTICE = 3.0  # that its pipe is closed, which it cannot notice during a call
_SECONDS_TO_END = 5.0
_GUARD = (
    "workers import the main script: put the code that starts them under "
    '`if __name__ == "__main__":`'
)
_WAS_DEAD = "the simulator was dead before the request"


class Simulator(Protocol):
    """Many episodes in one process, each in a numbered slot.

    `spec` is whatever the simulator needs to start an episode. `step` after the end of an episode
    returns `AFTER_END`. Raises EnvError if one episode cannot continue, EnvDied if none can.
    """

    def reset(self, slot: int, spec: Any) -> str: ...
    def step(self, slot: int, action: str) -> StepResult: ...
    def release(self, slot: int) -> None: ...
    def gold_actions(self, spec: Any) -> list[str]:
        """The simulator's own solution of an episode, not played yet."""
        ...

    def is_alive(self) -> bool: ...
    def close(self) -> None: ...


SimulatorFactory = Callable[[], Simulator]
"""Creates a simulator inside the worker. It is pickled, so use a dataclass with `__call__`."""


class WorkerRestarted(Exception):
    """The worker was restarted after the episode started in it, so the episode is gone."""


class Worker:
    """One worker process; `step` may be called from any thread.

    generation  number of processes this worker has had so far
    restarts    how many of them died or hung
    slots       episodes in the current process
    """

    def __init__(self, factory: SimulatorFactory, timeout: float, name: str) -> None:
        self.generation = self.restarts = 0
        self.slots: set[int] = set()
        self._factory, self._timeout, self._name = factory, timeout, name
        self._lock = threading.Lock()
        self._process: SpawnProcess | None = None
        self._pipe: Connection | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def reset(self, slot: int, spec: Any) -> tuple[int, str]:
        """Start an episode; returns the worker's generation and the first observation."""
        with self._lock:
            first = self._call_restarting("reset", slot, spec)
            self.slots.add(slot)
            return self.generation, str(first)

    def step(self, generation: int, slot: int, action: str) -> StepResult:
        """Continue an episode. Raises WorkerRestarted if its process is gone."""
        with self._lock:
            if generation != self.generation:
                raise WorkerRestarted
            result = self._call("step", slot, action)
            assert isinstance(result, StepResult)
            return result

    def release(self, generation: int, slot: int) -> None:
        """Drop an episode."""
        with self._lock:
            if generation == self.generation:
                self.slots.discard(slot)
                with suppress(EnvDied, WorkerRestarted):  # the episode is gone either way
                    self._call("release", slot)

    def gold_actions(self, spec: Any) -> list[str]:
        with self._lock:
            return list(self._call_restarting("gold_actions", spec))

    def close(self) -> None:
        """End the process, if there is one; the next request starts another."""
        with self._lock:
            self._reap()

    def _call_restarting(self, name: str, *args: Any) -> Any:
        """Send a request that needs no existing episode, restarting a dead worker first."""
        with suppress(WorkerRestarted):
            return self._call(name, *args)
        try:
            return self._call(name, *args)
        except WorkerRestarted:
            raise EnvDied(f"{self._name} ended as soon as it was started") from None

    def _call(self, name: str, *args: Any) -> Any:
        """Send a request.

        Raises WorkerRestarted if the worker or its simulator was already dead (this request is not
        the cause), EnvDied if it dies or hangs during the request.
        """
        if self._has_ended():
            self._record_death()
            raise WorkerRestarted
        if not self._is_started():
            self._start()
        return self._request((name, args), self._timeout + _MARGIN)

    def _is_started(self) -> bool:
        return self._pipe is not None

    def _has_ended(self) -> bool:
        """Whether the process has ended since its last answer."""
        return self._process is not None and not self._process.is_alive()

    def _start(self) -> None:
        ours, theirs = SPAWN.Pipe()
        try:
            self._process = start_process(
                _serve, (self._factory, theirs), name=self._name, leaf=True
            )
        except OSError as error:
            ours.close()
            raise EnvError(
                f"cannot start {self._name}: {error}", hint="lower `env.workers`"
            ) from error
        finally:
            theirs.close()
        self._pipe = ours
        self._request(None, START_TIMEOUT)

    def _request(self, request: tuple[str, tuple[Any, ...]] | None, timeout: float) -> Any:
        """Send a request (None right after the start) and wait for the answer.

        Any other outcome ends the worker.
        """
        assert self._pipe is not None, "the process is started before its first request"
        try:
            if request is not None:
                self._pipe.send(request)
            if not self._pipe.poll(timeout):
                raise TimeoutError
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._record_death()
            if isinstance(error, TimeoutError):
                what, hint = f"did not answer in {timeout:.0f} s", "raise `env.timeout`"
            elif request is None:
                what, hint = "ended while it was starting", _GUARD
            else:
                what, hint = "ended", "raise `env.memory`"
            raise EnvDied(f"{self._name} {what}", hint=hint) from None
        except BaseException:
            # Interrupted between request and answer: the next request would read this answer.
            self._reap()
            raise
        return self._read(answer)

    def _read(self, answer: Any) -> Any:
        """The value of an answer. An error that it holds is raised."""
        if answer == _WAS_DEAD or (isinstance(answer, Failure) and answer.kind is EnvDied):
            self._record_death()
        if answer == _WAS_DEAD:
            raise WorkerRestarted
        if isinstance(answer, Failure):
            if answer.kind is ConfigError:  # the simulator could not be created
                self._reap()
            raise answer.error()
        return answer

    def _record_death(self) -> None:
        self.restarts += 1
        self._reap()

    def _reap(self) -> None:
        """End what is left of the process and wait for it."""
        if self._process is None or self._pipe is None:
            return
        self._pipe.close()
        # No signal yet: it could interrupt the process while it ends its simulator.
        self._process.join(_SECONDS_TO_NOTICE)
        end_process(self._process, _SECONDS_TO_END)
        self._process.close()
        self._process = self._pipe = None
        self._forget_episodes()

    def _forget_episodes(self) -> None:
        self.generation += 1
        self.slots.clear()


class Host:
    """A simulator in the process of a worker, and the answers to its parent's requests."""

    def __init__(self, factory: SimulatorFactory) -> None:
        logging.disable()  # py4j's
        self._simulator = factory()

    def answer(self, name: str, args: tuple[Any, ...]) -> Any:
        """The result of a method of the simulator, or the EefError that it raised."""
        if not self._simulator.is_alive():
            return _WAS_DEAD
        try:
            return getattr(self._simulator, name)(*args)
        except EefError as error:
            return Failure.of(error)

    def close(self) -> None:
        self._simulator.close()


def _serve(factory: SimulatorFactory, pipe: Connection) -> None:
    """Main function of a worker: answer requests until the pipe closes or the simulator dies."""
    try:
        host = Host(factory)
    except EefError as error:
        pipe.send(Failure.of(error))
        return
    try:
        pipe.send(None)
        while True:
            answer = host.answer(*pipe.recv())
            pipe.send(answer)
            if answer == _WAS_DEAD:
                return
    except (EOFError, BrokenPipeError):  # the parent is gone, or no longer waits
        pass
    finally:
        host.close()
