"""Policy: whatever writes the next completion of a conversation; Sampling, Completion, and the scripted fake."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from eef.task import Task

Message = dict[str, str]
Conversation = list[Message]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to draw a completion. `temperature` 0 is greedy; `max_tokens` cuts a completion that does not end."""

    temperature: float = 0.7
    top_p: float = 1.0
    max_tokens: int = 256


GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One turn of the agent.

    `finish`: "stop" (it ended by itself), "length" (cut at `max_tokens`), "overflow" (the conversation left no room
    in the model's context; `text` is empty and the rollout ends as truncated), "quit" (it takes no further turn;
    likewise), "error" (`text` says what went wrong; the rollout ends as an error).
    `prompt_tokens` counts the whole prompt; `cached_tokens` of these were not computed again.
    """

    text: str
    finish: Literal["stop", "length", "overflow", "quit", "error"] = "stop"
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0


class Policy(Protocol):
    """`act` gets conversations that end in a user message, and for each a seed; completions come in the same order.

    `name` goes into `Trajectory.author`. Where `batch_invariant` is True a completion depends on its own
    conversation and seed alone; where it is False (floating point in batches) also on the batch it was computed in,
    and an interrupted batch is played again as a whole.
    """

    name: str
    batch_invariant: bool

    def act(
        self, conversations: Sequence[Conversation], seeds: Sequence[int], sampling: Sampling
    ) -> list[Completion]: ...


@runtime_checkable
class PrivilegedPolicy(Policy, Protocol):
    """A policy that is told which task each conversation is about: a scripted expert which looks the way up."""

    def act_on(
        self,
        tasks: Sequence[Task],
        conversations: Sequence[Conversation],
        seeds: Sequence[int],
        sampling: Sampling,
    ) -> list[Completion]: ...


class ScriptedPolicy:
    """A policy from a function `(conversation, seed) → text`: the fake for tests, and the base of scripted experts."""

    batch_invariant = True

    def __init__(self, name: str, script: Callable[[Conversation, int], str]) -> None:
        self.name = name
        self._script = script

    def act(
        self, conversations: Sequence[Conversation], seeds: Sequence[int], sampling: Sampling
    ) -> list[Completion]:
        return [
            Completion(text=self._script(conversation, seed))
            for conversation, seed in zip(conversations, seeds, strict=True)
        ]
