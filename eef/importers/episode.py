"""ParsedEpisode: one episode as a file tells it, before it is known what can be made of it. From `formats` to `verify`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from eef.trajectory import Step

_INSTRUCTION = re.compile(
    r"\binstruction:\s*(?:\[SEP\])?\s*(.+?)\s*(?:\[SEP\]|\n|\[[A-Z]|$)", re.I | re.S
)
_PRICE = re.compile(r",? and price lower than [\d.]+ dollars", re.I)


class ParseError(Exception):
    """A row which is not what its format says; the message is the reason of its rejection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedEpisode:
    """An episode of a file.

    `key` is the row's own id, unique in its file ("" where it has none). `task` is the environment's number of its
    task, or our task id, where the row tells one. `prompt` is the rules in words that came before the episode.
    `reward` and `success` are None where the row does not tell them. `author` is set where the row tells who played,
    `source` where it tells that it was imported before, and from where.
    """

    format: str
    steps: tuple[Step, ...]
    final_observation: str = ""
    key: str = ""
    task: str | int | None = None
    instruction: str = ""
    prompt: str = ""
    reward: float | None = None
    success: bool | None = None
    terminated: bool = True
    author: str = ""
    source: str = ""

    def goal(self) -> str:
        """What was asked for in words, as far as the row tells: its instruction, else that of the first observation,
        else the whole of it."""
        first = self.steps[0].observation
        found = _INSTRUCTION.search(first)
        return self.instruction or (found[1] if found else first)


def goal_key(goal: str) -> str:
    """A goal in words without what differs from one telling to another: case, punctuation, a price drawn anew.

    >>> goal_key("I need a red mug, and price lower than 20.00 dollars")
    'i need a red mug'
    """
    return " ".join(re.findall(r"\w+", _PRICE.sub("", goal).casefold()))


def whole_reward(value: object) -> float | None:
    """A reward in [0, 1] of a row, None where it tells none. ParseError: anything else."""
    if value is None or isinstance(value, bool):
        return None if value is None else float(value)
    if not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        raise ParseError(f"reward {value!r} is no number in [0, 1]")
    return float(value)


def require_steps(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps as they are; ParseError where there is none, or where none of them holds an action."""
    if not steps:
        raise ParseError("no turn of the agent in it")
    if not any(step.action for step in steps):
        raise ParseError("no action in any of the agent's turns (`Action: …` or a tool call)")
    return tuple(steps)
