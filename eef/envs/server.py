"""An HTTP server for episodes of one environment, with AgentGym's API for its clients.

Each session is an episode in a clone of the environment; read-only data is shared.

    POST /create                         → number of a new session, with an episode of a random task
    POST /reset   {env_idx, session_id, seed?}
                                         → [observation, null]; `session_id` is a task index, or
                                           null for a random task; `seed` (0) is the episode's, if
                                           the environment is seeded
    POST /restore {env_idx, session_id, actions, observations, seed?}
                                         → [observation, null]; the state of a task after `actions`,
                                           each replayed and each observation compared: those before
                                           the actions, and the one in the state
    POST /step    {env_idx, action}      → {state, reward, done, info: null, score, success}: the
                                           reward of this step, and the outcome of the episode if it
                                           ended here, those before a restored state included
    POST /close   {env_idx}              → {closed}: whether the session existed
    GET  /observation?env_idx=           → the last observation
    GET  /instruction_text?env_idx=      → "Instruction: " and the task in words
    GET  /available_actions?env_idx=     → the actions available now
                                           (WebShop: {has_search_bar, clickables})
    GET  /list_envs                      → numbers of all sessions
    GET  /                               → "ok"

An error is {error, hint} with status 404 (unknown session), 413 or 422 (invalid body, unknown task)
or 503 (all sessions are taken; try again later).
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import uvicorn
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from eef.env import Env, StepResult, execute, seeded_task
from eef.errors import ConfigError, EnvError, ReplayMismatch
from eef.replay import compare_observations, replay
from eef.task import Task
from eef.trajectory import Author, PathStep, Step
from eef.utils.sockets import listen

LOG = logging.getLogger(__name__)
LARGEST_BODY = 1 << 20
SWEEPS = 4  # checks for idle sessions per `idle_s`
_RECORDER = Author("expert", "record")  # who played a path that a client sends


@runtime_checkable
class Servable(Env, Protocol):
    """Members that an environment must have, beyond the protocol, to be served.

    task_count   number of tasks; they are numbered from 0
    task         the task of a number; EnvError if it does not exist
    available    the actions available now, as JSON data
    """

    @property
    def task_count(self) -> int: ...
    def task(self, index: int) -> Task: ...
    def available(self) -> dict[str, Any]: ...


class Refusal(Exception):
    """A request that gets an error as its answer."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.hint = status, message, hint


@dataclass(slots=True)
class Session:
    """One episode in progress. `lock` admits one request at a time; `used` is its last use."""

    env: Servable
    used: float
    observation: str = ""
    instruction: str = ""
    rewards: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reset(self, task: Task, seed: int = 0) -> str:
        self.observation = self.env.reset(seeded_task(self.env, task, seed))
        self.instruction, self.rewards = task.instruction, []
        return self.observation

    def score(self) -> float:
        """The final reward of the episode if it ended now."""
        return float(self.env.score(self.rewards))


class Sessions:
    """Episodes of an environment by number, safe to use from several threads.

    At most `limit` sessions are open at a time. A session without requests for `idle_s` seconds is
    closed. `seed` determines the random tasks, `clock` returns seconds.
    """

    def __init__(
        self,
        env: Servable,
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
        self._lock = threading.Lock()

    @property
    def success_threshold(self) -> float:
        return self._env.success_threshold

    def create(self) -> int:
        """Start a session with an episode; returns its number. Refusal if all are taken."""
        self.expire()
        with self._lock:
            if len(self._open) >= self.limit:
                raise Refusal(
                    503, f"all {self.limit} sessions are taken", "close one, or try again later"
                )
            number = next(self._numbers)
            env = cast(Servable, self._env.clone())
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
            return session.reset(task, seed)

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
            session.instruction = task.instruction
            result, _, rewards = replay(session.env, seeded_task(session.env, task, seed), path)
            session.observation, session.rewards = result.observation, list(rewards)
            if result.terminated:
                raise Refusal(422, f"the episode of {task.id} is over in this state")
            match = compare_observations(session.env.ignored, observations[-1], result.observation)
            if match == "different":
                raise ReplayMismatch(
                    f"replay of {task.id}: the observation in the state differs from the record",
                    step=len(actions),
                    expected=observations[-1],
                    observed=result.observation,
                )
            return result.observation

    def step(self, number: int, action: str) -> tuple[StepResult, float]:
        """Execute an action; returns its result and the score so far."""
        with self.at(number) as session:
            result = execute(session.env, action)
            session.observation = result.observation
            session.rewards.append(result.reward)
            return result, session.score()

    def close(self, number: int) -> bool:
        """Close a session; returns whether it existed."""
        with self._lock:
            session = self._open.pop(number, None)
        if session is not None:
            with session.lock:
                session.env.close()
        return session is not None

    def expire(self) -> None:
        """Close the sessions that were idle for too long."""
        with self._lock:
            last = self._clock() - self.idle_s
            idle = [number for number, session in self._open.items() if session.used < last]
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
            yield session

    def _unknown(self, number: int) -> Refusal:
        return Refusal(
            404,
            f"no session {number}: it was never created, or closed, or idle for {self.idle_s:g} s",
            "create one: POST /create",
        )

    def _task(self, index: int | None) -> Task:
        if index is None:
            with self._lock:
                index = self._chance.randrange(self._env.task_count)
        return self._env.task(index)


class Nothing(BaseModel):
    """A request without fields."""


class Which(BaseModel):
    """A request to a session."""

    model_config = ConfigDict(extra="ignore")
    env_idx: int


class Reset(Which):
    session_id: int | None = None
    seed: int = 0


class Restore(Which):
    session_id: int
    actions: list[str]
    observations: list[str]
    seed: int = 0


class Act(Which):
    action: str


Query = TypeVar("Query", bound=BaseModel)
Answer = Callable[[Sessions, Any], Any]


def _step(sessions: Sessions, query: Act) -> dict[str, Any]:
    result, score = sessions.step(query.env_idx, query.action)
    return {
        "state": result.observation,
        "reward": float(result.reward),
        "done": result.terminated,
        "info": None,
        "score": score,
        "success": score >= sessions.success_threshold,
    }


def _look(read: Callable[[Session], Any]) -> Answer:
    """An answer that is read from a session."""

    def answer(sessions: Sessions, query: Which) -> Any:
        with sessions.at(query.env_idx) as session:
            return read(session)

    return answer


VERBS: dict[str, tuple[str, type[BaseModel], Answer]] = {
    "/": ("GET", Nothing, lambda sessions, query: "ok"),
    "/list_envs": ("GET", Nothing, lambda sessions, query: sessions.numbers()),
    "/create": ("POST", Nothing, lambda sessions, query: sessions.create()),
    "/reset": (
        "POST",
        Reset,
        lambda sessions, query: [
            sessions.reset(query.env_idx, query.session_id, query.seed),
            None,
        ],
    ),
    "/restore": (
        "POST",
        Restore,
        lambda sessions, query: [
            sessions.restore(
                query.env_idx, query.session_id, query.actions, query.observations, query.seed
            ),
            None,
        ],
    ),
    "/step": ("POST", Act, _step),
    "/close": ("POST", Which, lambda sessions, query: {"closed": sessions.close(query.env_idx)}),
    "/observation": ("GET", Which, _look(lambda session: session.observation)),
    "/instruction_text": (
        "GET",
        Which,
        _look(lambda session: f"Instruction: {session.instruction}"),
    ),
    "/available_actions": ("GET", Which, _look(lambda session: session.env.available())),
}


def make_app(sessions: Sessions) -> Starlette:
    """The web application. It closes idle sessions while it runs, and all sessions at its end."""

    @asynccontextmanager
    async def sweeping(app: Starlette) -> AsyncIterator[None]:
        sweeper = asyncio.create_task(_sweep(sessions))
        yield
        sweeper.cancel()
        for number in sessions.numbers():
            sessions.close(number)

    app = Starlette(
        routes=[
            Route(path, _endpoint(sessions, *verb), methods=[verb[0]])
            for path, verb in VERBS.items()
        ],
        exception_handlers={HTTPException: _http_error},
        lifespan=sweeping,
    )
    app.router.redirect_slashes = False  # a redirect would name the host that the client claims
    return app


async def _sweep(sessions: Sessions) -> None:
    while True:
        await asyncio.sleep(sessions.idle_s / SWEEPS)
        await run_in_threadpool(sessions.expire)


def _endpoint(sessions: Sessions, method: str, kind: type[BaseModel], answer: Answer) -> Any:
    async def endpoint(request: Request) -> Response:
        try:
            query = await _read(request, kind)
            return _json(await run_in_threadpool(answer, sessions, query))
        except Refusal as error:
            return _refusal(error.status, error.message, error.hint)
        except EnvError as error:
            return _refusal(422, error.message, error.hint)
        except ClientDisconnect:
            return _refusal(400, f"{request.url.path}: the body ended early")  # nobody reads this
        except Exception as error:  # the framework would close the connection
            LOG.exception("%s failed", request.url.path)
            return _refusal(
                500,
                f"{request.url.path}: {type(error).__name__}: {error}",
                "the server's log has more",
            )

    return endpoint


async def _read(request: Request, kind: type[Query]) -> Query:
    """Parse a request from its body or query string. Raises Refusal."""
    try:
        if kind is Nothing:
            return kind()
        if request.method == "POST":
            return kind.model_validate_json(await _body(request), strict=True)
        return kind.model_validate_strings(dict(request.query_params))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the body"
        raise Refusal(422, f"{request.url.path}: {place}: {first['msg']}", _wants(kind)) from None


def _wants(kind: type[BaseModel]) -> str:
    return f"expected: {', '.join(kind.model_fields)}"


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > LARGEST_BODY:
            raise Refusal(413, f"a body may have at most {LARGEST_BODY:,} bytes")
    return bytes(body)


def _json(value: Any, status: int = 200) -> Response:
    # ASCII only, so that text with a lone surrogate can be sent.
    return Response(json.dumps(value), status, media_type="application/json")


def _refusal(status: int, message: str, hint: str = "") -> Response:
    return _json({"error": message, "hint": hint}, status)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = ", ".join(f"{method} {path}" for path, (method, *_) in VERBS.items())
    return _refusal(
        error.status_code,
        f"{request.method} {request.url.path}: {error.detail}",
        f"known requests: {known}",
    )


def serve(
    env: Env, *, host: str, port: int, limit: int, idle_s: float, ready: Callable[[str], None]
) -> None:
    """Serve an environment until the process is stopped.

    `ready` is called with the address once it accepts requests. Port 0 stands for any free port.
    Raises ConfigError if the environment cannot be served or the address cannot be bound.
    """
    if not isinstance(env, Servable):
        raise ConfigError(
            f"environment {env.name!r} cannot be served",
            hint="implement `task_count`, `task(index)` and `available()`",
        )
    app = make_app(Sessions(env, limit=limit, idle_s=idle_s))
    with listen(host, port) as listener:
        name = f"[{host}]" if ":" in host else host
        ready(f"http://{name}:{listener.getsockname()[1]}")
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=5
        )
        uvicorn.Server(config).run(sockets=[listener])
