"""SimulatedUser: a user of an environment whom a model behind a server plays.

Every message is kept by conversation and seed, so an episode is a function of the task, its seed
and the agent's actions: replaying the actions finds the user's messages in the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from eef.errors import EnvError
from eef.policies.answers import Answer
from eef.policies.settings import UserSettings
from eef.policy import Conversation, Sampling
from eef.trajectory import Author
from eef.utils.extras import missing_package

try:
    from eef.policies.openai import ApiPolicy
except ImportError as error:
    raise missing_package("openai", "a user that a model plays") from error

LEAVES = "###STOP###"
"""Message of the model when its user leaves."""

_RULES = f"""\
You play a user who writes to an agent. Write the user's next message and nothing else: no quotes, \
no stage directions. Never help the agent with its work. Write {LEAVES} and nothing else when your \
matter is settled or refused.

"""
_OPENING = "Hello, how can I help you?"

Side = Literal["agent", "user"]


class UserMessage(NamedTuple):
    """A message of the user; `left` is True if the user wrote the last one and left."""

    text: str
    left: bool


class SimulatedUser:
    """A user behind a server. All clones of an environment may share one, also in threads.

    `name` is where the settings are in a recipe, as hints show it. Raises what `ApiPolicy` raises.
    """

    def __init__(self, settings: UserSettings, *, name: str = "env.user") -> None:
        self._settings, self._limit_name = settings, f"{name}.max_tokens"
        self._policy = _Writer(
            settings.model,
            settings.api,
            author=Author("expert", "user"),
            cache=Path(settings.cache),
            name=f"{name}.api",
            limit_name=self._limit_name,
        )
        self._sampling = Sampling(temperature=settings.temperature, max_tokens=settings.max_tokens)

    def write(self, situation: str, talk: Sequence[tuple[Side, str]], seed: int) -> UserMessage:
        """The user's next message, given who has written what.

        `situation` describes the user and the matter; the agent never sees it. The message after
        `max_messages` is that the user has left. EnvError if the server gives no answer.
        """
        written = sum(side == "user" for side, _ in talk)
        if written >= self._settings.max_messages:
            return UserMessage("The user has left.", True)
        conversation: Conversation = [
            {"role": "system", "content": _RULES + situation},
            {"role": "user", "content": _OPENING},
        ]
        for side, text in talk:  # seen by the user: the agent is the other side
            role = "assistant" if side == "user" else "user"
            if conversation[-1]["role"] == role:
                conversation[-1]["content"] += f"\n\n{text}"
            else:
                conversation.append({"role": role, "content": text})
        [completion] = self._policy.act([conversation], [seed], self._sampling)
        if completion.finish not in ("stop", "length"):
            reason = completion.text or "the conversation is too long for the model"
            raise EnvError(f"the simulated user `{self._settings.model}` does not answer: {reason}")
        if not completion.text.strip():
            raise EnvError(
                f"the simulated user `{self._settings.model}` wrote nothing within "
                f"{self._sampling.max_tokens} tokens",
                hint=f"raise `{self._limit_name}`; it counts the model's reasoning",
            )
        text, mark, _ = completion.text.partition(LEAVES)
        return UserMessage(text.strip() or "The user has left.", bool(mark))

    def fingerprint(self) -> dict[str, object]:
        """The settings that determine the user's messages."""
        return self._settings.model_dump(mode="json", exclude={"api", "cache"})


class _Writer(ApiPolicy):
    """A policy whose completions are plain text: no action ends them."""

    def _completion_of(self, answer: Answer) -> str:
        return answer.text
