"""ReAct logs in bracket format: `think[…]`, `search[…]`, `click[…]`, each with its observation."""

from __future__ import annotations

from typing import Any

from eef.importers.episode import (
    ParsedEpisode,
    ParseError,
    read_flag,
    require_steps,
    row_fields,
)
from eef.react import format_completion
from eef.trajectory import Step

_ENDS = ("click[buy now]",)
_KEYS = ("id", "session", "task_idx")


def read_react(row: dict[str, Any]) -> ParsedEpisode:
    """The episode of a row with `initial_observation` and `steps[action, observation]`.

    A thought belongs to the action after it.

    >>> row = {"initial_observation": "a shop", "reward": 1.0, "steps": [
    ...     {"action": "think[red fits.]", "observation": "OK."},
    ...     {"action": "click[red]", "observation": "bought"}]}
    >>> read_react(row).steps[0].completion
    'Thought: red fits.\\nAction: click[red]'

    ParseError if an entry has no action or observation, if there is no action at all, or if the
    reward is outside [0, 1].
    """
    steps = require_steps(_steps(row))
    last, truncated = row["steps"][-1], read_flag(row, "truncated")
    return ParsedEpisode(
        format="react",
        steps=steps,
        final_observation=last["observation"],
        key=str(next((row[name] for name in _KEYS if row.get(name) is not None), "")),
        terminated=not truncated if truncated is not None else _has_ended(last),
        **row_fields(row),
    )


def _has_ended(last: dict[str, Any]) -> bool:
    """Whether the last entry of a log ends an episode of WebShop."""
    return last["action"].lower() in _ENDS or last["observation"].startswith("Your score")


def _steps(row: dict[str, Any]) -> list[Step]:
    steps: list[Step] = []
    before, thoughts = row["initial_observation"], []
    for number, entry in enumerate(row["steps"]):
        action, observation = _entry(entry, number)
        if action.startswith("think["):
            thoughts.append(action[len("think[") :].removesuffix("]"))
            continue
        steps.append(_step(before, thoughts, action))
        before, thoughts = observation, []
    if thoughts:  # the log ends in a thought
        steps.append(_step(before, thoughts, ""))
    return steps


def _entry(entry: Any, number: int) -> tuple[str, str]:
    action, observation = (
        entry.get(name) if isinstance(entry, dict) else None for name in ("action", "observation")
    )
    if not isinstance(action, str) or not isinstance(observation, str):
        raise ParseError(f"steps[{number}] has no text for `action` and `observation`")
    return action.strip(), observation


def _step(observation: str, thoughts: list[str], action: str) -> Step:
    thought = " ".join(thoughts)
    completion = format_completion(thought, action) if action else f"Thought: {thought}"
    return Step(observation=observation, completion=completion, action=action)
