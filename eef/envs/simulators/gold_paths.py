"""Gold paths: a simulator's own solutions as experts that need no API – flawless, or lapsing at a set rate.

A path is made by the simulator, played once to see whether it wins (some do not), and kept on the disk, since making
one can take half a minute. The lapsing expert plays the path with actions left out, replaced by others of the path,
or broken off: a source of failed trajectories which hold much that is right. It is no model, and named for what it
is.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from eef.chat import format_completion
from eef.config import unknown_name
from eef.env import Env
from eef.envs.simulators.env import PooledEnv
from eef.envs.spec import group_in_id
from eef.errors import EnvError
from eef.policy import Completion, Conversation, Sampling
from eef.task import Task
from eef.trajectory import Author
from eef.utils.cache import cache_directory
from eef.utils.jsonl import append_jsonl, disk_errors, numbered_records, repair_tail

PRESETS = {"flawless": 0.0, "strong": 0.04, "weak": 0.11}
"""Chance of a lapse at each action, by preset; `lapsing-20` is one of 0.20."""

_LAPSING = re.compile(r"lapsing-(\d{1,2})")
_KINDS = (("drop", 0.6), ("replace", 0.3), ("stop", 0.1))


@dataclass(frozen=True, slots=True)
class GoldPath:
    """Actions from a task's start, up to the end of the episode, and the final reward that playing them gave."""

    actions: tuple[str, ...]
    reward: float


class GoldPaths:
    """The gold paths of an environment's tasks, by task id; made, played and kept when they are first asked for.

    Kept in `directory` (by default `gold/` of the cache, see `cache_directory`), a file for each kind of task.
    """

    def __init__(self, env: PooledEnv, directory: Path | None = None) -> None:
        self._env = env
        self._directory = (directory or cache_directory() / "gold") / env.edition
        self._known: dict[str, GoldPath] = {}
        self._failed: dict[str, EnvError] = {}
        self._read: set[Path] = set()

    def prepare(
        self, tasks: Iterable[Task], heard: Callable[[int], None] = lambda done: None
    ) -> None:
        """Make what is missing, as many at a time as there are workers; `heard` is told how many are done.

        A path of which the simulator breaks, or which takes it too long, is left out; it is not tried again.
        """
        wanted = list(dict.fromkeys(tasks))
        missing = [
            task
            for task in wanted
            if self._find(task) is None and self._key(task) not in self._failed
        ]
        threads = ThreadPoolExecutor(len(self._env.pool.workers))
        try:
            made = {threads.submit(self._make, task): task for task in missing}
            for number, future in enumerate(as_completed(made), start=1):
                try:
                    self._keep(made[future], future.result())
                except EnvError as error:
                    self._failed[self._key(made[future])] = error
                heard(len(wanted) - len(missing) + number)
        finally:
            threads.shutdown(cancel_futures=True)

    def __getitem__(self, task: Task) -> GoldPath:
        """The path of a task; EnvError, naming the task, where none could be made."""
        self.prepare([task])
        if error := self._failed.get(self._key(task)):
            hint = error.hint or "raise `env.patience`, `env.memory`?"
            raise EnvError(f"no gold path of `{task.id}` ({error.message})", hint=hint)
        return self._known[self._key(task)]

    def failing(
        self, tasks: Iterable[Task], heard: Callable[[int], None] = lambda done: None
    ) -> Mapping[str, float | EnvError]:
        """The final rewards of the paths that do not win, by task id, or why there is none; `heard` as in `prepare`."""
        chosen = list(tasks)
        self.prepare(chosen, heard)
        return {task.id: outcome for task in chosen if (outcome := self._failure(task)) is not None}

    def _failure(self, task: Task) -> float | EnvError | None:
        try:
            reward = self[task].reward
        except EnvError as error:
            return error
        return reward if reward < self._env.success_threshold else None

    def _make(self, task: Task) -> GoldPath:
        actions = self._env.pool.gold(self._env.start_of(task))
        player = self._env.clone()
        try:
            return play_path(player, task, actions)
        finally:
            player.close()

    def _key(self, task: Task) -> str:
        return " ".join(map(str, self._env.start_of(task)))

    def _file(self, task: Task) -> Path:
        return self._directory / f"{group_in_id(task.id)}.jsonl"

    def _find(self, task: Task) -> GoldPath | None:
        file = self._file(task)
        if file not in self._read and file.is_file():
            for _, record in numbered_records(file, torn_ok=True):
                self._known[record["start"]] = GoldPath(tuple(record["actions"]), record["reward"])
        self._read.add(file)
        return self._known.get(self._key(task))

    def _keep(self, task: Task, path: GoldPath) -> None:
        file, key = self._file(task), self._key(task)
        self._known[key] = path
        with disk_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        repair_tail(file)
        append_jsonl(file, {"start": key, "actions": list(path.actions), "reward": path.reward})


def play_path(env: Env, task: Task, actions: Iterable[str]) -> GoldPath:
    """Play actions from a task's start; those behind the end of the episode are left out."""
    env.reset(task)
    played, rewards = [], []
    for action in actions:
        result = env.step(action)
        played.append(action)
        rewards.append(result.reward)
        if result.terminated:
            break
    return GoldPath(tuple(played), env.score(rewards))


def lapse(actions: Sequence[str], rate: float, chance: random.Random) -> list[str]:
    """The actions with lapses. An action and the number that answers a question about it share one fate.

    Each lapses with the chance `rate`: it is left out, or replaced by another one of the path, or all ends before it.
    """
    units: list[list[str]] = []
    for action in actions:
        if action.isdigit() and units:
            units[-1].append(action)
        else:
            units.append([action])
    played: list[str] = []
    for unit in units:
        kind = _draw(chance) if chance.random() < rate else "none"
        if kind == "stop":
            break
        if kind == "replace":
            played += chance.choice(units)
        elif kind == "none":
            played += unit
    return played


def _draw(chance: random.Random) -> str:
    return chance.choices([kind for kind, _ in _KINDS], [share for _, share in _KINDS])[0]


Thinker = Callable[[str, str], str]
"""(what the agent sees at its start, action) → a thought."""


class GoldExpert:
    """Plays a task's gold path, lapsing at a rate, and takes no turn behind its end (`eef.policy.PrivilegedPolicy`).

    The lapses of a task depend on the author and the task alone: each expert is one fixed set of trajectories.
    """

    batch_invariant = True

    def __init__(self, paths: GoldPaths, author: Author, rate: float, think: Thinker) -> None:
        self.author = author
        self._paths, self._rate, self._think = paths, rate, think

    def act(
        self, conversations: Sequence[Conversation], seeds: Sequence[int], sampling: Sampling
    ) -> list[Completion]:
        raise EnvError(f"`{self.author}` needs to know the tasks", hint="call `act_on`")

    def act_on(
        self,
        tasks: Sequence[Task],
        conversations: Sequence[Conversation],
        seeds: Sequence[int],
        sampling: Sampling,
    ) -> list[Completion]:
        self._paths.prepare(tasks)
        return [
            self._turn(task, conversation)
            for task, conversation in zip(tasks, conversations, strict=True)
        ]

    def plan(self, task: Task) -> list[str]:
        """The actions that it plays in a task."""
        return lapse(
            self._paths[task].actions, self._rate, random.Random(f"{self.author} {task.id}")
        )

    def _turn(self, task: Task, conversation: Conversation) -> Completion:
        turn = sum(message["role"] == "assistant" for message in conversation)
        try:
            plan = self.plan(task)
        except EnvError as error:  # of this task alone
            return Completion(text=error.message, finish="error")
        if turn >= len(plan):
            return Completion(text="", finish="done")
        first = next(message["content"] for message in conversation if message["role"] == "user")
        return Completion(text=format_completion(self._think(first, plan[turn]), plan[turn]))


def make_gold_expert(env: PooledEnv, preset: str) -> GoldExpert:
    """The scripted expert `expert:<preset>`: a preset, or `lapsing-<percent>`. EnvError for another name."""
    match = _LAPSING.fullmatch(preset)
    if match is None and preset not in PRESETS:
        known = (*PRESETS, "lapsing-1 to lapsing-99 (percent)")
        raise unknown_name("scripted expert", preset, known, error=EnvError)
    rate = int(match[1]) / 100 if match else PRESETS[preset]
    return GoldExpert(GoldPaths(env.clone()), Author("expert", preset), rate, env.think)
