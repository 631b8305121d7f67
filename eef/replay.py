"""Verified replay: recorded actions bring an environment into a recorded state."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from eef.env import Env, StepResult, execute
from eef.errors import EnvError, ReplayMismatch
from eef.task import Task
from eef.trajectory import PathStep

Match = Literal["equal", "tolerated", "different"]


def compare_observations(
    ignored: Sequence[str], recorded: str, observed: str, *, white_space: bool = True
) -> Match:
    """How an observation compares with the recorded one.

    It is "tolerated" if the two differ only in what the expressions `ignored` match. Without
    `white_space`, differences in white space do not count at all: many logs do not keep it.

    >>> from eef.env import json_field
    >>> compare_observations([json_field("time")], '{"time": 1, "mug": 2}', '{"time": 9, "mug": 2}')
    'tolerated'
    """

    def key(text: str) -> object:
        return text if white_space else text.split()

    if recorded == observed or key(recorded) == key(observed):
        return "equal"
    if ignored and key(_without(ignored, recorded)) == key(_without(ignored, observed)):
        return "tolerated"
    return "different"


class Replay(NamedTuple):
    """The result of a replay's last action (for an empty path, the first observation), how many
    observations differ from the record in what the environment ignores, and each step's reward."""

    result: StepResult
    tolerated_steps: int
    rewards: tuple[float, ...]


def replay(env: Env, task: Task, path: Iterable[PathStep]) -> Replay:
    """Bring `env` into the state after `path` by replaying its actions.

    `task` has the seed of the recorded episode. Every observation is compared with the recorded
    one, except for what the environment ignores; the path itself cannot verify the last result.
    Raises ReplayMismatch with the index of the first step whose observation differs from the
    record, or that the episode did not reach.
    """
    now = StepResult(env.reset(task), 0.0, False)
    tolerated = 0
    rewards: list[float] = []
    for index, item in enumerate(path):
        if now.terminated:
            raise ReplayMismatch(
                f"replay of {task.id}: the episode ended before recorded step {index}",
                step=index,
                expected=item.step.observation,
                observed=now.observation,
            )
        match = compare_observations(env.ignored, item.step.observation, now.observation)
        if match == "different":
            raise ReplayMismatch(
                f"replay of {task.id}: the observation of step {index} differs from the record",
                step=index,
                expected=item.step.observation,
                observed=now.observation,
            )
        tolerated += match == "tolerated"
        now = execute(env, item.step.action)
        rewards.append(now.reward)
    return Replay(now, tolerated, tuple(rewards))


def _without(ignored: Sequence[str], text: str) -> str:
    for pattern in ignored:
        text = compile_ignored(pattern).sub("…", text)
    return text


@lru_cache
def compile_ignored(pattern: str) -> re.Pattern[str]:
    """A compiled expression of `Env.ignored`. EnvError if it is not valid."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise EnvError(
            f"`ignored` of the environment: {pattern!r} is not a valid regular expression ({error})"
        ) from None
