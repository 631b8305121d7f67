"""ResponseCache: every response of a server, on disk as soon as it arrives, and their total usage.

Several processes may share a file: the first response to a request is the one that all of them use.
An interrupted rollout requests nothing twice: its earlier turns are read from here. Nothing that
was paid for is lost, and a resumed collection ends with the trajectories of an uninterrupted one.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from io import FileIO
from pathlib import Path
from typing import Any

from eef.errors import BudgetError, DataError
from eef.policies.settings import ApiSettings
from eef.policy import Completion, Conversation, Sampling
from eef.utils.jsonl import append_jsonl, disk_errors, repair_tail
from eef.utils.locks import flock

CACHE_FILE = "responses.jsonl"


@dataclass(slots=True)
class ApiUsage:
    """Usage of a server: requests sent, tokens as it counts them, cost at the settings' prices.

    Tokens of answers that could not be used are included, and estimated from the text if the server
    reports none. `failures` counts failed requests by their cause: `429`, `503`, `time-out`,
    `connection`, `malformed`, `empty`, `filtered` … `dropped` holds, by model, the request options
    that the server does not take and that are no longer sent.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)
    dropped: dict[str, list[str]] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def to_record(self) -> dict[str, Any]:
        return {**asdict(self), "failures": dict(sorted(self.failures.items()))}


@dataclass(frozen=True, slots=True)
class Reservation:
    """A share of the budget that is held for a request: its highest tokens and cost."""

    prompt_tokens: int
    completion_tokens: int
    cost: float

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class ResponseCache:
    """The responses in a file by request, and the budget. All methods are thread-safe.

    `command` is the command that continues after the budget is raised, and `name` is where the
    settings are in a recipe, as hints show them.
    """

    def __init__(
        self, path: Path, settings: ApiSettings, *, command: str = "", name: str = "expert.api"
    ) -> None:
        self.path = path
        self._command, self._name = command, name
        self._prompt_scale, self._completion_scale = 1.0, 1.0
        self.usage = ApiUsage()
        self._settings = settings
        self._completions: dict[str, Completion] = {}
        self._reserved_requests, self._reserved_tokens, self._reserved_cost = 0, 0, 0.0
        self._lock = threading.Lock()
        self._read, self._lines = 0, 0  # bytes and lines of the file that have been entered
        if path.exists():
            with _locked(path):
                repair_tail(path)
                self._read_on()

    def get(self, request: str) -> Completion | None:
        """The completion of an earlier request, or None."""
        found = self._completions.get(request)
        if found is None and self.path.exists() and self.path.stat().st_size > self._read:
            with self._lock, _locked(self.path):
                self._read_on()
            found = self._completions.get(request)
        return found

    @property
    def has_completions(self) -> bool:
        return bool(self._completions)

    def record(
        self,
        request: str,
        completion: Completion | None,
        *,
        prompt_tokens: int = 0,
        completion_tokens: int = 0,
        failure: str = "",
    ) -> Completion | None:
        """Write the completion of one request and its usage; None and its cause if it failed.

        Returns the completion to use: an earlier one, if another process made the same request.
        """
        record = {
            "question": request,
            "completion": None if completion is None else asdict(completion),
            "requests": 1,
            "failures": {failure: 1} if failure else {},
        }
        self._append(
            {**record, "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
        )
        return completion and self._completions[request]

    def drop(self, model: str, options: Iterable[str]) -> None:
        """Write the request options that are no longer sent to a model."""
        record: dict[str, Any] = {"question": "", "completion": None, "requests": 0, "failures": {}}
        self._append({**record, "dropped": {model: list(options)}})

    def _append(self, record: dict[str, Any]) -> None:
        with self._lock, _locked(self.path):
            self._read_on()
            if self.path.stat().st_size > self._read:  # a process was killed while it wrote
                repair_tail(self.path)
            append_jsonl(self.path, record)
            self._read_on()

    def _read_on(self) -> None:
        """Enter the lines of the file that this process has not entered yet."""
        with self.path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                self._lines += 1
                if line.strip():
                    self._enter(_parsed(line, self.path, self._lines), self._lines)

    def reserve(self, prompt_tokens: int, completion_tokens: int) -> Reservation:
        """Reserve a request's highest cost. BudgetError if that may exceed the budget.

        The numbers are estimates. They are raised by the highest excess of an answer over its
        estimate so far.
        """
        with self._lock:
            prompt = math.ceil(prompt_tokens * self._prompt_scale)
            written = math.ceil(completion_tokens * self._completion_scale)
            held = Reservation(prompt, written, self._price(prompt, written))
            requests = self.usage.requests + self._reserved_requests
            tokens, cost = self._reserved_tokens, self._reserved_cost
            self._check("requests", requests, 1)
            self._check("tokens", self.usage.tokens + tokens, held.tokens)
            self._check("cost", self.usage.cost + cost, held.cost)
            self._reserve(held, 1)
            return held

    def release(self, held: Reservation) -> None:
        """Release the reservation of a finished request, whose usage `record` has counted."""
        with self._lock:
            self._reserve(held, -1)

    def calibrate(
        self, estimated: tuple[int, int], prompt_tokens: int, completion_tokens: int
    ) -> None:
        """Compare an answer's tokens, as the server counts them, with their estimates."""
        with self._lock:
            self._prompt_scale = max(self._prompt_scale, prompt_tokens / estimated[0])
            self._completion_scale = max(self._completion_scale, completion_tokens / estimated[1])

    def _check(self, unit: str, spent: float, more: float) -> None:
        """BudgetError if `more` may exceed the budget's limit of a unit."""
        limit = getattr(self._settings, f"max_{unit}")
        if limit is None or spent + more <= limit:
            return
        setting = f"{self._name}.max_{unit}"
        raised = f"{max(2 * limit, spent + 2 * more):g}" if unit == "cost" else f"{2 * limit}"
        hint = f"raise `{setting}` and run the same command again; responses are kept"
        if self._command:
            hint = f"`{self._command} --set {setting}={raised}` continues; responses are kept"
        raise BudgetError(
            f"the budget is spent: {_number(spent)} of {_number(limit)} {unit}; the next request "
            f"may take {_number(more)}",
            hint=hint,
        )

    def _reserve(self, held: Reservation, sign: int) -> None:
        self._reserved_requests += sign
        self._reserved_tokens += sign * held.tokens
        self._reserved_cost += sign * held.cost

    def _price(self, prompt_tokens: int, completion_tokens: int) -> float:
        prices = self._settings.prompt_price, self._settings.completion_price
        return (prompt_tokens * prices[0] + completion_tokens * prices[1]) / 1e6

    def _enter(self, record: Mapping[str, Any], number: int) -> None:
        try:
            for model, options in record.get("dropped", {}).items():
                known = self.usage.dropped.setdefault(model, [])
                known += [each for each in options if each not in known]
            fields = record["completion"]
            completion = None if fields is None else Completion(**fields)
            self.usage.requests += record["requests"]
            self.usage.failures.update(record["failures"])
            request = record["question"]
            generated = 0 if completion is None else completion.generated_tokens
            prompt = 0 if completion is None else completion.prompt_tokens
            prompt = record.get("prompt_tokens", prompt)
            generated = record.get("completion_tokens", generated)
            cost = self._price(prompt, generated)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"`{self.path}`, line {number}: malformed response ({error})"
            ) from error
        self.usage.prompt_tokens += prompt
        self.usage.completion_tokens += generated
        self.usage.cost += cost
        if completion is not None:
            self._completions.setdefault(request, completion)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Context in which no other process reads or writes the file; it is created if it is new."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileIO(path, "a")
    with lock:
        flock(lock)
        yield


def _parsed(line: bytes, path: Path, number: int) -> Mapping[str, Any]:
    try:
        return dict(json.loads(line))
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError(f"`{path}`, line {number}: not a JSON object ({error})") from error


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def request_id(
    model: str,
    conversation: Conversation,
    seed: int,
    sampling: Sampling,
    tools: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Identifies a request by its model, messages, seed, sampling and tools."""
    parts = [model, conversation, seed, asdict(sampling), *([tools] if tools else [])]
    text = json.dumps(parts, sort_keys=True)
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
