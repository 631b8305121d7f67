"""An HTTP server for episodes of one environment, with AgentGym's API for its clients.

Each session is an episode in a clone of the environment; read-only data is shared.

    POST /create                         → number of a new session, with an episode of a random task
    POST /reset   {env_idx, session_id, seed?}
                                         → [observation, null]; `session_id` is the index of a task,
                                           or null for a random one; `seed` (0) is the episode's, if
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
    GET  /available_actions?env_idx=     → the actions available now, where the environment lists
                                           them (WebShop: {has_search_bar, clickables})
    GET  /list_envs                      → numbers of all sessions
    GET  /                               → "ok"

An error is {error, hint} with status 404 (unknown session, no list of actions), 413 or 422 (invalid
body, unknown task) or 503 (all sessions are taken; try again later).
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import uvicorn
from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from eef.env import Env
from eef.envs.sessions import Refusal, Session, Sessions
from eef.errors import EnvError
from eef.utils.sockets import listen

LOG = logging.getLogger(__name__)
LARGEST_BODY = 1 << 20
SWEEPS = 4  # checks for idle sessions per `idle_s`


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
    "/available_actions": ("GET", Which, lambda sessions, query: sessions.available(query.env_idx)),
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
    ConfigError if it has no task, two tasks share an index, or the address cannot be bound.
    """
    app = make_app(Sessions(env, limit=limit, idle_s=idle_s))
    with listen(host, port) as listener:
        name = f"[{host}]" if ":" in host else host
        ready(f"http://{name}:{listener.getsockname()[1]}")
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=5
        )
        uvicorn.Server(config).run(sockets=[listener])
