"""A small OpenAI-compatible server with a real student, and a proxy that injects faults."""

from __future__ import annotations

import json
import random
import socket
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], tuple[int, dict[str, str], bytes] | None]


class Handler(BaseHTTPRequestHandler):
    """Passes each request to the server's `answer`; None closes the connection."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.path, dict(self.headers), body))
        answered = self.server.answer(self.path, dict(self.headers), body)
        if answered is None:
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        status, headers, content = answered
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        if "Content-Length" in headers:  # it said more than it gave
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

    do_GET = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


class Server(ThreadingHTTPServer):
    """A server that reports no client that closes its connection early."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serving(
    answer: Callable[[str, dict[str, str], bytes], Any], host: str = "127.0.0.1", port: int = 0
) -> Iterator[tuple[str, list[Any]]]:
    """A server, by default on loopback; yields its address and the list of requests."""
    server = Server((host, port), Handler)
    server.daemon_threads = True
    server.answer, server.seen = answer, []
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
    )
    thread.start()
    try:
        yield f"http://{host}:{server.server_port}", server.seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def chat_answer(
    text: str, *, finish: str = "stop", prompt: int = 7, written: int = 5
) -> tuple[int, Any, bytes]:
    return (
        200,
        {},
        json.dumps(
            {
                "id": "x",
                "object": "chat.completion",
                "created": 0,
                "model": "m",
                "choices": [
                    {
                        "index": 0,
                        "message": {"role": "assistant", "content": text},
                        "finish_reason": finish,
                    }
                ],
                "usage": {
                    "prompt_tokens": prompt,
                    "completion_tokens": written,
                    "total_tokens": prompt + written,
                },
            }
        ).encode(),
    )


FAULTS: dict[str, Any] = {
    "429": lambda: (429, {"Retry-After": "0.01"}, b'{"error": {"message": "slow down"}}'),
    "500": lambda: (500, {}, b"oops"),
    "503": lambda: (503, {}, b'{"error": {"message": "overloaded"}}'),
    "malformed": lambda: (200, {}, b'{"choices": [{"message": {"content": "Thou'),
    "empty": lambda: chat_answer(""),
    "cut": lambda: (200, {"Content-Length": "4000"}, b'{"choices": ['),
    "closed": lambda: None,
    "slow": "slow",
}


class Proxy:
    """Forwards requests to a server, except for a share that meets a fault.

    `injected` counts faults by kind.
    """

    def __init__(
        self,
        base: str,
        *,
        share: float,
        seed: int = 0,
        pause: float = 1.0,
        faults: Any = tuple(FAULTS),
    ) -> None:
        self.base, self.share, self.pause, self.faults = base, share, pause, faults
        self.injected: Counter[str] = Counter()
        self._chance, self._lock = random.Random(seed), threading.Lock()

    def __call__(self, path: str, headers: dict[str, str], body: bytes) -> Any:
        with self._lock:
            kind = self._chance.choice(self.faults) if self._chance.random() < self.share else None
            self.injected.update([kind] if kind else [])
        if kind is None:
            return self._forward(path, body)
        if kind == "slow":
            time.sleep(self.pause)
            return None
        return FAULTS[kind]()

    def _forward(self, path: str, body: bytes) -> Any:
        request = urllib.request.Request(
            self.base + path, body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, {}, response.read()
