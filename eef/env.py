"""The environment protocol, a base class with its defaults, verified replay, and `check_env`.

An environment plays one episode at a time. It has no tokens and no step limit of its own (limits
belong to the rollout). It is deterministic: the same task and actions give the same observations
and rewards.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from copy import copy
from dataclasses import dataclass
from typing import Any, Protocol, Self, runtime_checkable

from eef.errors import EnvError, ReplayMismatch
from eef.task import Task, TaskSet
from eef.trajectory import PathStep, Step


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of an action.

    `terminated` means that the environment ended the episode, never that a step limit was reached.
    """

    observation: str
    reward: float
    terminated: bool


@runtime_checkable
class Env(Protocol):
    """One episode of one environment. `BaseEnv` has the defaults.

    name               prefix of its tasks' ids
    success_threshold  an episode whose final reward reaches it is a win
    step_limit         default limit of a rollout, prefix included
    supports_snapshot  whether `snapshot` and `restore` work (otherwise both raise EnvError); a
                       snapshot can be restored many times and into any clone
    concurrent         whether clones may be played from several threads at once (because the
                       simulation runs elsewhere)
    prompt             the rules in words, for the system message; "" for none
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
    def tasks(self, split: str) -> TaskSet:
        """The tasks of a split, in a fixed order. Raises EnvError for an unknown split."""
        ...

    def reset(self, task: Task) -> str:
        """Start a task's episode and return the first observation."""
        ...

    def step(self, action: str) -> StepResult:
        """Execute an action. Any string gets an answer, even one that is not a valid action."""
        ...

    def score(self, rewards: Iterable[float]) -> float:
        """The episode's final reward in [0, 1], given the rewards of all its steps."""
        ...

    def snapshot(self) -> Any: ...
    def restore(self, snapshot: Any) -> None: ...
    def can_branch_at(self, steps: Sequence[Step], t: int) -> bool:
        """Whether another policy can continue from the state in which step `t` was taken.

        False if the environment awaits an answer that only the author of the last action can give.
        """
        ...

    def clone(self) -> Env:
        """Another, independent episode on the same data. Cheap: read-only data is shared."""
        ...

    def fingerprint(self) -> dict[str, Any]:
        """Everything that determines what an episode can look like, as JSON data.

        Scores are comparable only between equal fingerprints.
        """
        ...

    def close(self) -> None: ...


class BaseEnv:
    """Defaults for an environment: no snapshots, no workers, nothing to release.

    A subclass provides `name`, `step_limit`, `tasks`, `reset`, `step` and `fingerprint`.
    """

    name: str
    step_limit: int
    success_threshold: float = 1.0
    supports_snapshot: bool = False
    concurrent: bool = False
    prompt: str = ""

    @property
    def worker_restarts(self) -> int:
        return 0

    def tasks(self, split: str) -> TaskSet:
        raise NotImplementedError

    def reset(self, task: Task) -> str:
        raise NotImplementedError

    def step(self, action: str) -> StepResult:
        raise NotImplementedError

    def score(self, rewards: Iterable[float]) -> float:
        """The sum of the rewards."""
        return float(sum(rewards))

    def snapshot(self) -> Any:
        raise EnvError(
            f"{self.name} does not support snapshots",
            hint="replay the recorded actions (`eef.env.replay`)",
        )

    def restore(self, snapshot: Any) -> None:
        self.snapshot()

    def can_branch_at(self, steps: Sequence[Step], t: int) -> bool:
        return True

    def clone(self) -> Self:
        """A shallow copy.

        Override it if `reset` and `step` modify the episode's state in place, not by assignment.
        """
        return copy(self)

    def fingerprint(self) -> dict[str, Any]:
        raise NotImplementedError

    def close(self) -> None:
        """Do nothing."""


FORMAT_ERROR = (
    "Format error: no action found. "
    "Answer with `Thought: …` and then `Action: …` on a line of its own."
)


def execute(env: Env, action: str) -> StepResult:
    """Execute a parsed action; the format error answers the empty action (none was found)."""
    return env.step(action) if action else StepResult(FORMAT_ERROR, 0.0, False)


def replay(env: Env, task: Task, path: Iterable[PathStep]) -> StepResult:
    """Bring `env` into the state after `path` by replaying its actions.

    Every observation is compared with the recorded one. Returns the result of the last action (for
    an empty path, the first observation), which the path itself cannot verify. Raises
    ReplayMismatch with the index of the first step whose observation differs from the record, or
    that the episode did not reach.
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
                f"replay of {task.id}: the observation of step {index} differs from the record",
                step=index,
                expected=item.step.observation,
                observed=now.observation,
            )
        now = execute(env, item.step.action)
    return now


def check_env(env: Env, *, split: str = "train", actions: Iterable[str] = ()) -> list[str]:
    """Check that an environment keeps the protocol on its first tasks.

    `actions` are tried in order in each episode; any strings will do, because an environment must
    answer every action. Returns the checks that passed. Raises EnvError at the first that fails.
    """
    checked: list[str] = []

    def require(condition: bool, what: str) -> None:
        if not condition:
            raise EnvError(f"environment {env.name!r} breaks the protocol: expected that {what}")
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
            episodes = [_play(env, task, actions), _play(clone, task, actions)]
        require(
            episodes[0] == episodes[1], f"{task.id}: a clone plays the same episode (deterministic)"
        )
        score = env.score([result.reward for result in episodes[0]])
        require(0.0 <= score <= 1.0, f"{task.id}: the score is in [0, 1]")
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
                    again == expected,
                    f"{task.id}: {whose} before step {index} continues the same episode",
                )
