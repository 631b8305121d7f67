"""ResponseCache: every answer of a server, on the disk the moment it is there, and what they cost together.

A rollout that was interrupted asks nothing twice: its earlier turns are answered from here. So nothing that was paid
for is lost, and a resumed collection ends with the trajectories of one that nothing interrupted.
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
    """What a server was asked: attempts sent, tokens as it counts them, money at the settings' prices, and how many
    attempts came to nothing, by what went wrong (`429`, `503`, `time-out`, `connection`, `malformed`, `empty` …)."""

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
    """The answers of a file by question, and the budget. All methods may be called by several threads."""

    def __init__(self, path: Path, settings: ApiSettings) -> None:
        self.path = path
        self.usage = ApiUsage()
        self._settings = settings
        self._answers: dict[str, Completion] = {}
        self._reserved_requests, self._reserved_tokens, self._reserved_cost = 0, 0, 0.0
        self._lock = threading.Lock()
        if path.exists():
            repair_tail(path)
            for number, record in numbered_records(path, torn_ok=True):
                self._enter(record, number)

    def answer(self, question: str) -> Completion | None:
        """The answer to a question that was answered before."""
        return self._answers.get(question)

    def record(
        self,
        question: str,
        completion: Completion | None,
        requests: int,
        failures: Mapping[str, int],
    ) -> None:
        """Write an answer (None: it came to nothing) and what it took."""
        record = {
            "question": question,
            "completion": None if completion is None else asdict(completion),
            "requests": requests,
            "failures": dict(failures),
        }
        with self._lock:
            append_jsonl(self.path, record)
            self._enter(record, 0)

    def reserve(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Set a request's likely cost aside. BudgetError where that may exceed what is allowed."""
        cost = self._price(prompt_tokens, completion_tokens)
        with self._lock:
            for what, limit, spent, more in (
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
                        f"the budget is spent: {spent:g} of {limit:g} {what}, and the next request may take {more:g}",
                        hint=f"raise `expert.api.max_{what}` and run the same command again: answers are kept",
                    )
            self._reserve(1, prompt_tokens + completion_tokens, cost)

    def release(self, requests: int, prompt_tokens: int, completion_tokens: int) -> None:
        """Give back what was set aside for attempts that are over; `record` counts what they took."""
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
            told = record["completion"]
            completion = None if told is None else Completion(**told)
            self.usage.requests += record["requests"]
            self.usage.failures.update(record["failures"])
            question = record["question"]
        except (KeyError, TypeError) as error:
            raise DataError(f"`{self.path}`, line {number}: malformed answer ({error})") from error
        if completion is not None:
            self._answers[question] = completion
            self.usage.prompt_tokens += completion.prompt_tokens
            self.usage.completion_tokens += completion.generated_tokens
            self.usage.cost += self._price(completion.prompt_tokens, completion.generated_tokens)


def question_id(model: str, conversation: Conversation, seed: int, sampling: Sampling) -> str:
    """What tells one question from another: model, messages, seed and how it is drawn."""
    told = json.dumps([model, conversation, seed, asdict(sampling)], sort_keys=True)
    return hashlib.blake2b(told.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
