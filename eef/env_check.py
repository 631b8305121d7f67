"""`check_env`: whether an environment keeps the protocol, found out by playing it."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from numbers import Real

from eef.chat import build_conversation
from eef.env import Env, StepResult
from eef.errors import EnvError, describe_error
from eef.policy import GREEDY, Policy, PrivilegedPolicy
from eef.react import parse_completion
from eef.replay import compare_observations, compile_ignored
from eef.task import Task
from eef.trajectory import Step

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
    on_pass: Callable[[str], None] = lambda check: None,
) -> EnvCheck:
    """Check that an environment keeps the protocol on the first tasks of a split.

    On each task, `actions` are executed in order (any strings will do, because an environment must
    answer every action), then `expert` plays, then come `episodes` random episodes. Their actions
    are drawn, by `seed`, from those already executed, from those that the prompt shows, and from
    the words of the observation. Each episode is played again in the same environment, and in a
    clone while the original plays another task, and must be equal, except for what the environment
    ignores. If it is `seeded`, this holds for further seeds, and some of them must give other
    episodes. If it is not `replayable`, nothing is played again. After every step the score must be
    in [0, 1], because a step limit may end the episode there.

    `on_pass` is called with each check that passes, in words.

    Raises EnvError at the first check that fails, including when `step` raises an exception.
    """
    fixed = tuple(actions) or NO_ACTIONS
    return _EnvChecker(env, split, fixed, expert, episodes, seed, on_pass).check()


class _EnvChecker:
    def __init__(
        self,
        env: Env,
        split: str,
        actions: Sequence[str],
        expert: Policy | None,
        episodes: int,
        seed: int,
        on_pass: Callable[[str], None],
    ) -> None:
        self.env, self.split, self.expert = env, split, expert
        self.episodes, self.seed, self.on_pass = episodes, seed, on_pass
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
            compile_ignored(pattern)
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
        try:
            json.dumps(env.fingerprint())
        except (TypeError, ValueError) as error:
            self.require(False, "the fingerprint is a JSON object", str(error))
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
            self.on_pass(what)

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

    def _repeat_beside(self, clone: Env, task: Task, actions: Sequence[str]) -> list[StepResult]:
        """The results of a clone; the original plays another task in turns with it."""
        results = [StepResult(self._reset(clone, task), 0.0, False)]
        beside = StepResult(self._reset(self.env, self._another(task)), 0.0, False)
        for t, action in enumerate(actions):
            if results[-1].terminated:
                break
            results.append(self._step(clone, task, t, action))
            if not beside.terminated:
                beside = self._step(self.env, task, t, action)
        return results

    def _another(self, task: Task) -> Task:
        """Another task of the split, if it has two."""
        return next((each for each in self.env.tasks(self.split) if each.id != task.id), task)

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
            cloned = self._repeat_beside(clone, task, actions)
        self.require(
            self._same(results, cloned),
            f"{task.id}: a clone plays the same episode while the original plays another",
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
            and isinstance(result.reward, Real)
            and math.isfinite(result.reward)
            and result.terminated in (True, False)
        )
        self.require(
            sound,
            f"{task.id}: step returns a `StepResult` of a string, a finite reward and a boolean",
            f"for the action {action!r} it returns {result!r}",
        )
        self.answers.add(result.observation)
        return result

    def _raised(self, function: str, error: Exception, place: str) -> EnvError:
        return EnvError(
            f"environment {self.env.name!r} breaks the protocol: `{function}` raised an exception "
            f"{place}: {describe_error(error)}",
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
