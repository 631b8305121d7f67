"""An environment served over HTTP in a thread of the tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import uvicorn

from eef.env import Env
from eef.envs.server import make_app
from eef.envs.sessions import Sessions
from eef.utils.sockets import listen


def sessions_of(env: Env, **settings: Any) -> Sessions:
    return Sessions(env, **{"limit": 100, "idle_s": 1e6, **settings})


@contextmanager
def listening(sessions: Sessions) -> Iterator[httpx2.Client]:
    """Serve sessions in a thread; yields a client."""
    with listen("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(make_app(sessions), log_level="critical"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            with httpx2.Client(
                base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=60
            ) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()
