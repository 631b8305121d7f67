"""Fake roles: what they were asked, and answers by a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from eef.policies.acting import Role
from eef.policy import Completion, Conversation, Policy, Sampling, ScriptedPolicy
from eef.trajectory import Author


class FakeModel:
    """A policy that answers the last message by `answer(message, seed)`; an answer may be a whole
    Completion. `questions` holds the messages, in order."""

    replays = "alone"

    def __init__(self, answer: Callable[[str, int], str | Completion], name: str = "fake") -> None:
        self.author = Author("agent", name)
        self.questions: list[str] = []
        self.prompts: list[str] = []
        self._answer = answer

    def act(
        self, conversations: Sequence[Conversation], seeds: Sequence[int], sampling: Sampling
    ) -> list[Completion]:
        return [self._complete(*each) for each in zip(conversations, seeds, strict=True)]

    def _complete(self, conversation: Conversation, seed: int) -> Completion:
        self.questions.append(conversation[-1]["content"])
        self.prompts.append(conversation[0]["content"])
        answer = self._answer(conversation[-1]["content"], seed)
        if isinstance(answer, Completion):
            return answer
        return Completion(text=answer, prompt_tokens=3, generated_tokens=len(answer.split()))


def fake_role(answer: Callable[[str, int], str | Completion], name: str = "critic") -> Role:
    return Role(name, FakeModel(answer), Sampling(max_tokens=50), "You walk.")


class Recording:
    """A policy that keeps the conversations that another one has acted on."""

    def __init__(self, policy: Policy) -> None:
        self.author, self.replays = policy.author, policy.replays
        self.seen: list[Conversation] = []
        self._policy = policy

    def act(
        self, conversations: Sequence[Conversation], seeds: Sequence[int], sampling: Sampling
    ) -> list[Completion]:
        self.seen += conversations
        return self._policy.act(conversations, seeds, sampling)


def acts(script: Callable[[Conversation, int], str]) -> Recording:
    """A student of a script."""
    return Recording(ScriptedPolicy(Author("student", "scripted"), script))
