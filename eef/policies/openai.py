"""ApiPolicy: completions from an OpenAI-compatible server, hosted or local.

A request starts with the messages of the previous turn, so a server's prefix cache hits. Failed
requests are retried with growing waits. An option that a server rejects is reported and never sent
again. Completions are cut here after the action, whether or not the server honors `stop`. The key
comes from the environment and is removed from every text that a server returns.
"""

from __future__ import annotations

import json
import logging
import zlib
from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import openai

from eef.call_forms import FORMS
from eef.chat_message import with_reasoning
from eef.chat_template import as_text_arguments, structured
from eef.errors import ModelError
from eef.policies.answers import (
    Answer,
    MalformedAnswer,
    most_prompt_tokens,
    most_tokens,
    read_answer,
)
from eef.policies.keys import read_key
from eef.policies.rate_limit import RateLimiter, retry_after
from eef.policies.rejections import Rejection, read_rejection
from eef.policies.response_cache import ResponseCache, request_id
from eef.policies.server_options import ServerOptions
from eef.policies.settings import ApiSettings
from eef.policy import Completion, Conversation, Replays, Sampling
from eef.react import cut_completion, drop_unfinished_action
from eef.tools import Toolset, write_turn
from eef.trajectory import Author

_log = logging.getLogger(__name__)

_LONGEST_WORDS = 300  # characters of a server's words
_STOP = ("\nObservation:",)
_TRIALS = (("seed",), ("stop",), ("seed", "stop"))  # left out if a server rejects without a cause
_UNCOUNTED = ("option", "unexplained")  # failures that are not retries


@dataclass(frozen=True, slots=True, kw_only=True)
class _Outcome:
    """The outcome of one request: a completion, or the cause of its failure.

    A `final` failure fails the rollout without a retry. `wait` is the server's `Retry-After` in
    seconds, if any. `rejection` is set if the cause remains to be found. `tokens` are those of the
    prompt and of the answer.
    """

    completion: Completion | None = None
    failure: str = ""
    words: str = ""
    final: bool = False
    wait: float | None = None
    rejection: Rejection | None = None
    tokens: tuple[int, int] = (0, 0)


class ApiPolicy:
    """A policy behind a server. Completions do not depend on the batch; all are kept in `cache`.

    Raises ConfigError if the environment has no key, ModelError if the server refuses the key, the
    account, the model or every request, BudgetError if the budget is spent. Completions received
    before remain in the cache. Any other failure fails one rollout. `command` continues after the
    budget is raised, and the settings are at `name` and `limit_name` in a recipe, as hints show
    them. With `tools`, the model calls them; calls that a server leaves in the text of its answer
    are read too. Without `cut`, a completion is the whole answer, as roles write it.
    """

    replays: Replays = "alone"

    def __init__(
        self,
        model: str,
        settings: ApiSettings,
        *,
        author: Author,
        cache: Path,
        command: str = "",
        tools: Toolset | None = None,
        name: str = "expert.api",
        limit_name: str = "expert.sampling.max_tokens",
        cut: bool = True,
    ) -> None:
        self.author = author
        self._cut = cut
        self.tools = tools
        self._tools = tools.records() if tools else []
        self._model, self._settings = model, settings
        self._name, self._limit_name = name, limit_name
        hint = f"`export {settings.key}=…`, or name another variable in a recipe (`{name}.key`)"
        urls = (settings.base_url, *settings.more_urls)
        self._key = read_key(settings.key, urls, hint=hint) or "none"
        self._urls = tuple(dict.fromkeys((settings.base_url, *settings.more_urls)))
        self._cache = ResponseCache(cache, settings, command=command, name=name)
        self._capabilities = ServerOptions(
            self._cache.usage.dropped.get(model, ()), _STOP if cut else ()
        )
        self._limiter = RateLimiter(settings.requests_per_minute)
        self._accepted = self._cache.has_completions  # the server has answered at least once
        self._unexplained: ModelError | None = None

    def act(
        self, conversations: Sequence[Conversation], seeds: Sequence[int], sampling: Sampling
    ) -> list[Completion]:
        self._limiter.resume()
        self._unexplained = None
        pool = ThreadPoolExecutor(self._settings.concurrency, thread_name_prefix="request")
        with ExitStack() as stack:
            clients = [stack.enter_context(self._connect(url)) for url in self._urls]
            try:
                futures = [
                    pool.submit(self._complete, clients, conversation, seed, sampling)
                    for conversation, seed in zip(conversations, seeds, strict=True)
                ]
                completions = [future.result() for future in futures]
            except BaseException:
                self._limiter.stop()
                raise
            finally:
                # responses that are under way still reach the cache
                pool.shutdown(wait=True, cancel_futures=True)
        if self._unexplained is not None and not self._accepted:
            raise self._unexplained
        return completions

    def _connect(self, url: str) -> openai.OpenAI:
        """A client with connection pooling; retries are handled by `ApiPolicy`."""
        return openai.OpenAI(
            base_url=url, api_key=self._key, timeout=self._settings.timeout, max_retries=0
        )

    def _complete(
        self,
        clients: Sequence[openai.OpenAI],
        conversation: Conversation,
        seed: int,
        sampling: Sampling,
    ) -> Completion:
        request = request_id(self._model, conversation, seed, sampling, self._tools)
        cached = self._cache.get(request)
        return cached or self._request(clients, request, conversation, seed, sampling)

    def _request(
        self,
        clients: Sequence[openai.OpenAI],
        request: str,
        conversation: Conversation,
        seed: int,
        sampling: Sampling,
    ) -> Completion:
        """Send a request until it succeeds, fails for good, or has no retries left."""
        failures: Counter[str] = Counter()
        failed = 0
        first = _place(conversation, len(clients))
        trials = iter(_TRIALS)
        without: tuple[str, ...] = ()
        while True:
            options = self._capabilities.options(sampling, seed, without)
            client = clients[(first + failed) % len(clients)]
            outcome = self._send(client, request, conversation, sampling, options)
            if outcome.completion is not None:
                if without:  # the server takes the request without these, and not with them
                    self._drop(without)
                return outcome.completion
            failures[outcome.failure] += 1
            if outcome.rejection is not None:
                if not self._find_cause(outcome.rejection, options):
                    trial = None if self._accepted else next(trials, None)
                    if trial is None:
                        return self._give_up(outcome.rejection)
                    without = trial
                continue
            if outcome.final:
                return Completion(text=outcome.words, finish="error", refused=True)
            failed = sum(failures[kind] for kind in failures if kind not in _UNCOUNTED)
            if failed > self._settings.retries:
                counts = ", ".join(f"{count} × {kind}" for kind, count in failures.items())
                text = f"no completion after {failures.total()} requests ({counts})"
                text += f": {outcome.words}" if outcome.words else ""
                if set(failures) == {"connection"}:
                    self._unexplained = ModelError(
                        f"no connection to the server at {self._settings.base_url}: "
                        f"{outcome.words}",
                        hint=f"check that the server is running, and `{self._name}.base_url`",
                    )
                return Completion(text=text, finish="error")
            self._limiter.wait(outcome.wait, failed, self._settings.backoff)

    def _send(
        self,
        client: openai.OpenAI,
        request: str,
        conversation: Conversation,
        sampling: Sampling,
        options: dict[str, Any],
    ) -> _Outcome:
        """Send one request within the budget. Its outcome and usage are recorded at once."""
        held = self._cache.reserve(self._most_prompt_tokens(conversation), sampling.max_tokens)
        try:
            self._limiter.acquire()
            outcome = self._attempt(client, conversation, sampling, options)
            kept = self._cache.record(
                request,
                outcome.completion,
                prompt_tokens=outcome.tokens[0],
                completion_tokens=outcome.tokens[1],
                failure=outcome.failure,
            )
            if outcome.rejection is not None:
                self._raise_if_permanent(outcome.rejection)
            return outcome if kept is None else replace(outcome, completion=kept)
        finally:
            # last, so that the usage is briefly counted twice rather than not at all
            self._cache.release(held)

    def _attempt(
        self,
        client: openai.OpenAI,
        conversation: Conversation,
        sampling: Sampling,
        options: dict[str, Any],
    ) -> _Outcome:
        create: Any = client.chat.completions.with_raw_response.create
        try:
            content = create(model=self._model, **self._messages(conversation), **options).content
        except openai.APITimeoutError as error:
            if type(error.__cause__).__name__ == "ConnectTimeout":  # of httpx or its successor
                return _Outcome(failure="connection", words="it does not answer")
            return _Outcome(failure="time-out")
        except openai.APIConnectionError as error:
            words = self._scrub(str(error.__cause__ or ""))
            return _Outcome(failure="connection", words=words)
        except openai.APIStatusError as error:
            wait = retry_after(error.response.headers)
            return self._rejected(read_rejection(error.status_code, error.response.content), wait)
        try:
            answer = read_answer(content)
        except MalformedAnswer:
            # it may have been a whole answer, and paid for
            written = min(most_tokens(content.decode("latin-1")), sampling.max_tokens)
            tokens = self._most_prompt_tokens(conversation), written
            return _Outcome(failure="malformed", tokens=tokens)
        if isinstance(answer, Rejection):
            return self._rejected(answer, None)
        self._accepted = True
        return self._answered(answer, conversation, sampling)

    def _messages(self, conversation: Conversation) -> dict[str, Any]:
        """The messages and tools of a request."""
        if not self._tools:
            return {"messages": conversation}
        pairs = [(message["role"], message["content"]) for message in conversation]
        return {"messages": as_text_arguments(structured(pairs)), "tools": self._tools}

    def _most_prompt_tokens(self, conversation: Conversation) -> int:
        """Upper estimate of the tokens of a prompt and its tools."""
        tools = most_tokens(json.dumps(self._tools)) if self._tools else 0
        return most_prompt_tokens(conversation) + tools

    def _completion_of(self, answer: Answer) -> str:
        """The completion in an answer, up to the end of its action."""
        text = with_reasoning(answer.reasoning, answer.text)
        if not self._cut:
            return text
        if self.tools is None:
            return cut_completion(drop_unfinished_action(text) if answer.is_cut else text)
        if answer.calls:
            return write_turn(text, answer.calls)
        names = {each["function"]["name"] for each in self._tools}
        for form in FORMS:
            turn = form.read(text, self.tools)
            if turn.calls and names.issuperset(call.name for call in turn.calls):
                return write_turn(*turn)
        return text

    def _answered(self, answer: Answer, conversation: Conversation, sampling: Sampling) -> _Outcome:
        """The outcome of an answer; tokens that the server does not report are estimated."""
        text = write_turn(with_reasoning(answer.reasoning, answer.text), answer.calls)
        estimated = self._most_prompt_tokens(conversation), sampling.max_tokens
        written = 0 if not text.strip() else min(most_tokens(text), sampling.max_tokens)
        if answer.is_cut:
            written = sampling.max_tokens
        prompt, generated = answer.prompt_tokens, answer.generated_tokens
        self._cache.calibrate(estimated, prompt or 0, generated or 0)
        tokens = (
            estimated[0] if prompt is None else prompt,
            written if generated is None else generated,
        )
        note = self._scrub(answer.note)
        if answer.problem == "refused":
            words = f"the model refuses to answer: {note}"
            return _Outcome(failure=answer.problem, words=words, final=True, tokens=tokens)
        if answer.problem:
            return _Outcome(failure=answer.problem, words=note, tokens=tokens)
        completion = Completion(
            text=self._completion_of(answer),
            finish="length" if answer.is_cut else "stop",
            prompt_tokens=tokens[0],
            cached_tokens=answer.cached_tokens,
            generated_tokens=tokens[1],
        )
        return _Outcome(completion=completion, tokens=tokens)

    def _rejected(self, rejection: Rejection, wait: float | None) -> _Outcome:
        """The outcome of a response without an answer."""
        status = "error" if rejection.status == 200 else str(rejection.status)
        words, kind = self._scrub(rejection.words), rejection.kind
        if kind == "overflow":
            return _Outcome(completion=Completion(text="", finish="overflow"))
        if kind == "conversation":
            words = f"the server refuses the conversation ({rejection.status}): {words}"
            return _Outcome(failure="refused", words=words, final=True)
        if kind == "transient" or (
            kind == "unknown" and rejection.status == 200 and self._accepted
        ):
            known = rejection.words == "" or rejection.words.startswith("status ")
            return _Outcome(failure=status, words="" if known else words, wait=wait)
        failure = "option" if kind == "option" else "unexplained" if kind == "unknown" else status
        return _Outcome(failure=failure, rejection=rejection)

    def _raise_if_permanent(self, rejection: Rejection) -> None:
        """ModelError for a rejection that every other request would meet as well."""
        server, key = f"the server at {self._settings.base_url}", self._settings.key
        stated = f"({rejection.status}): {self._scrub(rejection.words)}"
        address = f"`{self._name}.base_url`, which ends in `/v1`"
        refuses = f"{server} refuses a request for {self._model!r} {stated}"
        message, hint = {
            "key": (
                f"{server} refuses the key {stated}",
                f"set the environment variable `{key}` to a key that this server accepts",
            ),
            "quota": (
                f"{server} refuses further requests: credit or quota is used up {stated}",
                "add credit or raise the quota there, then run the same command again; responses "
                "are kept",
            ),
            "model": (refuses, f"check the model's name and {address}"),
            "limit": (refuses, f"lower `{self._limit_name}` to what the model allows"),
            "address": (
                f"{server} has no chat completions at this address {stated}"
                if rejection.status == 200
                else refuses,
                f"check {address}, and the model's name",
            ),
        }.get(rejection.kind, ("", ""))
        if message:
            raise ModelError(message, hint=hint)

    def _find_cause(self, rejection: Rejection, options: Collection[str]) -> bool:
        """Whether another try without the options that a rejection names may help."""
        if rejection.kind != "option":
            return False
        dropped = self._capabilities.drop(rejection, options)
        if dropped:
            self._drop(dropped)
        return dropped is not None

    def _drop(self, options: Collection[str]) -> None:
        """Never send some options again, and report it once."""
        budget = self._settings.max_tokens or self._settings.max_cost
        for option in self._capabilities.never_send(options):
            text = f"the server at {self._settings.base_url} does not take `{option}`: "
            if option == "max_tokens":
                text += "it is sent as `max_completion_tokens` from now on"
            elif option == "max_completion_tokens" and budget:
                raise ModelError(
                    f"{text}without a limit on completions, the budget cannot be kept",
                    hint=f"unset `{self._name}.max_tokens` and `max_cost`, and set `max_requests`",
                )
            else:
                text += "it is left out from now on, and the server's default applies"
            _log.warning("%s", text)
            self._cache.drop(self._model, [option])

    def _give_up(self, rejection: Rejection) -> Completion:
        """Fail a rollout whose rejection has no known cause.

        If the server has never answered, every request is rejected; `act` then ends the run.
        """
        words = f"({rejection.status}): {self._scrub(rejection.words)}"
        self._unexplained = ModelError(
            f"the server at {self._settings.base_url} refuses a request for {self._model!r} "
            f"{words}",
            hint=f"check the model's name and `{self._name}.base_url`, which ends in `/v1`",
        )
        text = f"the server refuses the request {words}"
        return Completion(text=text, finish="error", refused=True)

    def _scrub(self, words: str) -> str:
        words = " ".join(words.replace(self._key, "…").split())
        return words if len(words) <= _LONGEST_WORDS else f"{words[:_LONGEST_WORDS]}…"


def _place(conversation: Conversation, servers: int) -> int:
    """The server of an episode, which depends on its first messages and not on seeds."""
    start = "\n".join(message["content"] for message in conversation[:2])
    return zlib.crc32(start.encode("utf-8", "surrogatepass")) % servers
