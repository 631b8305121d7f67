"""Worker: a process that holds one simulator with any number of episodes, and what goes to and fro.

The parent asks (`Worker`), the process answers (`_serve`), one request at a time. Beneath `eef.envs.simulators.pool`.
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

START_PATIENCE = 120.0  # seconds for a fresh interpreter and its JVM, on a machine that is busy
_MARGIN = 10.0  # a worker gives its simulator up before it is given up itself
_SECONDS_TO_NOTICE = 3.0  # that its pipe is closed; it does not while a call hangs
_SECONDS_TO_END = 5.0
_GUARD = 'workers import the script that starts them: what it does must stand below `if __name__ == "__main__":`'
_DEAD_BEFORE = "dead before it was asked"
OVER = "The episode is over."


class Simulator(Protocol):
    """What a worker holds: many episodes, each under the number of its seat. `start` says what an episode begins with.

    `act` after the end of an episode answers `OVER`. EnvError: that episode cannot go on; EnvDied: none can.
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


class Lost(Exception):
    """The worker was started anew since the episode began in it."""


class Worker:
    """One process and what goes to and fro; `ask` may be called from any thread and is answered in turn.

    `generation` counts the processes that it has had, `restarts` those that died or hung; `seats` are the episodes in the
    present one.
    """

    def __init__(self, opener: Opener, patience: float, name: str) -> None:
        self.generation = self.restarts = 0
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
        """A request that needs no episode: a worker found dead is started again for it."""
        with suppress(Lost):
            return self._exchange(name, *args)
        try:
            return self._exchange(name, *args)
        except Lost:
            raise EnvDied(f"{self._name} ended as soon as it was started") from None

    def _exchange(self, name: str, *args: Any) -> Any:
        """Raises Lost where the worker, or its simulator, is found dead: this request is not what it died of."""
        if self._process is not None and not self._process.is_alive():
            self._mourn()
            raise Lost
        if self._pipe is None:
            self._start()
        return self._request((name, args), self._patience + _MARGIN)

    def _start(self) -> None:
        ours, theirs = SPAWN.Pipe()
        try:
            self._process = start_process(
                _serve, (self._opener, theirs), name=self._name, leaf=True
            )
        except OSError as error:
            ours.close()
            raise EnvError(
                f"{self._name} cannot be started ({error})", hint="fewer `env.workers`?"
            ) from error
        finally:
            theirs.close()
        self._pipe = ours
        self._request(None, START_PATIENCE)

    def _request(self, request: tuple[str, tuple[Any, ...]] | None, patience: float) -> Any:
        """Send a request (None: just started) and wait for its answer; whatever else happens is the worker's end."""
        assert self._pipe is not None, "asked after the start"
        try:
            if request is not None:
                self._pipe.send(request)
            if not self._pipe.poll(patience):
                raise TimeoutError
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._mourn()
            if isinstance(error, TimeoutError):
                what, hint = f"did not answer in {patience:.0f} s", "raise `env.patience`?"
            elif request is None:
                what, hint = "ended when it was started", _GUARD
            else:
                what, hint = "ended", "raise `env.memory`?"
            raise EnvDied(f"{self._name} {what}", hint=hint) from None
        except (
            BaseException
        ):  # an interruption between question and answer: the next answer would be the wrong one
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
        self.restarts += 1
        self._bury()

    def _bury(self) -> None:
        """End what is left of the process, and reap it."""
        if self._process is None or self._pipe is None:
            return
        self._pipe.close()
        self._process.join(
            _SECONDS_TO_NOTICE
        )  # a signal on top could stop it while it ends its simulator
        end_process(self._process, _SECONDS_TO_END)
        self._process.close()
        self._process = self._pipe = None
        self.generation += 1
        self.seats.clear()


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
    except (EOFError, BrokenPipeError):  # nobody asks, or waits for the answer, any more
        pass
    finally:
        simulator.close()
