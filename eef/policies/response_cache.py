"""ResponseCache: every response of a server, on disk as soon as it arrives, and their total usage.

An interrupted rollout requests nothing twice: its earlier turns are read from here. Nothing that
was paid for is lost, and a resumed collection ends with the trajectories of an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eef.errors import BudgetError, DataError
from eef.policies.settings import ApiSettings
from eef.policy import Completion, Conversation, Sampling
from eef.utils.jsonl import append_jsonl, numbered_records, repair_tail

CACHE_FILE = "responses.jsonl"


@dataclass(slots=True)
class ApiUsage:
    """Usage of a server: requests sent, tokens as it counts them, cost at the settings' prices.

    `failures` counts failed requests by their cause: `429`, `503`, `time-out`, `connection`,
    `malformed`, `empty` …
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def to_record(self) -> dict[str, Any]:
        return {**asdict(self), "failures": dict(sorted(self.failures.items()))}


class ResponseCache:
    """The responses in a file by request, and the budget. All methods are thread-safe."""

    def __init__(self, path: Path, settings: ApiSettings) -> None:
        self.path = path
        self.usage = ApiUsage()
        self._settings = settings
        self._completions: dict[str, Completion] = {}
        self._reserved_requests, self._reserved_tokens, self._reserved_cost = 0, 0, 0.0
        self._lock = threading.Lock()
        if path.exists():
            repair_tail(path)
            for number, record in numbered_records(path, torn_ok=True):
                self._enter(record, number)

    def get(self, request: str) -> Completion | None:
        """The completion of an earlier request, or None."""
        return self._completions.get(request)

    def record(
        self,
        request: str,
        completion: Completion | None,
        requests: int,
        failures: Mapping[str, int],
    ) -> None:
        """Write a completion (None if every attempt failed) and its usage."""
        record = {
            "question": request,
            "completion": None if completion is None else asdict(completion),
            "requests": requests,
            "failures": dict(failures),
        }
        with self._lock:
            append_jsonl(self.path, record)
            self._enter(record, 0)

    def reserve(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Reserve a request's highest cost. BudgetError if that may exceed the budget."""
        cost = self._price(prompt_tokens, completion_tokens)
        with self._lock:
            for unit, limit, spent, more in (
                (
                    "requests",
                    self._settings.max_requests,
                    self.usage.requests + self._reserved_requests,
                    1,
                ),
                (
                    "tokens",
                    self._settings.max_tokens,
                    self.usage.tokens + self._reserved_tokens,
                    prompt_tokens + completion_tokens,
                ),
                ("cost", self._settings.max_cost, self.usage.cost + self._reserved_cost, cost),
            ):
                if limit is not None and spent + more > limit:
                    raise BudgetError(
                        f"the budget is spent: {spent:g} of {limit:g} {unit}; the next request may "
                        f"take {more:g}",
                        hint=f"raise `expert.api.max_{unit}` and run the same command again; "
                        "responses are kept",
                    )
            self._reserve(1, prompt_tokens + completion_tokens, cost)

    def release(self, requests: int, prompt_tokens: int, completion_tokens: int) -> None:
        """Release the reservations of finished requests, whose usage `record` has counted."""
        with self._lock:
            tokens = requests * (prompt_tokens + completion_tokens)
            self._reserve(
                -requests, -tokens, -requests * self._price(prompt_tokens, completion_tokens)
            )

    def _reserve(self, requests: int, tokens: int, cost: float) -> None:
        self._reserved_requests += requests
        self._reserved_tokens += tokens
        self._reserved_cost += cost

    def _price(self, prompt_tokens: int, completion_tokens: int) -> float:
        prices = self._settings.prompt_price, self._settings.completion_price
        return (prompt_tokens * prices[0] + completion_tokens * prices[1]) / 1e6

    def _enter(self, record: Mapping[str, Any], number: int) -> None:
        try:
            fields = record["completion"]
            completion = None if fields is None else Completion(**fields)
            self.usage.requests += record["requests"]
            self.usage.failures.update(record["failures"])
            request = record["question"]
        except (KeyError, TypeError) as error:
            raise DataError(
                f"`{self.path}`, line {number}: malformed response ({error})"
            ) from error
        if completion is not None:
            self._completions[request] = completion
            self.usage.prompt_tokens += completion.prompt_tokens
            self.usage.completion_tokens += completion.generated_tokens
            self.usage.cost += self._price(completion.prompt_tokens, completion.generated_tokens)


def request_id(model: str, conversation: Conversation, seed: int, sampling: Sampling) -> str:
    """Identifies a request by its model, messages, seed and sampling."""
    text = json.dumps([model, conversation, seed, asdict(sampling)], sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
