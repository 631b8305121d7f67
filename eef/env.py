"""The environment protocol, a base class with its defaults, and the execution of actions.

An environment plays one episode at a time. It has no tokens and no step limit of its own (limits
belong to the rollout). An episode is a function of the task, its seed and the actions: the same
three give the same observations and rewards. What cannot be repeated exactly is declared: `ignored`
are the parts of observations that a replay does not compare, and an environment that cannot be
replayed at all is not `replayable`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, Self, runtime_checkable

from eef.errors import ConfigError, EnvError
from eef.task import Task, TaskSet
from eef.tools import Tool, Toolset, format_error_in, join_results, split_action
from eef.trajectory import Step


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of an action.

    `terminated` means that the environment ended the episode, never that a step limit was reached.
    """

    observation: str
    reward: float
    terminated: bool


AFTER_END = StepResult("The episode is over.", 0.0, True)
"""The answer to an action after the end of an episode."""


@runtime_checkable
class Env(Protocol):
    """One episode of one environment. `BaseEnv` has the defaults.

    name               prefix of its tasks' ids
    success_threshold  an episode whose final reward reaches it is a win
    step_limit         default limit of a rollout, prefix included
    supports_snapshot  whether `snapshot` and `restore` work (otherwise both raise EnvError); a
                       snapshot can be restored many times and into any clone
    seeded             whether `Task.seed` determines parts of an episode, such as a simulated user
    replayable         whether recorded actions lead to the recorded observations again; states
                       inside the episodes of an environment that is not can never be branched from
    ignored            regular expressions; their matches in an observation, such as a time, are not
                       compared when actions are replayed
    concurrent         whether clones may be played from several threads at once (because the
                       simulation runs elsewhere)
    prompt             the rules in words, for the system message; "" for none
    tools              tools that an agent can call, whose actions `step` takes; () for none
    tool_prompt        the rules for an agent that calls tools
    text_action        the name of the action that a turn of text alone is, for such an agent; "" if
                       that is a format error
    worker_restarts    how often a worker process died or hung and was restarted
    """

    name: str
    success_threshold: float
    step_limit: int
    supports_snapshot: bool
    seeded: bool
    replayable: bool
    ignored: tuple[str, ...]
    concurrent: bool
    prompt: str
    tools: tuple[Tool, ...]
    tool_prompt: str
    text_action: str

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
    seeded: bool = False
    replayable: bool = True
    ignored: tuple[str, ...] = ()
    concurrent: bool = False
    prompt: str = ""
    tools: tuple[Tool, ...] = ()
    tool_prompt: str = ""
    text_action: str = ""

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
            hint="replay the recorded actions (`eef.replay.replay`)",
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


class ToolEnv(BaseEnv):
    """Base of environments whose actions are tool calls.

    A subclass provides `tools`, `rules` and `call` in place of `prompt` and `step`. Agents that
    write ReAct take the same actions as text.
    """

    rules: str = ""

    @property
    def prompt(self) -> str:  # type: ignore[override]
        """The rules and the tools in words."""
        return (
            f"{self.rules}\n\nActions:\n{self.toolset.describe()}\n\n"
            "Answer with `Thought: …` and then `Action: …` on a line of its own."
        ).lstrip()

    @property
    def tool_prompt(self) -> str:  # type: ignore[override]
        return self.rules

    @cached_property
    def toolset(self) -> Toolset:
        return Toolset(self.tools, self.text_action, self.rules)

    def call(self, name: str, arguments: dict[str, Any]) -> StepResult:
        """Execute a call that fits the schema of its tool.

        A turn of text alone is the call of `text_action` with the argument `text`.
        """
        raise NotImplementedError

    def step(self, action: str) -> StepResult:
        call = self.toolset.call_of(action)
        if call is None:
            known = ", ".join(f"`{each.name}`" for each in self.tools)
            return StepResult(f"Unknown action. The actions are {known}.", 0.0, False)
        problem = self.toolset.problem(call)
        if problem:
            return StepResult(f"Format error: {problem}", 0.0, False)
        return self.call(call.name, call.arguments)


def toolset_of(env: Env) -> Toolset:
    """The tools of an environment. ConfigError if it declares none."""
    if not env.tools:
        raise ConfigError(
            f"environment {env.name!r} declares no tools", hint='set `chat.format = "react"`'
        )
    return Toolset(env.tools, env.text_action, env.tool_prompt)


def execute(env: Env, action: str) -> StepResult:
    """Execute the parsed action of a turn.

    The empty action (none was found) and invalid calls are answered by a format error. Of several
    calls, all are executed up to the end of the episode; the reward is their sum.
    """
    results: list[StepResult] = []
    for each in split_action(action):
        results.append(_execute(env, each))
        if results[-1].terminated:
            break
    if len(results) == 1:
        return results[0]
    observation = join_results([result.observation for result in results])
    return StepResult(observation, sum(result.reward for result in results), results[-1].terminated)


def _execute(env: Env, action: str) -> StepResult:
    if not action:
        return StepResult(FORMAT_ERROR, 0.0, False)
    problem = format_error_in(action)
    return (
        env.step(action) if problem is None else StepResult(f"Format error: {problem}", 0.0, False)
    )


def json_field(name: str) -> str:
    """The expression for `Env.ignored` that matches a field of JSON objects whose value is simple.

    >>> re.sub(json_field("id"), "…", '{"id": "a-7", "price": 5}')
    '{…, "price": 5}'
    """
    return rf'"{re.escape(name)}":\s*(?:"(?:[^"\\]|\\.)*"|[^\s,}}\]]+)'


def seeded_task(env: Env, task: Task, seed: int) -> Task:
    """The task with the seed of its episode; the task itself if the environment is not `seeded`."""
    return replace(task, seed=seed) if env.seeded else task
