"""Policy: writes the next completion of a conversation; Sampling, Completion, ScriptedPolicy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from eef.note import Advice, RoleUsage
from eef.task import Task
from eef.tools import Toolset
from eef.trajectory import Author, SampledTokens

Message = dict[str, str]
Conversation = list[Message]


class SampledText(str):
    """The content of an assistant message, with the token ids it was sampled as.

    It is equal to the plain text; only `Renderer` reads its `tokens`.
    """

    tokens: SampledTokens

    def __new__(cls, text: str, tokens: SampledTokens) -> SampledText:
        self = super().__new__(cls, text)
        self.tokens = tokens
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How a completion is sampled. `temperature` 0 is greedy; `max_tokens` bounds its length."""

    temperature: float = 0.7
    top_p: float = 1.0
    max_tokens: int = 256


GREEDY = Sampling(temperature=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Consulted:
    """The work before a completion: advice of roles and its cost, and candidates of the policy.

    `candidates` counts completions that the policy proposed first; the tokens of a completion
    include theirs. `lookahead_steps` were executed and undone.
    """

    advice: tuple[Advice, ...] = ()
    roles: tuple[RoleUsage, ...] = ()
    candidates: int = 0
    lookahead_steps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One turn of the agent.

    `finish` is one of:

    - "stop": the completion ended by itself;
    - "length": it was cut at `max_tokens`;
    - "overflow": the conversation left no room in the model's context (`text` is empty, and the
      rollout ends as truncated);
    - "done": the policy declines to act (the rollout ends as truncated);
    - "error": `text` is the reason (the rollout ends as an error). `refused` states that the
      server would refuse the same request again.

    `prompt_tokens` counts the whole prompt, `cached_tokens` the part of it that was not recomputed.
    `tokens` are the sampled ids, if they are known and are not those that the text gives.
    `consulted` is None if the policy acted without roles and candidates.
    """

    text: str
    finish: Literal["stop", "length", "overflow", "done", "error"] = "stop"
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    tokens: SampledTokens | None = None
    consulted: Consulted | None = None
    refused: bool = False


Replays = Literal["batch", "alone"]


class Policy(Protocol):
    """Writes one completion for each conversation and seed, in order.

    A conversation ends in an observation. A policy that calls tools has an attribute `tools`, the
    `Toolset` of its environment (see `tools_of`); its conversations and completions hold calls.

    `author` is recorded in every trajectory. `replays` states how a batch that was interrupted or
    failed is played again:

    - "alone": a completion depends on its own conversation and seed alone, or is not reproducible
      to the bit anyway (a server). Only what is missing is played again, and a call that raises is
      repeated with one conversation at a time, so that only the failing ones are lost.
    - "batch": a completion also depends on the batch it is computed in (batched floating-point
      arithmetic). The batch is played again as a whole, and a call that raises fails all its
      rollouts.
    """

    author: Author
    replays: Replays

    def act(
        self, conversations: Sequence[Conversation], seeds: Sequence[int], sampling: Sampling
    ) -> list[Completion]: ...


def tools_of(policy: Policy) -> Toolset | None:
    """The tools that a policy calls; None if it writes ReAct."""
    return getattr(policy, "tools", None)


@runtime_checkable
class CachingPolicy(Policy, Protocol):
    """A policy whose completions may depend on earlier calls, in their last bits.

    `start_batch` ends that: what follows depends on the calls since then alone, as in a process
    that continues an interrupted run with this batch.
    """

    def start_batch(self) -> None: ...


def start_batch(policy: Policy) -> None:
    """Start a batch: completions then depend only on the calls of this batch."""
    if isinstance(policy, CachingPolicy):
        policy.start_batch()


@runtime_checkable
class FreePolicy(Policy, Protocol):
    """A policy that completes any number of conversations at a time, each when it is asked.

    Conversations of the same `session` are likely to start alike. `disconnect` releases what
    belongs to the running event loop.
    """

    async def complete(
        self, conversation: Conversation, seed: int, sampling: Sampling, session: str
    ) -> Completion: ...

    async def disconnect(self) -> None: ...


@runtime_checkable
class PrivilegedPolicy(Policy, Protocol):
    """A policy that also sees the task of each conversation: an expert with a solution."""

    def act_on(
        self,
        tasks: Sequence[Task],
        conversations: Sequence[Conversation],
        seeds: Sequence[int],
        sampling: Sampling,
    ) -> list[Completion]: ...


Look = Callable[[str], str | None]
"""Completion → the observation that it leads to; None if it holds no action. The episode remains
in its state."""


@runtime_checkable
class LookingPolicy(Policy, Protocol):
    """A policy that may try completions in the environment before it decides."""

    def act_looking(
        self,
        looks: Sequence[Look],
        conversations: Sequence[Conversation],
        seeds: Sequence[int],
        sampling: Sampling,
    ) -> list[Completion]: ...


class ScriptedPolicy:
    """A policy made from a function `(conversation, seed) → text`."""

    replays: Replays = "alone"

    def __init__(self, author: Author, script: Callable[[Conversation, int], str]) -> None:
        self.author = author
        self._script = script

    def act(
        self, conversations: Sequence[Conversation], seeds: Sequence[int], sampling: Sampling
    ) -> list[Completion]:
        return [
            Completion(text=self._script(conversation, seed))
            for conversation, seed in zip(conversations, seeds, strict=True)
        ]
