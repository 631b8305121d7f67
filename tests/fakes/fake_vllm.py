"""A program that acts as a Python with vLLM: it states a version, and serves a list of models.

As vLLM does, the server starts a process of its own, which does not end with it. The last argument
may be a failure: `fail:<words>` writes them and ends, `slow` does not start in a minute. If it is
`engine`, the server computes completions with the model (`tests.fakes.fake_engine`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NoReturn


def write_program(path: Path) -> Path:
    """An executable that runs this file with the interpreter of the tests."""
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P "{__file__}" "$@"\n')
    path.chmod(0o755)
    return path


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        allowed = self.headers.get("Authorization") == f"Bearer {os.environ['VLLM_API_KEY']}"
        content = json.dumps({"data": [{"id": "eef-student", "max_model_len": 64}]}).encode()
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


def main() -> None:
    if sys.argv[1] == "-c":
        print("9.9.9")
        return
    if sys.argv[-1].startswith("fail:"):
        sys.exit(sys.argv[-1].removeprefix("fail:"))
    if sys.argv[-1] == "slow":
        time.sleep(60)
    engine = subprocess.Popen(["sleep", "600"])
    host, port = option("--host"), int(option("--port"))
    if sys.argv[-1] == "engine":
        serve_model(host, port, engine.pid)
    server = ThreadingHTTPServer((host, port), Handler)
    print("serving with engine", engine.pid, flush=True)
    server.serve_forever()


def option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


def serve_model(host: str, port: int, engine: int) -> NoReturn:
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from tests.fakes.fake_engine import FakeEngine
    from tests.fakes.served import serving

    model = FakeEngine(
        option("--model"),
        option("--served-model-name"),
        key=os.environ["VLLM_API_KEY"],
        context=int(option("--max-model-len")),
    )
    with serving(model, host, port):
        print("serving with engine", engine, flush=True)
        while True:
            time.sleep(60)


if __name__ == "__main__":
    main()
