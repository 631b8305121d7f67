"""The server of the viewer: pages on loopback, below a random key that is part of the address."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from eef.errors import EefError
from eef.utils.sockets import listen
from eef.viewer.address import NAMED, VIEWS, Address, View, served
from eef.viewer.assets import ASSETS, read_asset
from eef.viewer.library import Library
from eef.viewer.open_run import OpenRun, show_links
from eef.viewer.page import NotFound
from eef.viewer.site import Site

LOG = logging.getLogger(__name__)
HOST = "127.0.0.1"
FOLLOW_S = 1.0
"""Seconds between two looks at the files of a run."""

CONTENT_POLICY = (
    "default-src 'none'; style-src 'self' 'unsafe-inline'; script-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def make_app(library: Library, key: str, ticket: str = "") -> Starlette:
    """The web application. All paths start with the key; any other path is answered by 404.

    `/open/{ticket}` leads to the first page, once. A browser is started with that address, since
    every user of the machine can read its command line.
    """
    tickets = {ticket} - {""}
    site = Site(library, served(f"/{key}"))

    def endpoint(address_of: Callable[[Request], Address]) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            try:
                text = await run_in_threadpool(site.draw, address_of(request))
                return _page(text)
            except NotFound as error:
                return _page(site.draw_error(error), 404)
            except EefError as error:
                return _page(site.draw_error(error), 500)

        return answer

    def view(name: View) -> Callable[[Request], Address]:
        def address(request: Request) -> Address:
            parameters = request.path_params
            return Address(
                name,
                parameters.get("run", ""),
                parameters.get("name", ""),
                tuple((key, value) for key, value in request.query_params.items() if value),
            )

        return address

    async def report(request: Request) -> Response:
        """The report that lies in the run directory, with its links into these pages."""
        run = site.runs.get(request.path_params["run"])
        if run is None or run.report is None:
            return _page(site.draw_error(NotFound("this run has no report yet")), 404)
        text = await run_in_threadpool(run.report.read_text, encoding="utf-8", errors="replace")
        return _page(show_links(text))

    async def stamp(request: Request) -> Response:
        run = site.runs.get(request.path_params["run"])
        if run is None:
            return JSONResponse({}, 404, headers=HEADERS)
        return JSONResponse({"stamp": site.stamp(run)}, headers=HEADERS)

    async def asset(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in ASSETS:
            return _page(site.draw_error(NotFound(f"no file {name!r}")), 404)
        media = ASSETS[name][2]
        return Response(read_asset(name), media_type=media, headers=HEADERS)

    async def enter(request: Request) -> Response:
        try:
            tickets.remove(request.path_params["ticket"])
        except KeyError:
            return await _unknown(request, NotFound("no such link, or it was used before"))
        return Response(status_code=303, headers={**HEADERS, "Location": f"/{key}/"})

    routes = [
        Route("/open/{ticket}", enter),
        Route(f"/{key}/", endpoint(view("home"))),
        Route(f"/{key}/assets/{{name}}", asset),
        Route(f"/{key}/{{run}}/stamp", stamp),
        Route(f"/{key}/{{run}}/report", report),
        Route(f"/{key}/{{run}}/", endpoint(view("run"))),
    ]
    for name in VIEWS:
        rest = "/{name:path}" if name in NAMED else ""
        routes.append(Route(f"/{key}/{{run}}/{name}{rest}", endpoint(view(name))))
    app = Starlette(routes=routes, exception_handlers={404: _unknown})
    app.router.redirect_slashes = False  # a redirect would name the host that the client claims
    return app


def _page(text: str, status: int = 200) -> Response:
    body = text.encode("utf-8", errors="replace")
    return Response(body, status, media_type="text/html; charset=utf-8", headers=HEADERS)


async def _unknown(request: Request, error: Exception) -> Response:
    return Response("not found", 404, media_type="text/plain", headers=HEADERS)


class Follower:
    """A thread that follows the files of unfinished runs until it is stopped."""

    def __init__(self, runs: Sequence[OpenRun]) -> None:
        self._runs, self._stop = runs, threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Follower:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def _follow(self) -> None:
        while not self._stop.wait(FOLLOW_S):
            for run in self._runs:
                try:
                    run.refresh()
                except Exception:  # a page shows what is wrong; following continues
                    LOG.exception("cannot follow %s", run.run.path)


def serve(library: Library, *, port: int, ready: Callable[[str, str], None]) -> None:
    """Serve the pages of some runs and comparisons until the process is stopped.

    `ready` is called once requests are accepted, with the address and with another one that leads
    there once. Port 0 is any free port. ConfigError if the port cannot be used.
    """
    key, ticket = secrets.token_urlsafe(16), secrets.token_urlsafe(16)
    with listen(HOST, port) as listener, Follower(library.runs):
        origin = f"http://{HOST}:{listener.getsockname()[1]}"
        ready(f"{origin}/{key}/", f"{origin}/open/{ticket}")
        config = uvicorn.Config(
            make_app(library, key, ticket),
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
