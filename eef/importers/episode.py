"""ParsedEpisode: an episode as recorded in a file, parsed by `formats` and replayed by `verify`."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eef.trajectory import Step

_INSTRUCTION = re.compile(
    r"\binstruction:\s*(?:\[SEP\])?\s*(.+?)\s*(?:\[SEP\]|\n|\[[A-Z]|$)", re.I | re.S
)
_PRICE = re.compile(r",? and price lower than [\d.]+ dollars", re.I)


class ParseError(Exception):
    """A row that cannot be parsed; the message is the reason it is rejected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedEpisode:
    """An episode as recorded in a row of a file. A field is empty or None if the row lacks it.

    `key` is the row's own id, unique in its file. `task` is the environment's number of its task,
    or an id of `eef`. `prompt` is the text of rules before the episode. `author` is who played it.
    `episode_seed` is the seed of the environment's randomness. For an episode that was imported
    before, `source` is its first source, and `unverified_task` the task id that it was assigned if
    it was unverified.
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
    episode_seed: int | None = None
    source: str = ""
    unverified_task: str = ""

    def goal(self) -> str:
        """The goal in words: the row's instruction; without one, that in the first observation, or
        the whole first observation."""
        first = self.steps[0].observation
        found = _INSTRUCTION.search(first)
        return self.instruction or (found[1] if found else first)


def goal_key(goal: str) -> str:
    """A goal without what may differ between two statements of it: case, punctuation, price limit.

    >>> goal_key("I need a red mug, and price lower than 20.00 dollars")
    'i need a red mug'
    """
    return " ".join(re.findall(r"\w+", _PRICE.sub("", goal).casefold()))


def parse_reward(value: object) -> float | None:
    """A row's reward in [0, 1], or None if it has none. ParseError for anything else."""
    if value is None or isinstance(value, bool):
        return None if value is None else float(value)
    if not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        raise ParseError(f"`reward` is {value!r}; expected a number from 0 to 1")
    return float(value)


def require_steps(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps unchanged. ParseError if `check_steps` refuses them, or if none has an action."""
    check_steps(steps)
    if not any(step.action for step in steps):
        raise ParseError("no action in any turn of the agent (`Action: …` or a tool call)")
    return tuple(steps)


def check_steps(steps: Sequence[Step]) -> None:
    """ParseError if there are no steps, or if they hold values that cannot be stored."""
    if not steps:
        raise ParseError("no turn of the agent")
    for number, step in enumerate(steps):
        for name in ("observation", "completion", "action"):
            if not isinstance(value := getattr(step, name), str):
                raise ParseError(f"{name} {number} is a {type(value).__name__}; expected text")
        for name in ("reward", "weight"):
            if not math.isfinite(value := getattr(step, name)):
                raise ParseError(
                    f"the {name} of turn {number} is {value}; expected a finite number"
                )


def read_flag(row: Mapping[str, Any], key: str) -> bool | None:
    """A field that is true, false, 0, 1 or null; a text such as "false" would count as true.

    ParseError for any other value.
    """
    value = row.get(key)
    if value is None or isinstance(value, bool):
        return value
    if value in (0, 1) and isinstance(value, int | float):
        return bool(value)
    raise ParseError(f"`{key}` is {value!r}; expected true, false or null")


def row_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a ParsedEpisode that rows of every format may state under the same keys.

    ParseError for a value of another type.
    """
    return {
        "task": first_value(row, ("task", "task_idx")),
        "instruction": str(row.get("instruction") or ""),
        "reward": parse_reward(first_value(row, ("reward", "score"))),
        "success": read_flag(row, "success"),
        "author": str(row.get("author") or ""),
        "episode_seed": _seed(row.get("episode_seed")),
    }


def first_value(item: Mapping[str, Any], keys: Sequence[str]) -> Any:
    """The value of the first key that has one."""
    return next((item[key] for key in keys if item.get(key) is not None), None)


def _seed(value: object) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise ParseError(f"`episode_seed` is {value!r}; expected a whole number")
