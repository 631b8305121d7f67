"""An inference server in this process: `/v1/completions` with a real model, and faults."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from eef.models.loading import load_model, merge_adapters
from eef.policies.cached_engine import CachedEngine
from eef.policies.decoding import start_row
from eef.policy import Sampling
from tests.fakes.served import serving

Answered = tuple[int, dict[str, str], bytes] | None


@dataclass
class FakeEngine:
    """Serves the model of a directory as `name`, and adapters that it loads.

    `faults` are used up one per completion request: a name in `FAULTS`, or None for none. `changes`
    are applied to every answer. `key` is required if set. `context` is the longest conversation.
    """

    directory: Path | str
    name: str = "student"
    key: str | None = None
    context: int = 4096
    adapters_enabled: bool = True
    most_adapters: int = 2
    faults: list[str | None] = field(default_factory=list)
    changes: Callable[[dict[str, Any]], None] = lambda answer: None
    loaded: dict[str, Any] = field(default_factory=dict)
    requests: list[dict[str, Any]] = field(default_factory=list)
    history: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self.loaded[self.name] = CachedEngine(load_model(str(self.directory))[0])

    def __call__(self, path: str, headers: dict[str, str], body: bytes) -> Answered:
        if self.key and headers.get("Authorization") != f"Bearer {self.key}":
            words = f"Unauthorized: {headers.get('Authorization')}"
            return _answer(401, {"error": {"message": words, "code": 401}})
        if path == "/v1/models":
            listed = [
                {"id": name, "max_model_len": self.context}
                if name == self.name
                else {"id": name, "parent": self.name}
                for name in self.loaded
            ]
            return _answer(200, {"data": listed})
        if path == "/version":
            return _answer(200, {"version": "fake-1"})
        if path == "/v1/load_lora_adapter":
            return self._load(**json.loads(body))
        if path == "/v1/unload_lora_adapter":
            name = json.loads(body)["lora_name"]
            self.history.append(("unload", name))
            return _answer(200 if self.loaded.pop(name, None) else 404, {"ok": True})
        if path == "/v1/completions":
            return self._complete(json.loads(body))
        return _answer(404, {"detail": "Not Found"})

    def _load(self, lora_name: str, lora_path: str) -> Answered:
        if not self.adapters_enabled:
            return _answer(404, {"detail": "Not Found"})
        if len(self.loaded) > self.most_adapters:
            return _answer(400, {"error": {"message": "No free LoRA slots", "code": 400}})
        self.history.append(("load", lora_name))
        self.loaded[lora_name] = CachedEngine(merge_adapters(load_model(lora_path)[0]))
        return _answer(200, {"ok": True})

    def _complete(self, request: dict[str, Any]) -> Answered:
        with self._lock:
            self.requests.append(request)
            fault = self.faults.pop(0) if self.faults else None
        if fault is not None:
            return FAULTS[fault]()
        if request["model"] not in self.loaded:
            name = request["model"]
            message = f"The model `{name}` does not exist."
            error = {"message": message, "type": "NotFoundError", "param": "model", "code": 404}
            return _answer(404, {"error": error})
        prompt = request["prompt"]
        if len(prompt) >= self.context:
            words = f"This model's maximum context length is {self.context} tokens. However, …"
            return _answer(400, {"error": {"message": words, "code": 400}})
        limit = min(request["max_tokens"], self.context - len(prompt))
        with self._lock, torch.inference_mode():
            answer = self._sample(request, prompt, limit)
        self.changes(answer)
        return _answer(200, answer)

    def _sample(self, request: dict[str, Any], prompt: list[int], limit: int) -> dict[str, Any]:
        engine = self.loaded[request["model"]]
        row = start_row(prompt, request["seed"], limit)
        sampling = Sampling(
            temperature=request["temperature"], top_p=request["top_p"], max_tokens=limit
        )
        engine.complete([row], sampling, frozenset(request["stop_token_ids"]))
        logits = engine._model(torch.tensor([row.ids])).logits[0, len(prompt) - 1 : -1]
        chosen = logits.log_softmax(-1).gather(1, torch.tensor(row.generated)[:, None])[:, 0]
        choice = {
            "text": "never read",
            "token_ids": row.generated,
            "prompt_token_ids": prompt,
            "finish_reason": row.finish,
            "logprobs": {"token_logprobs": chosen.tolist()} if request.get("logprobs") else None,
        }
        usage = {
            "prompt_tokens": len(prompt),
            "completion_tokens": len(row.generated),
            "prompt_tokens_details": {"cached_tokens": row.reused},
        }
        return {"choices": [choice], "usage": usage}


@contextmanager
def fake_engine(directory: Path | str, **options: Any) -> Iterator[tuple[str, FakeEngine]]:
    """(address with `/v1`, engine) of a server on loopback."""
    engine = FakeEngine(directory, **options)
    with serving(engine) as (base, _):
        yield f"{base}/v1", engine


def _answer(status: int, body: Any, headers: dict[str, str] | None = None) -> Answered:
    return status, headers or {}, json.dumps(body).encode()


def _hang() -> Answered:
    time.sleep(0.4)
    return None


FAULTS: dict[str, Callable[[], Answered]] = {
    "429": lambda: _answer(429, {"error": {"message": "slow down"}}, {"Retry-After": "0.01"}),
    "500": lambda: _answer(500, {"error": {"message": "EngineCore died", "code": 500}}),
    "503": lambda: (503, {}, b"oops"),
    "closed": lambda: None,
    "cut": lambda: (200, {"Content-Length": "4000"}, b'{"choices": ['),
    "malformed": lambda: (200, {}, b'{"choices": [{"text": "Thou'),
    "empty": lambda: _answer(200, {"choices": []}),
    "aborted": lambda: _answer(
        200, {"choices": [{"token_ids": [], "prompt_token_ids": None, "finish_reason": "abort"}]}
    ),
    "hang": _hang,
}
