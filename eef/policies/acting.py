"""Ways of acting with roles, as policies: `Advised`, `Criticized`, `Lookahead`; and `Role`.

Each wraps the policy of an agent and is a policy itself, so that runners, stores and evaluations
treat it like any other. See `eef.roles.Acting`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from eef.chat import with_advice
from eef.note import Advice, RoleUsage, add_usage
from eef.policy import (
    Completion,
    Consulted,
    Conversation,
    Look,
    Policy,
    Replays,
    Sampling,
    start_batch,
)
from eef.roles import (
    ADVISE,
    CRITICIZE,
    VALUE,
    Acting,
    check_critique,
    read_score,
    role_conversation,
    turn_question,
)
from eef.selection import accept_any
from eef.thoughts import drop_thoughts
from eef.utils.seeds import derive_seed

Check = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class RoleAnswer:
    """A role's answer. `problem` is why its text cannot be used, empty if it can.

    `missing` is whether an answer is missing for a temporary reason, such as a server that is down.
    Such an answer must not count as a role that has nothing to say.
    """

    text: str
    problem: str
    usage: RoleUsage
    missing: bool = False


@dataclass(frozen=True, slots=True)
class Role:
    """A role of a run: its name, its policy, and how it is sampled.

    `prompt` is the environment's prompt, which the role is shown.
    """

    name: str
    policy: Policy
    sampling: Sampling
    prompt: str

    def ask(
        self, questions: Sequence[str], seeds: Sequence[int], checks: Sequence[Check] | None = None
    ) -> list[RoleAnswer]:
        """One answer to each question. An unusable one is requested a second time, once."""
        checks = checks or [accept_any] * len(questions)
        answers = self._ask(questions, seeds, checks)
        again = [number for number, answer in enumerate(answers) if answer.problem]
        if not again:
            return answers
        second = self._ask(
            [questions[number] for number in again],
            [derive_seed(seeds[number], "again") for number in again],
            [checks[number] for number in again],
        )
        for number, answer in zip(again, second, strict=True):
            counts = RoleUsage(role=self.name, repeated=1, skipped=int(bool(answer.problem)))
            (usage,) = add_usage([answers[number].usage, answer.usage, counts])
            answers[number] = replace(answer, usage=usage)
        return answers

    def _ask(
        self, questions: Sequence[str], seeds: Sequence[int], checks: Sequence[Check]
    ) -> list[RoleAnswer]:
        if not questions:
            return []
        conversations = [role_conversation(self.prompt, question) for question in questions]
        completions = self.policy.act(conversations, seeds, self.sampling)
        return [
            self._answer(completion, check)
            for completion, check in zip(completions, checks, strict=True)
        ]

    def _answer(self, completion: Completion, check: Check) -> RoleAnswer:
        text = "" if completion.finish == "error" else drop_thoughts(completion.text).strip()
        usage = RoleUsage(
            role=self.name,
            completions=1,
            prompt_tokens=completion.prompt_tokens,
            cached_tokens=completion.cached_tokens,
            generated_tokens=completion.generated_tokens,
        )
        missing = completion.finish == "error" and not completion.refused
        return RoleAnswer(text, self._problem(completion, text, check), usage, missing)

    def _problem(self, completion: Completion, text: str, check: Check) -> str:
        if completion.finish == "error":
            return f"no answer: {completion.text}"
        if completion.finish == "overflow":
            return "the question is longer than the role's context"
        if completion.finish == "length":
            return f"longer than {self.sampling.max_tokens} tokens"
        if not text:
            return "empty"
        try:
            check(text)
        except ValueError as error:
            return str(error)
        return ""


def with_roles(actor: Policy, acting: Acting, role: Role | None) -> Policy:
    """A policy with a way of acting; `role` is None if it acts without a role."""
    if role is None:
        return actor
    kinds: dict[str, type[_WithRole]] = {
        "advised": Advised,
        "criticized": Criticized,
        "lookahead": Lookahead,
    }
    return kinds[acting.kind](actor, acting, role)


class _WithRole(ABC):
    """Base of the ways of acting. Batches advance in lockstep, through servers too."""

    @abstractmethod
    def act(
        self, conversations: Sequence[Conversation], seeds: Sequence[int], sampling: Sampling
    ) -> list[Completion]:
        """One turn of each conversation."""

    def __init__(self, actor: Policy, acting: Acting, role: Role) -> None:
        self._actor, self._acting, self._role = actor, acting, role
        self.author = actor.author
        both = {actor.replays, role.policy.replays}
        self.replays: Replays = "batch" if "batch" in both else "alone"

    def start_batch(self) -> None:
        start_batch(self._actor)
        start_batch(self._role.policy)

    def _propose(
        self, conversations: Sequence[Conversation], seeds: Sequence[int], sampling: Sampling
    ) -> list[list[Completion]]:
        """The candidates of each conversation, [conversations][candidates]."""
        if sampling.temperature == 0:
            sampling = replace(sampling, temperature=self._acting.temperature)
        rows = [
            self._actor.act(
                conversations, [derive_seed(seed, "candidate", number) for seed in seeds], sampling
            )
            for number in range(self._acting.candidates)
        ]
        return [list(candidates) for candidates in zip(*rows, strict=True)]

    def _ask_about(
        self, questions: Sequence[Sequence[str]], seeds: Sequence[int], check: Check = accept_any
    ) -> list[list[RoleAnswer]]:
        """The role's answers to the questions of each conversation, all in one batch."""
        flat = [question for row in questions for question in row]
        their = [
            derive_seed(seed, self._role.name, number)
            for row, seed in zip(questions, seeds, strict=True)
            for number in range(len(row))
        ]
        answers = iter(self._role.ask(flat, their, [check] * len(flat)))
        return [[next(answers) for _ in row] for row in questions]

    def _unless_missing(self, completion: Completion, answers: Iterable[RoleAnswer]) -> Completion:
        """The completion of a turn, or the error of the first answer that is missing."""
        problem = next((each.problem for each in answers if each.missing), None)
        if problem is None:
            return completion
        text = f"role `{self._role.name}`: {problem}"
        return replace(completion, text=text, finish="error", tokens=None)


class Advised(_WithRole):
    """The role advises before each turn. Without usable advice, the agent acts without it."""

    def act(
        self, conversations: Sequence[Conversation], seeds: Sequence[int], sampling: Sampling
    ) -> list[Completion]:
        questions = [[turn_question(each, ADVISE)] for each in conversations]
        answers = [row[0] for row in self._ask_about(questions, seeds)]
        advice = [
            (Advice(role=self._role.name, text=each.text),) if not each.problem else ()
            for each in answers
        ]
        shown = [with_advice(*each) for each in zip(conversations, advice, strict=True)]
        return [
            self._unless_missing(
                replace(completion, consulted=Consulted(advice=given, roles=(answer.usage,))),
                [answer],
            )
            for completion, given, answer in zip(
                self._actor.act(shown, seeds, sampling), advice, answers, strict=True
            )
        ]


class Criticized(_WithRole):
    """The agent proposes, the role criticizes each proposal, the agent decides."""

    def act(
        self, conversations: Sequence[Conversation], seeds: Sequence[int], sampling: Sampling
    ) -> list[Completion]:
        proposed = self._propose(conversations, seeds, sampling)
        usable = [_usable(candidates) for candidates in proposed]
        questions = [
            [turn_question(talk, CRITICIZE, candidate=each.text) for each in candidates]
            for talk, candidates in zip(conversations, usable, strict=True)
        ]
        answers = self._ask_about(questions, seeds, check_critique)
        advice = [
            tuple(
                Advice(role=self._role.name, text=answer.text, candidate=candidate.text)
                for candidate, answer in zip(candidates, row, strict=True)
                if not answer.problem
            )
            for candidates, row in zip(usable, answers, strict=True)
        ]
        shown = [with_advice(*each) for each in zip(conversations, advice, strict=True)]
        completions = []
        for completion, candidates, given, row in zip(
            self._actor.act(shown, seeds, sampling), proposed, advice, answers, strict=True
        ):
            consulted = Consulted(
                advice=given,
                roles=add_usage(answer.usage for answer in row),
                candidates=len(candidates),
            )
            completions.append(self._unless_missing(_after(completion, candidates, consulted), row))
        return completions


class Lookahead(_WithRole):
    """The agent proposes, each action is tried, and the role scores the outcomes.

    Candidates with the same observation count once. If the role scores none, the first candidate is
    executed.
    """

    def act(
        self, conversations: Sequence[Conversation], seeds: Sequence[int], sampling: Sampling
    ) -> list[Completion]:
        raise TypeError("a lookahead acts in an environment: use `act_looking`")

    def act_looking(
        self,
        looks: Sequence[Look],
        conversations: Sequence[Conversation],
        seeds: Sequence[int],
        sampling: Sampling,
    ) -> list[Completion]:
        proposed = self._propose(conversations, seeds, sampling)
        tried = [_try(look, row) for look, row in zip(looks, proposed, strict=True)]
        questions = [
            [
                turn_question(talk, VALUE, candidate=candidate.text, seen=seen)
                for seen, candidate in found.items()
            ]
            for talk, found in zip(conversations, (row for row, _ in tried), strict=True)
        ]
        answers = self._ask_about(questions, seeds, read_score)
        completions = []
        for candidates, (found, steps), row in zip(proposed, tried, answers, strict=True):
            advice = [
                Advice(
                    role=self._role.name,
                    text=answer.text,
                    candidate=candidate.text,
                    seen=seen,
                    score=read_score(answer.text),
                )
                for (seen, candidate), answer in zip(found.items(), row, strict=True)
                if not answer.problem
            ]
            best = max(advice, key=lambda each: each.score or 0.0, default=None)
            chosen = candidates[0] if best is None else found[best.seen or ""]
            others = [each for each in candidates if each is not chosen]
            consulted = Consulted(
                advice=tuple(advice),
                roles=add_usage(answer.usage for answer in row),
                candidates=len(others),
                lookahead_steps=steps,
            )
            completions.append(self._unless_missing(_after(chosen, others, consulted), row))
        return completions


def _usable(candidates: Sequence[Completion]) -> list[Completion]:
    return [each for each in candidates if each.finish in ("stop", "length") and each.text.strip()]


def _try(look: Look, candidates: Sequence[Completion]) -> tuple[dict[str, Completion], int]:
    """The candidates by the observation that each leads to, and the number of steps tried."""
    found: dict[str, Completion] = {}
    steps = 0
    for candidate in _usable(candidates):
        seen = look(candidate.text)
        if seen is not None:
            steps += 1
            found.setdefault(seen, candidate)
    return found, steps


def _after(
    completion: Completion, candidates: Sequence[Completion], consulted: Consulted
) -> Completion:
    """A completion after others of the same policy, whose tokens it includes."""
    every = [completion, *candidates]
    return replace(
        completion,
        prompt_tokens=sum(each.prompt_tokens for each in every),
        cached_tokens=sum(each.cached_tokens for each in every),
        generated_tokens=sum(each.generated_tokens for each in every),
        consulted=consulted,
    )
