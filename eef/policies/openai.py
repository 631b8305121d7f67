"""ApiPolicy: completions from an OpenAI-compatible server, hosted or local.

A request starts with the messages of the previous turn, so a server's prefix cache hits. Failed
requests are retried with growing waits. An option that a server rejects is never sent again.
Completions are cut here after the action, whether or not the server honors `stop`. The key comes
from the environment and is removed from every text that a server returns.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai

from eef.chat import cut_completion, drop_unfinished_action, read_message, with_reasoning
from eef.errors import ConfigError, ModelError
from eef.policies.response_cache import ResponseCache, request_id
from eef.policies.settings import ApiSettings
from eef.policy import Completion, Conversation, Sampling
from eef.trajectory import Author

_LONGEST_WAIT = 120.0  # seconds, whatever `Retry-After` requests
_CHARACTERS = 3  # per token, at least: an upper estimate of a prompt's tokens
_FRAME = 8  # tokens around a message, at most
_STOP = ("\nObservation:",)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_OPTIONS = ("seed", "stop", "top_p", "max_tokens", "temperature")
_TRANSIENT = (408, 409, 425, 429)
_CUT = ("length", "max_tokens", "model_length")
_FILTERED = ("content_filter", "safety", "sensitive")
_INTERRUPTED = ("error", "abort", "aborted", "network_error", "insufficient_system_resource")
"""Finish reasons, in lower case, of answers that are not whole; servers use different words."""


class _Retryable(Exception):
    """A retryable request failure. `wait` is the server's `Retry-After` in seconds, if any."""

    def __init__(self, kind: str, wait: float | None = None) -> None:
        super().__init__(kind)
        self.kind, self.wait = kind, wait


class _Stopped(Exception):
    """The call was ended by the user or by another request's error."""


class ApiPolicy:
    """A policy behind a server. Completions do not depend on the batch; all are kept in `cache`.

    Raises ConfigError if the environment has no key, ModelError if the server refuses the key or
    the request, BudgetError if the budget is spent. Completions received before remain in the
    cache. Any other failure fails one rollout.
    """

    batch_invariant = True

    def __init__(self, model: str, settings: ApiSettings, *, author: Author, cache: Path) -> None:
        self.author = author
        self._model, self._settings = model, settings
        self._key = _key(settings)
        self._cache = ResponseCache(cache, settings)
        self._capabilities = _ServerCapabilities()
        self._limiter = _RateLimiter(settings.requests_per_minute)

    def act(
        self, conversations: Sequence[Conversation], seeds: Sequence[int], sampling: Sampling
    ) -> list[Completion]:
        self._limiter.resume()
        pool = ThreadPoolExecutor(self._settings.concurrency, thread_name_prefix="request")
        with self._connect() as client:
            try:
                futures = [
                    pool.submit(self._complete, client, conversation, seed, sampling)
                    for conversation, seed in zip(conversations, seeds, strict=True)
                ]
                return [future.result() for future in futures]
            except BaseException:
                self._limiter.stop()
                raise
            finally:
                # responses that are under way still reach the cache
                pool.shutdown(wait=True, cancel_futures=True)

    def _connect(self) -> openai.OpenAI:
        """A client with connection pooling; retries are handled by `ApiPolicy`."""
        settings = self._settings
        return openai.OpenAI(
            base_url=settings.base_url, api_key=self._key, timeout=settings.timeout, max_retries=0
        )

    def _complete(
        self, client: openai.OpenAI, conversation: Conversation, seed: int, sampling: Sampling
    ) -> Completion:
        request = request_id(self._model, conversation, seed, sampling)
        cached = self._cache.get(request)
        return cached or self._request(client, request, conversation, seed, sampling)

    def _request(
        self,
        client: openai.OpenAI,
        request: str,
        conversation: Conversation,
        seed: int,
        sampling: Sampling,
    ) -> Completion:
        """Send a request until it succeeds; its usage is recorded in any case."""
        tokens = _most_tokens(conversation), sampling.max_tokens
        failures: Counter[str] = Counter()
        completion, requests = None, 0
        try:
            while completion is None:
                self._cache.reserve(*tokens)
                requests += 1
                try:
                    completion = self._attempt(client, conversation, seed, sampling)
                except _Retryable as failure:
                    failures[failure.kind] += 1
                    failed = failures.total() - failures["option"]
                    if failed > self._settings.retries:
                        words = ", ".join(f"{count} × {kind}" for kind, count in failures.items())
                        return Completion(
                            text=f"no completion after {requests} requests ({words})",
                            finish="error",
                        )
                    self._limiter.wait(failure.wait, failed, self._settings.backoff)
            return completion
        finally:
            if requests:
                self._cache.record(request, completion, requests, failures)
            # last, so that the usage is briefly counted twice rather than not at all
            self._cache.release(requests, *tokens)

    def _attempt(
        self, client: openai.OpenAI, conversation: Conversation, seed: int, sampling: Sampling
    ) -> Completion:
        self._limiter.acquire()
        options = self._capabilities.options(sampling, seed)
        create: Any = client.chat.completions.with_raw_response.create
        try:
            response = create(model=self._model, messages=conversation, **options)
            return self._read(response.content)
        except openai.APITimeoutError:
            raise _Retryable("time-out") from None
        except openai.APIConnectionError:
            raise _Retryable("connection") from None
        except openai.APIStatusError as error:
            return self._rejected(error, frozenset(options))

    def _read(self, content: bytes) -> Completion:
        """The completion in a server's response; _Retryable if it holds none."""
        try:
            response = json.loads(content)
            choice = response["choices"][0]
            finish = str(choice.get("finish_reason")).lower()
            if finish in _INTERRUPTED or choice.get("error"):
                raise _Retryable("interrupted")
            reasoning, text = read_message(choice["message"])
            usage = response.get("usage") or {}
            counts = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
            cached = int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise _Retryable("malformed") from None
        if finish in _FILTERED:
            raise _Retryable("filtered")
        if not text.strip() and finish not in _CUT:
            raise _Retryable("empty")
        text = with_reasoning(reasoning, text)
        return Completion(
            text=cut_completion(drop_unfinished_action(text) if finish in _CUT else text),
            finish="length" if finish in _CUT else "stop",
            prompt_tokens=counts[0],
            cached_tokens=cached,
            generated_tokens=counts[1],
        )

    def _rejected(self, error: openai.APIStatusError, options: frozenset[str]) -> Completion:
        """Handle an HTTP error: retry, drop one of `options`, report a full context, or raise."""
        status, words = error.status_code, self._scrub(str(error))
        if status in _TRANSIENT or status >= 500:
            raise _Retryable(str(status), _retry_after(error.response.headers)) from None
        if status in (400, 413, 422):
            if "context" in words and ("length" in words or "maximum" in words):
                return Completion(text="", finish="overflow")
            if self._capabilities.drop(words, options):
                raise _Retryable("option", 0.0) from None
        if status in (401, 403):
            raise ModelError(
                f"the server at {self._settings.base_url} refuses the key ({status})",
                hint=f"set the environment variable `{self._settings.key}` to a valid key",
            ) from None
        raise ModelError(
            f"the server at {self._settings.base_url} refuses a request for {self._model!r} "
            f"({status}): {words[:300]}",
            hint="check the model's name and `expert.api.base_url`, which ends in `/v1`",
        ) from None

    def _scrub(self, words: str) -> str:
        return " ".join(words.replace(self._key, "…").split())


class _ServerCapabilities:
    """The request options that a server accepts. Each is sent until a response rejects it.

    No result depends on them: completions are cut here, and each request asks for one completion,
    without `n` or `logprobs`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._dropped: set[str] = set()

    def options(self, sampling: Sampling, seed: int) -> dict[str, Any]:
        length = "max_completion_tokens" if "max_tokens" in self._dropped else "max_tokens"
        wanted: dict[str, Any] = {
            "seed": seed,
            "stop": list(_STOP),
            "top_p": sampling.top_p,
            "temperature": sampling.temperature,
            length: sampling.max_tokens,
        }
        return {name: value for name, value in wanted.items() if name not in self._dropped}

    def drop(self, words: str, sent: frozenset[str]) -> bool:
        """Drop the option that the rejection of `sent` names; otherwise `seed`, then `stop`.

        Returns whether a retry may help: an option was dropped now, or after the request was sent.
        """
        with self._lock:
            if sent & self._dropped:
                return True
            left = [name for name in _OPTIONS if name not in self._dropped]
            named = [name for name in left if name in words]
            choice = next(iter(named or [name for name in left if name in ("seed", "stop")]), None)
            self._dropped |= {choice} if choice else set()
            return choice is not None


class _RateLimiter:
    """Delays requests to `per_minute`, and to what the server requests by `Retry-After`."""

    def __init__(self, per_minute: int | None) -> None:
        self._lock = threading.Lock()
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._stopped = threading.Event()

    def resume(self) -> None:
        self._stopped.clear()

    def stop(self) -> None:
        """End all waits, now and until `resume`, by raising _Stopped in them."""
        self._stopped.set()

    def _sleep(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise _Stopped

    def acquire(self) -> None:
        """Wait until the next request may be sent."""
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next)
            if self._gap:
                self._next = start + self._gap
        self._sleep(max(0.0, start - now))

    def wait(self, retry_after: float | None, attempt: int, backoff: float) -> None:
        """Wait before a retry. A `Retry-After` delays all threads: together they are too fast."""
        if retry_after is not None:
            with self._lock:
                self._next = max(self._next, time.monotonic() + min(retry_after, _LONGEST_WAIT))
            return
        self._sleep(min(_LONGEST_WAIT, backoff * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0))


def _most_tokens(conversation: Conversation) -> int:
    """Upper estimate of a prompt's tokens."""
    return sum(len(message["content"]) // _CHARACTERS + 1 + _FRAME for message in conversation)


def _retry_after(headers: Any) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
        except ValueError:
            return None


def _key(settings: ApiSettings) -> str:
    key = os.environ.get(settings.key, "").strip()
    if not key and urlsplit(settings.base_url).hostname not in _LOOPBACK:
        raise ConfigError(
            f"no key for the server at {settings.base_url}: the environment variable "
            f"`{settings.key}` is not set",
            hint=f"`export {settings.key}=…`, or name another variable in `expert.api.key`",
        )
    return key or "none"
