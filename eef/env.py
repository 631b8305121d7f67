"""The environment protocol, a base class with its defaults, verified replay, and `check_env`.

An environment plays one episode at a time. It has no tokens and no step limit of its own (limits
belong to the rollout). An episode is a function of the task, its seed and the actions: the same
three give the same observations and rewards. What cannot be repeated exactly is declared: `ignored`
are the parts of observations that a replay does not compare, and an environment that cannot be
replayed at all is not `replayable`.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal, NamedTuple, Protocol, Self, runtime_checkable

from eef.chat import build_conversation, parse_completion
from eef.errors import ConfigError, EnvError, ReplayMismatch
from eef.policy import GREEDY, Policy, PrivilegedPolicy
from eef.task import Task, TaskSet
from eef.tools import Tool, Toolset, format_error_in, join_results, split_action
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


Match = Literal["equal", "tolerated", "different"]


def compare_observations(
    ignored: Sequence[str], recorded: str, observed: str, *, white_space: bool = True
) -> Match:
    """How an observation compares with the recorded one.

    It is "tolerated" if the two differ only in what the expressions `ignored` match. Without
    `white_space`, differences in white space do not count at all: many logs do not keep it.

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


def json_field(name: str) -> str:
    """The expression for `Env.ignored` that matches a field of JSON objects whose value is simple.

    >>> re.sub(json_field("id"), "…", '{"id": "a-7", "price": 5}')
    '{…, "price": 5}'
    """
    return rf'"{re.escape(name)}":\s*(?:"(?:[^"\\]|\\.)*"|[^\s,}}\]]+)'


def _without(ignored: Sequence[str], text: str) -> str:
    for pattern in ignored:
        text = _compiled(pattern).sub("…", text)
    return text


@lru_cache
def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise EnvError(
            f"`ignored` of the environment: {pattern!r} is not a valid regular expression ({error})"
        ) from None


def seeded_task(env: Env, task: Task, seed: int) -> Task:
    """The task with the seed of its episode; the task itself if the environment is not `seeded`."""
    return replace(task, seed=seed) if env.seeded else task


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


NO_ACTIONS = ("", "no such action", "search[a]", "click[b]")
"""Actions that are tried if none are given; few environments have them, but all must answer."""

_STEPS = 20  # of a tried episode
_TASKS = 3
_SEEDS = 4  # per task, if the environment is seeded
_FORM = re.compile(r"`([^`\n]+)`|\b(\w+\[[^\[\]\n]+\])")
"""Actions in a prompt: `take <color>` in backticks, search[keywords]."""
_SLOT = re.compile(r"<[^<>]+>|(?<=\[)[^\[\]]*(?=\])|\b(?:X|OBJ)\b")
_WORD = re.compile(r"(?<=\[)[^\[\]\n]+(?=\])|[\w-]+(?: [\w-]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvCheck:
    """The result of `check_env`.

    `passed` are the checks in words. `episodes` counts all episodes played, repetitions included,
    `steps` their steps, `actions` the different actions among them. `wins` counts different
    episodes that were won. `answers` counts different observations: a small number means that
    hardly any action had an effect, and that the check therefore says little. `tolerated` counts
    observations of repeated episodes that differ only in what the environment ignores.
    """

    passed: tuple[str, ...]
    episodes: int
    steps: int
    actions: int
    wins: int
    answers: int
    tolerated: int = 0

    def __str__(self) -> str:
        ignored = f"; {self.tolerated} observations differ in ignored parts" * bool(self.tolerated)
        return (
            f"{len(self.passed)} checks passed: {self.episodes} episodes with {self.steps} steps, "
            f"{self.actions} different actions and {self.answers} different observations; "
            f"{self.wins} won{ignored}"
        )


def check_env(
    env: Env,
    *,
    split: str = "train",
    actions: Iterable[str] = (),
    expert: Policy | None = None,
    episodes: int = 3,
    seed: int = 0,
) -> EnvCheck:
    """Check that an environment keeps the protocol on the first tasks of a split.

    On each task, `actions` are executed in order (any strings will do, because an environment must
    answer every action), then `expert` plays, then come `episodes` random episodes. Their actions
    are drawn, by `seed`, from those already executed, from those that the prompt shows, and from
    the words of the observation. Each episode is played again in the same environment and in a
    clone, and must be equal, except for what the environment ignores. If it is `seeded`, this holds
    for further seeds, and some of them must give other episodes. If it is not `replayable`, nothing
    is played again. After every step the score must be in [0, 1], because a step limit may
    end the episode there.

    Raises EnvError at the first check that fails, including when `step` raises an exception.
    """
    return _EnvChecker(env, split, tuple(actions) or NO_ACTIONS, expert, episodes, seed).check()


class _EnvChecker:
    def __init__(
        self,
        env: Env,
        split: str,
        actions: Sequence[str],
        expert: Policy | None,
        episodes: int,
        seed: int,
    ) -> None:
        self.env, self.split, self.expert = env, split, expert
        self.episodes, self.seed = episodes, seed
        self.fixed = tuple(actions)
        self.known = dict.fromkeys(actions)  # every action executed so far, in order
        self.passed: list[str] = []
        self.played = self.steps = self.wins = self.tolerated = 0
        self.seeds_differ = False
        self.answers: set[str] = set()

    def check(self) -> EnvCheck:
        env, everything = self.env, self.env.tasks(self.split)
        tasks = everything.head(_TASKS)
        self.require(len(tasks) > 0, f"split {self.split!r} has tasks")
        ids = {task.id for task in everything}
        self.require(len(ids) == len(everything), "task ids are unique")
        for pattern in env.ignored:
            _compiled(pattern)
        for task in tasks:
            self._check_task(task)
        if env.seeded and env.replayable:
            self.require(
                self.seeds_differ,
                "some seeds give other episodes (`seeded`)",
                f"the episodes of {_SEEDS} seeds per task are equal",
            )
        with closing(env.clone()) as clone:
            same = env.fingerprint() == clone.fingerprint()
        self.require(same, "a clone has the same fingerprint")
        return EnvCheck(
            passed=tuple(self.passed),
            episodes=self.played,
            steps=self.steps,
            actions=len(self.known),
            wins=self.wins,
            answers=len(self.answers),
            tolerated=self.tolerated,
        )

    def require(self, condition: bool, what: str, found: str = "") -> None:
        """Note a check that passed, once, or raise EnvError with what was found instead."""
        if not condition:
            detail = f"; {found}" if found else ""
            raise EnvError(
                f"environment {self.env.name!r} breaks the protocol: expected that {what}{detail}"
            )
        if what not in self.passed:
            self.passed.append(what)

    def _check_task(self, task: Task) -> None:
        first = self._reset(self.env, task)
        self.require(bool(first), f"{task.id}: reset returns the first observation")
        choices: list[_Choose] = [_in_order(self.fixed)]
        if self.expert is not None:
            choices.append(_by_policy(self.env.prompt, task, self.expert, self.seed))
        for number in range(self.episodes):
            chance = random.Random(f"{self.seed} {task.id} {number}")
            choices.append(_by_chance(self.env.prompt, self.known, chance))
        for choose in choices:
            actions, results = self._explore(task, choose)
            self._check_scores(task, actions, results)
            if not self.env.replayable:
                continue
            self._check_repetition(task, actions, results)
            if self.env.seeded:
                self._check_seeds(task, actions, results)
            if self.env.supports_snapshot:
                self._check_snapshots(task, actions)

    def _explore(self, task: Task, choose: _Choose) -> tuple[list[str], list[StepResult]]:
        """Play an episode; its actions depend on its observations."""
        now = StepResult(self._reset(self.env, task), 0.0, False)
        actions: list[str] = []
        results = [now]
        while not now.terminated and len(actions) < max(_STEPS, len(self.fixed)):
            action = choose(actions, results)
            if action is None:
                break
            now = self._step(self.env, task, len(actions), action)
            actions.append(action)
            results.append(now)
        self.known |= dict.fromkeys(actions)
        return actions, results

    def _repeat(self, env: Env, task: Task, actions: Sequence[str]) -> list[StepResult]:
        results = [StepResult(self._reset(env, task), 0.0, False)]
        for t, action in enumerate(actions):
            if results[-1].terminated:
                break
            results.append(self._step(env, task, t, action))
        return results

    def _check_repetition(
        self, task: Task, actions: Sequence[str], results: Sequence[StepResult]
    ) -> None:
        again = self._repeat(self.env, task, actions)
        self.require(
            self._same(results, again),
            f"{task.id}: the same actions give the same episode (deterministic)",
            _first_difference(actions, results, again),
        )
        with closing(self.env.clone()) as clone:
            cloned = self._repeat(clone, task, actions)
        self.require(
            self._same(results, cloned),
            f"{task.id}: a clone plays the same episode (deterministic)",
            _first_difference(actions, results, cloned),
        )

    def _check_seeds(
        self, task: Task, actions: Sequence[str], results: Sequence[StepResult]
    ) -> None:
        for seed in range(1, _SEEDS):
            seeded = replace(task, seed=seed)
            once = self._repeat(self.env, seeded, actions)
            again = self._repeat(self.env, seeded, actions)
            self.require(
                self._same(once, again),
                f"{task.id}: the same seed and actions give the same episode",
                _first_difference(actions, once, again),
            )
            self.seeds_differ |= not self._same(once, results)

    def _same(self, one: Sequence[StepResult], other: Sequence[StepResult]) -> bool:
        """Whether two plays are equal, except for what the environment ignores."""
        if len(one) != len(other):
            return False
        for first, second in zip(one, other, strict=True):
            match = compare_observations(self.env.ignored, first.observation, second.observation)
            if match == "different" or replace(first, observation="") != replace(
                second, observation=""
            ):
                return False
            self.tolerated += match == "tolerated"
        return True

    def _check_scores(
        self, task: Task, actions: Sequence[str], results: Sequence[StepResult]
    ) -> None:
        rewards: list[float] = []
        score = 0.0
        for t, result in enumerate(results):
            rewards += [result.reward] if t else []
            try:
                score = float(self.env.score(list(rewards)))
            except Exception as error:
                raise self._raised("score", error, f"for the rewards {rewards}") from error
            after = f"after step {t - 1} (`{actions[t - 1]}`)" if t else "before the first step"
            self.require(
                0.0 <= score <= 1.0,
                f"{task.id}: the score is in [0, 1]",
                f"{after} it is {score:g}, for the rewards {', '.join(map(str, rewards))}",
            )
        self.wins += score >= self.env.success_threshold

    def _check_snapshots(self, task: Task, actions: Sequence[str]) -> None:
        self._reset(self.env, task)
        snapshots, after = [], []
        for t, action in enumerate(actions):
            snapshots.append(self.env.snapshot())
            after.append(self._step(self.env, task, t, action))
        with closing(self.env.clone()) as clone:
            for player, whose in ((self.env, "restore"), (clone, "a clone's restore")):
                for t, (snapshot, expected) in enumerate(zip(snapshots, after, strict=True)):
                    player.restore(snapshot)
                    if not self._same([expected], [self._step(player, task, t, actions[t])]):
                        what = f"{whose} before step {t} continues the same episode"
                        self.require(False, f"{task.id}: {what}", f"the action is `{actions[t]}`")
                self.require(True, f"{task.id}: {whose} continues the same episode")

    def _reset(self, env: Env, task: Task) -> str:
        self.played += 1
        try:
            first = env.reset(task)
        except Exception as error:
            raise self._raised("reset", error, f"for task {task.id}") from error
        self.require(
            isinstance(first, str), f"{task.id}: reset returns a string", f"it returns {first!r}"
        )
        self.answers.add(first)
        return first

    def _step(self, env: Env, task: Task, t: int, action: str) -> StepResult:
        self.steps += 1
        try:
            result = env.step(action)
        except Exception as error:
            place = f"for the action {action!r} (step {t} of {task.id})"
            raise self._raised("step", error, place) from error
        sound = (
            isinstance(result, StepResult)
            and isinstance(result.observation, str)
            and math.isfinite(result.reward)
        )
        self.require(
            sound,
            f"{task.id}: step returns a `StepResult` of a string, a finite reward and a boolean",
            f"for the action {action!r} it returns {result!r}",
        )
        self.answers.add(result.observation)
        return result

    def _raised(self, function: str, error: Exception, place: str) -> EnvError:
        reason = f"{type(error).__name__}: {error}".strip().removesuffix(":")
        return EnvError(
            f"environment {self.env.name!r} breaks the protocol: `{function}` raised an exception "
            f"{place}: {reason}",
            hint="answer every action, including invalid ones, with an observation"
            if function == "step"
            else getattr(error, "hint", ""),
        )


_Choose = Callable[[Sequence[str], Sequence[StepResult]], str | None]
"""(actions so far, results so far, the first one of `reset`) → the next action; None ends it."""


def _in_order(actions: Sequence[str]) -> _Choose:
    return lambda done, _: actions[len(done)] if len(done) < len(actions) else None


def _by_policy(prompt: str, task: Task, policy: Policy, seed: int) -> _Choose:
    """The actions of a policy, which sees its task if it is privileged."""
    steps: list[Step] = []

    def choose(done: Sequence[str], results: Sequence[StepResult]) -> str | None:
        seeds = [seed + len(done)]
        conversations = [build_conversation(prompt, steps, results[-1].observation)]
        if isinstance(policy, PrivilegedPolicy):
            [turn] = policy.act_on([task], conversations, seeds, GREEDY)
        else:
            [turn] = policy.act(conversations, seeds, GREEDY)
        if turn.finish not in ("stop", "length"):
            return None
        action = parse_completion(turn.text)[1] or ""
        before = results[-1].observation
        steps.append(Step(observation=before, completion=turn.text, action=action))
        return action

    return choose


def _by_chance(prompt: str, known: Iterable[str], chance: random.Random) -> _Choose:
    """Actions seen before, actions that the prompt names, and words of the observation."""
    forms = ["".join(found) for found in _FORM.findall(prompt)]

    def choose(_: Sequence[str], results: Sequence[StepResult]) -> str:
        words = _WORD.findall(results[-1].observation) or [""]
        kind = chance.random()
        if forms and kind < 0.5:
            return _SLOT.sub(lambda _: chance.choice(words), chance.choice(forms))
        return chance.choice(list(known) if kind < 0.85 else words)

    return choose


def _first_difference(
    actions: Sequence[str], one: Sequence[StepResult], other: Sequence[StepResult]
) -> str:
    """The first step at which two plays of the same actions differ, with both results."""
    for t, (first, second) in enumerate(zip(one, other, strict=False)):
        if first != second:
            where = f"step {t - 1} (`{actions[t - 1]}`)" if t else "`reset`"
            if first.observation != second.observation:
                pair = f"{_start(first.observation)!r}, then {_start(second.observation)!r}"
            else:
                pair = f"{first.reward, first.terminated}, then {second.reward, second.terminated}"
            return f"{where} gave {pair}"
    return f"one play had {len(one) - 1} steps, the other {len(other) - 1}"


def _start(text: str, length: int = 60) -> str:
    return text if len(text) <= length else f"{text[:length]}…"
