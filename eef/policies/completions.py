"""CompletionsClient: token ids in, token ids out, through `/v1/completions` of inference servers.

Every sampling parameter is sent, so that no default of a server or model applies. A completion ends
only at a stop id or at its maximum length. Requests of one session go to the same server, whose
prefix cache then has most of their prompt. Failed requests are repeated, on another server if there
is one.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp

from eef.errors import ModelError
from eef.policies.rejections import Rejection, read_rejection
from eef.policies.settings import ServerSettings
from eef.policy import Sampling

_LONGEST_WAIT = 60.0  # seconds, whatever `Retry-After` requests
_LONGEST_WORDS = 200  # characters of a server's words
_CONNECT = 60.0  # seconds: a busy server accepts late
_AVOIDED = 60.0  # seconds for which a server that has failed is avoided
_MAY_HAVE_ENDED = ("connection", "time-out", "cut answer")

Revive = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampledIds:
    """A server's answer: the sampled ids, the last of which may be a stop id.

    `finish` is "overflow" if the prompt leaves no room, and "error" if no answer came (`words` is
    the reason). `logprobs` are given if they were requested.
    """

    ids: tuple[int, ...] = ()
    finish: Literal["stop", "length", "overflow", "error"] = "stop"
    words: str = ""
    cached_tokens: int = 0
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class _Failure:
    """A request that may succeed when it is repeated. `wait` is `Retry-After` in seconds."""

    kind: str
    words: str = ""
    wait: float | None = None

    @property
    def may_have_ended(self) -> bool:
        """Whether the server may have ended: an engine that dies answers its last requests so."""
        return self.kind in _MAY_HAVE_ENDED or self.kind.startswith("5")


@dataclass(slots=True)
class _Server:
    """A server and its use: requests under way, and failures since its last answer."""

    url: str
    active: int = 0
    failures: int = 0
    failed_at: float = 0.0
    revival: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def recent_failures(self) -> int:
        """Those that are not long ago: a server that was started again is used again."""
        return self.failures if time.monotonic() - self.failed_at < _AVOIDED else 0


class CompletionsClient:
    """A client of servers that serve the same models at `urls`.

    `revive` is called, one call per server at a time, if a connection to it fails, or if its answer
    does not come or is an error of the server; it may start the server again, or raise an EefError.

    Raises ModelError if a server refuses the key, the model or the request, if it returns no ids or
    echoes another prompt, or if no connection is possible.
    """

    def __init__(
        self,
        urls: Sequence[str],
        settings: ServerSettings,
        *,
        key: str | None = None,
        revive: Revive | None = None,
    ) -> None:
        self.urls = tuple(url.rstrip("/") for url in urls)
        self._settings = settings
        self._key = key
        self._revive = revive
        self._servers = [_Server(url) for url in self.urls]
        self._sessions: dict[str, _Server] = {}
        self._connection: aiohttp.ClientSession | None = None

    async def complete(
        self,
        model: str,
        prompt: Sequence[int],
        *,
        seed: int,
        sampling: Sampling,
        stops: Collection[int],
        session: str,
        logprobs: bool = False,
    ) -> SampledIds:
        """Sample a completion of at most `sampling.max_tokens` ids.

        A session with the address of a server is always that server's.
        """
        body = _body(model, prompt, seed, sampling, stops, logprobs)
        failures: Counter[str] = Counter()
        while True:
            server = self._choose(session)
            server.active += 1
            try:
                outcome = await self._attempt(server.url, body)
            finally:
                server.active -= 1
            if isinstance(outcome, SampledIds):
                server.failures = 0
                return outcome
            failures[outcome.kind] += 1
            server.failures += 1  # its sessions move away
            server.failed_at = time.monotonic()
            if self._revive is not None and outcome.may_have_ended:
                await self._restart(server, self._revive, outcome)
            if failures.total() > self._settings.retries:
                return self._give_up(server, failures, outcome)
            await asyncio.sleep(self._wait(outcome, failures.total()))

    async def models(self, url: str) -> dict[str, Mapping[str, Any]]:
        """The models that a server lists, by name. ModelError if it cannot be used."""
        body = await self._get(f"{url}/models")
        listed = body.get("data") if isinstance(body, Mapping) else None
        if not isinstance(listed, list) or not all(isinstance(each, Mapping) for each in listed):
            raise ModelError(
                f"the server at {url} does not list its models",
                hint="check `rollouts.server.urls`: an address ends in `/v1`",
            )
        return {str(each.get("id")): each for each in listed}

    async def version(self, url: str) -> str:
        """The version that a server states, or "unknown"."""
        try:
            body = await self._get(f"{url.removesuffix('/v1')}/version")
        except ModelError:
            return "unknown"
        return str(body.get("version", "unknown")) if isinstance(body, Mapping) else "unknown"

    async def load_adapter(self, url: str, name: str, path: str) -> None:
        """Load LoRA adapters from a directory that the server can read.

        ModelError, with the server's words, if it refuses.
        """
        body = {"lora_name": name, "lora_path": path}
        status, content = await self._post(f"{url}/load_lora_adapter", body)
        if status == 200:
            return
        words = self._words(read_rejection(status, content))
        if status == 404 and "not found" in words.lower() and name not in words:
            raise ModelError(
                f"the server at {url} cannot load adapters while it runs",
                hint="start it with `--enable-lora` and `VLLM_ALLOW_RUNTIME_LORA_UPDATING=1`",
            )
        raise ModelError(
            f"the server at {url} refuses the adapters `{path}` ({status}): {words}",
            hint="it needs `--max-lora-rank` of `model.lora.rank` or more, a free slot "
            "(`--max-loras`), and the same path to the run directory",
        )

    async def unload_adapter(self, url: str, name: str) -> None:
        """Unload adapters; nothing happens if the server does not have them."""
        await self._post(f"{url}/unload_lora_adapter", {"lora_name": name})

    async def disconnect(self) -> None:
        """Close all connections; the next request opens new ones, in any event loop."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None
        for server in self._servers:
            server.revival = asyncio.Lock()
            server.active = 0

    def _connect(self) -> aiohttp.ClientSession:
        if self._connection is None:
            headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            self._connection = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),  # the runner bounds the requests
                timeout=aiohttp.ClientTimeout(total=self._settings.timeout, sock_connect=_CONNECT),
                headers=headers,
            )
        return self._connection

    def _choose(self, session: str) -> _Server:
        """The server of a session: the first time, and after failures, the least busy one."""
        if session in self.urls:
            return self._servers[self.urls.index(session)]
        server = self._sessions.get(session)
        if server is None or server.recent_failures:
            server = min(self._servers, key=lambda each: (each.recent_failures, each.active))
            self._sessions[session] = server
        return server

    async def _attempt(self, url: str, body: Mapping[str, Any]) -> SampledIds | _Failure:
        try:
            async with self._connect().post(f"{url}/completions", json=body) as response:
                content = await response.read()
                status, headers = response.status, response.headers
        except aiohttp.ConnectionTimeoutError as error:  # a TimeoutError, too
            return _Failure("connection", self._scrub(str(error)))
        except TimeoutError:
            return _Failure("time-out")
        except aiohttp.ClientPayloadError:
            return _Failure("cut answer")
        except (aiohttp.ClientError, OSError) as error:
            return _Failure("connection", self._scrub(str(error)))
        if status != 200:
            return self._rejected(url, read_rejection(status, content), headers)
        try:
            return self._read(url, _parse(content), body)
        except (_Malformed, LookupError, TypeError, ValueError, AttributeError):
            return _Failure("malformed answer")

    def _read(self, url: str, answer: Mapping[str, Any], body: Mapping[str, Any]) -> SampledIds:
        choice = answer["choices"][0]
        if choice.get("finish_reason") not in ("stop", "length"):
            raise _Malformed  # aborted
        ids, echo = choice.get("token_ids"), choice.get("prompt_token_ids")
        if not isinstance(ids, list) or not all(type(each) is int for each in ids):
            raise ModelError(
                f"the server at {url} returns no token ids",
                hint="it must support `return_token_ids`: vLLM 0.10.2 or newer, or a recent SGLang",
            )
        usage = answer.get("usage") or {}
        if echo is None and usage.get("prompt_tokens") == len(body["prompt"]):
            echo = body["prompt"]
        if echo != body["prompt"]:
            raise ModelError(
                f"the server at {url} echoed a different prompt from the one it was sent",
                hint="use a server that takes token ids as `prompt` and does not change them",
            )
        details = usage.get("prompt_tokens_details") or {}
        logprobs = (choice.get("logprobs") or {}).get("token_logprobs") or ()
        ended = bool(ids) and ids[-1] in body["stop_token_ids"]
        return SampledIds(
            ids=tuple(ids),
            finish="stop" if ended or choice["finish_reason"] == "stop" else "length",
            cached_tokens=int(details.get("cached_tokens") or 0),
            logprobs=tuple(map(float, logprobs)),
        )

    def _rejected(
        self, url: str, rejection: Rejection, headers: Mapping[str, str]
    ) -> SampledIds | _Failure:
        kind, words = rejection.kind, self._words(rejection)
        if kind == "overflow":
            return SampledIds(finish="overflow")
        if kind == "transient":
            return _Failure(str(rejection.status), words, _retry_after(headers))
        stated = f"({rejection.status}): {words}"
        if kind == "key":
            raise ModelError(
                f"the server at {url} refuses the key {stated}",
                hint=f"set the environment variable `{self._settings.key}` to its key",
            )
        if kind in ("model", "address"):
            raise ModelError(
                f"the server at {url} does not serve the model {stated}",
                hint="check `rollouts.server.model` and `rollouts.server.urls`, which end in `/v1`",
            )
        raise ModelError(
            f"the server at {url} refuses a request {stated}",
            hint="it must support `/v1/completions` as vLLM does",
        )

    async def _restart(self, server: _Server, revive: Revive, failure: _Failure) -> None:
        """Let a server be started again, unless it has been since its last failure.

        One that only answers with errors may be up; it is avoided for a while.
        """
        async with server.revival:
            if server.failures:
                await revive(server.url)
                server.failures = 0 if failure.kind == "connection" else server.failures

    def _give_up(self, server: _Server, failures: Counter[str], last: _Failure) -> SampledIds:
        if set(failures) == {"connection"}:
            raise ModelError(
                f"no connection to the server at {server.url}: {last.words}",
                hint="check that it is running, and `rollouts.server.urls`; stored rollouts are "
                "kept",
            )
        counts = ", ".join(f"{count} × {kind}" for kind, count in failures.items())
        words = f"no completion after {failures.total()} requests ({counts})"
        return SampledIds(finish="error", words=f"{words}: {last.words}" if last.words else words)

    def _wait(self, failure: _Failure, failed: int) -> float:
        if failure.wait is not None:
            return min(failure.wait, _LONGEST_WAIT)
        return min(self._settings.backoff * 2.0 ** (failed - 1), _LONGEST_WAIT)

    async def _get(self, address: str) -> Any:
        status, content = await self._request("GET", address, None)
        if status == 200:
            try:
                return _parse(content)
            except _Malformed:
                return None
        rejection = read_rejection(status, content)
        stated = f"({status}): {self._words(rejection)}"
        if status in (401, 403):
            raise ModelError(
                f"the server at {address} refuses the key {stated}",
                hint=f"set the environment variable `{self._settings.key}` to its key",
            )
        raise ModelError(
            f"the server at {address} refuses a request {stated}",
            hint="check `rollouts.server.urls`: an address ends in `/v1`",
        )

    async def _post(self, address: str, body: Mapping[str, Any]) -> tuple[int, bytes]:
        return await self._request("POST", address, body)

    async def _request(
        self, method: str, address: str, body: Mapping[str, Any] | None
    ) -> tuple[int, bytes]:
        try:
            async with self._connect().request(method, address, json=body) as response:
                return response.status, await response.read()
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            reason = self._scrub(str(error)) or type(error).__name__
            raise ModelError(
                f"no connection to the server at {address}: {reason}",
                hint="check that it is running, and `rollouts.server.urls`",
            ) from None

    def _words(self, rejection: Rejection) -> str:
        return self._scrub(rejection.words)[:_LONGEST_WORDS]

    def _scrub(self, text: str) -> str:
        return text.replace(self._key, "…") if self._key else text


class _Malformed(Exception):
    """An answer of status 200 that is not an answer."""


def _parse(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        raise _Malformed from None


def _body(
    model: str,
    prompt: Sequence[int],
    seed: int,
    sampling: Sampling,
    stops: Collection[int],
    logprobs: bool,
) -> dict[str, Any]:
    """The request, with every parameter that changes what is sampled."""
    return {
        "model": model,
        "prompt": list(prompt),
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": seed,
        "stop_token_ids": sorted(stops),
        "ignore_eos": True,  # the stop ids hold it
        "skip_special_tokens": False,
        "return_token_ids": True,
        **({"logprobs": 1} if logprobs else {}),
    }


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds; a date is not supported by inference servers."""
    try:
        seconds = float(headers.get("Retry-After", ""))
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
