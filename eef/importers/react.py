"""ReAct logs: actions, each with its observation, and thoughts as `think[…]` or in a field."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from eef.importers.calls import call_as_action
from eef.importers.episode import (
    ParsedEpisode,
    ParseError,
    first_value,
    read_flag,
    require_steps,
    row_fields,
)
from eef.react import format_completion
from eef.trajectory import Step

_ENDS = ("click[buy now]",)
_KEYS = ("id", "session", "task_idx")
_THOUGHTS = ("thought", "reasoning")


def read_react(row: dict[str, Any]) -> ParsedEpisode:
    """The episode of a row with `initial_observation` and `steps[action, observation]`.

    An action is a text like `click[red]`, or the name of a tool with its `action_input`. A thought
    is an action `think[…]`, which belongs to the action after it, or the `thought` (or `reasoning`)
    of the action's own entry.

    >>> row = {"initial_observation": "a shop", "reward": 1.0, "steps": [
    ...     {"action": "think[red fits.]", "observation": "OK."},
    ...     {"action": "click[red]", "observation": "bought"}]}
    >>> read_react(row).steps[0].completion
    'Thought: red fits.\\nAction: click[red]'

    ParseError if an entry has no action or observation, if there is no action at all, or if the
    reward is outside [0, 1].
    """
    entries = [_entry(entry, number) for number, entry in enumerate(row["steps"])]
    steps = require_steps(_steps(row["initial_observation"], entries))
    last, truncated = entries[-1], read_flag(row, "truncated")
    return ParsedEpisode(
        format="react",
        steps=steps,
        final_observation=last.observation,
        key=str(next((row[name] for name in _KEYS if row.get(name) is not None), "")),
        terminated=not truncated if truncated is not None else _has_ended(last),
        **row_fields(row),
    )


class _Entry(NamedTuple):
    thought: str
    action: str
    observation: str


def _has_ended(last: _Entry) -> bool:
    """Whether the last entry of a log ends an episode of WebShop."""
    return last.action.lower() in _ENDS or last.observation.startswith("Your score")


def _steps(before: str, entries: Sequence[_Entry]) -> list[Step]:
    steps: list[Step] = []
    thoughts: list[str] = []
    for thought, action, observation in entries:
        if thought:
            thoughts.append(thought)
        if action.startswith("think["):
            thoughts.append(action[len("think[") :].removesuffix("]"))
            continue
        steps.append(_step(before, thoughts, action))
        before, thoughts = observation, []
    if thoughts:  # the log ends in a thought
        steps.append(_step(before, thoughts, ""))
    return steps


def _entry(entry: Any, number: int) -> _Entry:
    fields = entry if isinstance(entry, dict) else {}
    action, observation = fields.get("action"), fields.get("observation")
    if not isinstance(action, str) or not isinstance(observation, str):
        raise ParseError(f"steps[{number}] has no text for `action` and `observation`")
    thought = first_value(fields, _THOUGHTS)
    if thought is not None and not isinstance(thought, str):
        raise ParseError(f"the thought of steps[{number}] is not a text")
    given = fields.get("action_input")
    if given is not None and not (given == "" and action.endswith("]")):
        action = call_as_action(action.strip(), given)
    return _Entry((thought or "").strip(), action.strip(), observation)


def _step(observation: str, thoughts: list[str], action: str) -> Step:
    thought = " ".join(thoughts)
    completion = format_completion(thought, action) if action else f"Thought: {thought}"
    return Step(observation=observation, completion=completion, action=action)
