"""ApiPolicy: an OpenAI-compatible server (hosted, vLLM, SGLang, `transformers serve`) writes the completions.

Each conversation is sent as it is: its messages begin with those of the turn before, so that a server's prefix cache
hits. What goes wrong on the way is tried again with growing waits; an option that a server does not take is left out
from then on; completions are cut by us, behind the action, whatever it makes of `stop`. The key comes from the
environment, and is taken out of every text that a server sends back.
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

from eef.chat import cut_completion, read_message, with_reasoning
from eef.errors import ConfigError, ModelError
from eef.policies.response_cache import ResponseCache, question_id
from eef.policies.settings import ApiSettings
from eef.policy import Completion, Conversation, Sampling
from eef.trajectory import Author

_LONGEST_WAIT = 120.0  # seconds, whatever a server asks for
_CHARACTERS = 3  # of a token, at least: an estimate from above of what a prompt takes
_FRAME = 8  # tokens around a message, at most
_STOP = ("\nObservation:",)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_OPTIONS = ("seed", "stop", "top_p", "max_tokens", "temperature")
_TRANSIENT = (408, 409, 425, 429)


class _Trouble(Exception):
    """An attempt that came to nothing and is worth another one; `wait` seconds if the server said so."""

    def __init__(self, kind: str, wait: float | None = None) -> None:
        super().__init__(kind)
        self.kind, self.wait = kind, wait


class _Stopped(Exception):
    """Another request ended the whole, or the user did."""


class ApiPolicy:
    """Plays by asking a server. Completions do not depend on the batch; every answer is kept in `journal`.

    Raises ConfigError (no key in the environment), ModelError (the server refuses the key, or has no such model) and
    BudgetError; all of these leave what was answered in the journal. Everything else ends one rollout as broken.
    """

    batch_invariant = True

    def __init__(self, model: str, settings: ApiSettings, *, author: Author, cache: Path) -> None:
        self.author = author
        self._model, self._settings = model, settings
        self._key = _key(settings)
        self._cache = ResponseCache(cache, settings)
        self._features = _Features()
        self._pace = _Pace(settings.requests_per_minute)

    def act(
        self, conversations: Sequence[Conversation], seeds: Sequence[int], sampling: Sampling
    ) -> list[Completion]:
        self._pace.go_on()
        pool = ThreadPoolExecutor(self._settings.concurrency, thread_name_prefix="ask")
        with self._connect() as client:
            try:
                asked = [
                    pool.submit(self._answer, client, conversation, seed, sampling)
                    for conversation, seed in zip(conversations, seeds, strict=True)
                ]
                return [future.result() for future in asked]
            except BaseException:
                self._pace.stop()
                raise
            finally:
                pool.shutdown(
                    wait=True, cancel_futures=True
                )  # answers under way still come into the journal

    def _connect(self) -> openai.OpenAI:
        """A client, which keeps its connections while it is open; trying again is our business."""
        settings = self._settings
        return openai.OpenAI(
            base_url=settings.base_url, api_key=self._key, timeout=settings.timeout, max_retries=0
        )

    def _answer(
        self, client: openai.OpenAI, conversation: Conversation, seed: int, sampling: Sampling
    ) -> Completion:
        question = question_id(self._model, conversation, seed, sampling)
        return self._cache.answer(question) or self._ask(
            client, question, conversation, seed, sampling
        )

    def _ask(
        self,
        client: openai.OpenAI,
        question: str,
        conversation: Conversation,
        seed: int,
        sampling: Sampling,
    ) -> Completion:
        """Attempts until one is answered; what they took is recorded however they end."""
        likely = _most_tokens(conversation), sampling.max_tokens
        failures: Counter[str] = Counter()
        completion, requests = None, 0
        try:
            while completion is None:
                self._cache.reserve(*likely)
                requests += 1
                try:
                    completion = self._attempt(client, conversation, seed, sampling)
                except _Trouble as trouble:
                    failures[trouble.kind] += 1
                    failed = failures.total() - failures["option"]
                    if failed > self._settings.retries:
                        words = ", ".join(f"{count} × {kind}" for kind, count in failures.items())
                        return Completion(
                            text=f"no answer after {requests} requests ({words})", finish="error"
                        )
                    self._pace.wait(trouble.wait, failed, self._settings.backoff)
            return completion
        finally:
            if requests:
                self._cache.record(question, completion, requests, failures)
            self._cache.release(
                requests, *likely
            )  # last, so that it is counted twice rather than not at all

    def _attempt(
        self, client: openai.OpenAI, conversation: Conversation, seed: int, sampling: Sampling
    ) -> Completion:
        self._pace.start()
        options = self._features.options(sampling, seed)
        create: Any = client.chat.completions.with_raw_response.create
        try:
            response = create(model=self._model, messages=conversation, **options)
            return self._read(response.content)
        except openai.APITimeoutError:
            raise _Trouble("time-out") from None
        except openai.APIConnectionError:
            raise _Trouble("connection") from None
        except openai.APIStatusError as error:
            return self._refused(error, frozenset(options))

    def _read(self, content: bytes) -> Completion:
        """The completion in a server's answer; _Trouble where there is none in it."""
        try:
            answer = json.loads(content)
            choice = answer["choices"][0]
            if choice.get("finish_reason") == "error" or choice.get("error"):
                raise _Trouble("interrupted")
            reasoning, text = read_message(choice["message"])
            usage = answer.get("usage") or {}
            finish = choice.get("finish_reason")
            counts = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
            cached = int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise _Trouble("malformed") from None
        if not text.strip() and finish != "length":
            raise _Trouble("filtered" if finish == "content_filter" else "empty")
        return Completion(
            text=cut_completion(with_reasoning(reasoning, text)),
            finish="length" if finish == "length" else "stop",
            prompt_tokens=counts[0],
            cached_tokens=cached,
            generated_tokens=counts[1],
        )

    def _refused(self, error: openai.APIStatusError, options: frozenset[str]) -> Completion:
        """What an HTTP error stands for: another attempt, one with fewer `options`, a full context, or the end."""
        status, words = error.status_code, self._scrub(str(error))
        if status in _TRANSIENT or status >= 500:
            raise _Trouble(str(status), _retry_after(error.response.headers)) from None
        if status in (400, 413, 422):
            if "context" in words and ("length" in words or "maximum" in words):
                return Completion(text="", finish="overflow")
            if self._features.drop(words, options):
                raise _Trouble("option", 0.0) from None
        if status in (401, 403):
            raise ModelError(
                f"the server at {self._settings.base_url} refuses the key ({status})",
                hint=f"it is read from the environment variable `{self._settings.key}`",
            ) from None
        raise ModelError(
            f"the server at {self._settings.base_url} refuses a request for {self._model!r} ({status}): {words[:300]}",
            hint="is the model's name right? is `expert.api.base_url` that of the server, with its `/v1`?",
        ) from None

    def _scrub(self, words: str) -> str:
        return " ".join(words.replace(self._key, "…").split())


class _Features:
    """The options a server may not know. Each is sent until an answer refuses it, and then no more: it is found out
    once. Nothing rests on them: completions are cut by us, and one is asked for at a time (no `n`, no `logprobs`)."""

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
        """Give up the option that the refusal of a request with the options `sent` names, else `seed`, then `stop`.

        True where another attempt may help: one is given up now, or was since the request was sent.
        """
        with self._lock:
            if sent & self._dropped:
                return True
            left = [name for name in _OPTIONS if name not in self._dropped]
            named = [name for name in left if name in words]
            choice = next(iter(named or [name for name in left if name in ("seed", "stop")]), None)
            self._dropped |= {choice} if choice else set()
            return choice is not None


class _Pace:
    """When the next request may start: after a wait that a server asked for, and no more of them a minute than set."""

    def __init__(self, per_minute: int | None) -> None:
        self._lock = threading.Lock()
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._stopped = threading.Event()

    def go_on(self) -> None:
        self._stopped.clear()

    def stop(self) -> None:
        """End all waits, now and later, until `go_on`: _Stopped is raised in them."""
        self._stopped.set()

    def _sleep(self, seconds: float) -> None:
        if self._stopped.wait(seconds):
            raise _Stopped

    def start(self) -> None:
        """Wait for a turn."""
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._next)
            if self._gap:
                self._next = begin + self._gap
        self._sleep(max(0.0, begin - now))

    def wait(self, asked: float | None, attempt: int, backoff: float) -> None:
        """Wait before another attempt. What a server asks for holds for all threads: the whole is too fast."""
        if asked is not None:
            with self._lock:
                self._next = max(self._next, time.monotonic() + min(asked, _LONGEST_WAIT))
            return
        self._sleep(min(_LONGEST_WAIT, backoff * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0))


def _most_tokens(conversation: Conversation) -> int:
    """What a prompt takes, estimated from above."""
    return sum(len(message["content"]) // _CHARACTERS + 1 + _FRAME for message in conversation)


def _retry_after(headers: Any) -> float | None:
    """Seconds of a Retry-After header, which tells seconds or a date."""
    told = headers.get("retry-after")
    if told is None:
        return None
    try:
        return max(0.0, float(told))
    except ValueError:
        try:
            return max(0.0, parsedate_to_datetime(told).timestamp() - time.time())
        except ValueError:
            return None


def _key(settings: ApiSettings) -> str:
    key = os.environ.get(settings.key, "").strip()
    if not key and urlsplit(settings.base_url).hostname not in _LOOPBACK:
        raise ConfigError(
            f"no key for the server at {settings.base_url}: the environment has no `{settings.key}`",
            hint=f"`export {settings.key}=…`, or name another variable by `expert.api.key`",
        )
    return key or "none"
