"""Env: the protocol every environment follows, verified replay, and `check_env`, which holds one to the protocol.

An environment knows one episode at a time, no tokens, no step limit (a limit belongs to the rollout). It is
deterministic: the same task and actions give the same observations and rewards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from eef.errors import EnvError, ReplayMismatch
from eef.task import Task, TaskSet
from eef.trajectory import PathStep, Step


@dataclass(frozen=True, slots=True)
class StepResult:
    """What followed an action. `terminated`: the environment ended the episode (never because of a step limit)."""

    observation: str
    reward: float
    terminated: bool


@runtime_checkable
class Env(Protocol):
    """One episode of one environment.

    name               prefix of its tasks' ids
    success_threshold  an episode whose final reward reaches it is a win
    step_limit         default limit for a rollout, prefix included
    supports_snapshot  whether `snapshot`/`restore` work (otherwise both raise EnvError); a snapshot can be restored
                       many times and into any clone
    concurrent         whether clones may be played from several threads at once (their work is done elsewhere)
    prompt             the rules in words, for the system message ("" for none)
    worker_restarts    how often a worker process died or hung and was restarted
    """

    name: str
    success_threshold: float
    step_limit: int
    supports_snapshot: bool
    concurrent: bool
    prompt: str

    @property
    def worker_restarts(self) -> int: ...
    def tasks(self, split: str) -> TaskSet: ...
    def reset(self, task: Task) -> str: ...
    def step(self, action: str) -> StepResult: ...
    def score(self, rewards: Iterable[float]) -> float:
        """The episode's final reward in [0, 1] from the rewards of all its steps, prefix included."""
        ...

    def snapshot(self) -> Any: ...
    def restore(self, snapshot: Any) -> None: ...
    def can_branch_at(self, steps: Sequence[Step], t: int) -> bool:
        """Whether another policy can continue from the state in which step `t` was taken.

        False where the environment awaits an answer that only the author of the last action knows.
        """
        ...

    def clone(self) -> Env:
        """A further, independent episode on the same data (cheap; shares what is read-only)."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """All that decides what an episode can look like, JSON-ready; equal fingerprints, comparable numbers."""
        ...

    def close(self) -> None: ...


FORMAT_ERROR = "Format error: no action found. Answer with `Thought: …` and then `Action: …` on a line of its own."


def execute(env: Env, action: str) -> StepResult:
    """Carry out a parsed action; the empty action (a completion that held none) is answered by the format error."""
    return env.step(action) if action else StepResult(FORMAT_ERROR, 0.0, False)


def replay(env: Env, task: Task, path: Iterable[PathStep]) -> StepResult:
    """Bring `env` into the state after `path` by playing its actions, comparing every observation with the record.

    Returns what followed the last action (for an empty path: the first observation), which the path cannot verify.
    Raises ReplayMismatch (with the index of the step whose recorded observation did not come back, or whose action
    ended the episode too early).
    """
    now = StepResult(env.reset(task), 0.0, False)
    for index, item in enumerate(path):
        if now.terminated:
            raise ReplayMismatch(
                f"replay of {task.id}: the episode ended before recorded step {index}",
                step=index,
                expected=item.step.observation,
                observed=now.observation,
            )
        if now.observation != item.step.observation:
            raise ReplayMismatch(
                f"replay of {task.id}: step {index} sees another observation than recorded",
                step=index,
                expected=item.step.observation,
                observed=now.observation,
            )
        now = execute(env, item.step.action)
    return now


def check_env(env: Env, *, split: str = "train", actions: Iterable[str] = ()) -> list[str]:
    """Hold an environment to the protocol on its first tasks; returns what was checked, raises EnvError on a breach.

    `actions` are tried in order in each episode (any strings: an environment must answer every action).
    """
    checked: list[str] = []

    def require(condition: bool, what: str) -> None:
        if not condition:
            raise EnvError(f"environment {env.name!r} breaks the protocol: {what}")
        checked.append(what)

    actions = list(actions) or ["", "no such action", "search[a]", "click[b]"]
    tasks = env.tasks(split).head(3)
    require(len(tasks) > 0, f"split {split!r} has tasks")
    require(
        len({task.id for task in env.tasks(split)}) == len(env.tasks(split)), "task ids are unique"
    )
    for task in tasks:
        first = env.reset(task)
        require(
            isinstance(first, str) and bool(first),
            f"{task.id}: reset returns the first observation",
        )
        with closing(env.clone()) as clone:
            runs = [_play(env, task, actions), _play(clone, task, actions)]
        require(runs[0] == runs[1], f"{task.id}: a clone plays the same episode (deterministic)")
        score = env.score([result.reward for result in runs[0]])
        require(0.0 <= score <= 1.0, f"{task.id}: the score lies in [0, 1]")
        if env.supports_snapshot:
            _check_snapshot(env, task, actions, require)
    with closing(env.clone()) as clone:
        require(env.fingerprint() == clone.fingerprint(), "a clone has the same fingerprint")
    return checked


def _play(env: Env, task: Task, actions: list[str]) -> list[StepResult]:
    env.reset(task)
    results = []
    for action in actions:
        result = env.step(action)
        results.append(result)
        if result.terminated:
            break
    return results


def _check_snapshot(env: Env, task: Task, actions: list[str], require: Any) -> None:
    env.reset(task)
    snapshots = [env.snapshot()]
    after: list[StepResult] = []
    for action in actions:
        after.append(env.step(action))
        snapshots.append(env.snapshot())
        if after[-1].terminated:
            break
    with closing(env.clone()) as clone:
        for player, whose in ((env, "restore"), (clone, "a clone's restore")):
            for index, expected in enumerate(after):
                player.restore(snapshots[index])
                again = player.step(actions[index])
                require(
                    again == expected, f"{task.id}: {whose} before step {index} plays on the same"
                )
