"""Verify: an imported episode is played again where its environment is at hand. Between `formats` and `reading`.

What comes back as it was told is a trajectory like our own, and can be played on from. All else is *text only*: kept as
it was told, good for behaviour cloning, refused for exploration.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace

from eef.env import Env, execute
from eef.errors import ReplayMismatch
from eef.importers.episode import ParsedEpisode, ParseError, goal_key
from eef.task import Task, TaskSet
from eef.trajectory import Author, Step, Trajectory, Usage

TEXT = "text/"  # ids of tasks that belong to no environment at hand
_SAME_REWARD = 1e-6
_SHOWN = 160  # characters of a difference


@dataclass(frozen=True, slots=True)
class Verified:
    """A trajectory of an imported episode; `difference` says why it is text only ("" where it was replayed)."""

    trajectory: Trajectory
    difference: str


class TaskIndex:
    """The tasks of an environment, to be found by id, by number or by what they ask for."""

    def __init__(self, env: Env, splits: Mapping[str, TaskSet]) -> None:
        self.env = env
        self.split_of = {task.id: split for split, tasks in splits.items() for task in tasks}
        self._by_id = {task.id: task for tasks in splits.values() for task in tasks}
        self._by_number = {task.index: task for task in self._by_id.values()}
        self._by_goal: dict[str, list[Task]] = {}
        for task in self._by_id.values():
            self._by_goal.setdefault(goal_key(task.instruction), []).append(task)

    def candidates(self, imported: ParsedEpisode) -> list[Task]:
        """Tasks it may be of: that which the row names, then those which ask for the same."""
        named = self._by_id.get(str(imported.task)) or (
            self._by_number.get(imported.task) if isinstance(imported.task, int) else None
        )
        return list(
            {
                task.id: task for task in (*([named] if named else ()), *self.asking_for(imported))
            }.values()
        )

    def asking_for(self, imported: ParsedEpisode) -> list[Task]:
        """The tasks whose goal is that of the episode, or else the first line of what it sees."""
        goal = imported.goal()
        return self._by_goal.get(goal_key(goal)) or self._by_goal.get(
            goal_key(goal.split("\n", 1)[0]), []
        )

    def is_among(self, task: str, imported: ParsedEpisode, ids: Container[str]) -> bool:
        """Whether an episode of `task` is of one of the tasks `ids`: by its task, else because its goal is that of
        these alone."""
        if task in self.split_of:
            return task in ids
        asking = self.asking_for(imported)
        return bool(asking) and all(item.id in ids for item in asking)


def verify(
    imported: ParsedEpisode,
    known: TaskIndex | None,
    *,
    id: str,
    author: Author,
    source: str,
    reward: float | None,
) -> Verified:
    """The trajectory of an imported episode, replayed where a task of `known` gives the observations that are told.

    `reward` stands for one that the row does not tell and no replay gives. ParseError where there is none at all.
    """
    shell = _shell(imported, id, author, imported.source or source)
    if known is None:
        return Verified(
            _as_told(imported, known, shell, reward), "no environment at hand to replay it in"
        )
    differences: list[tuple[int, str]] = [(-1, f"{known.env.name} has no task that asks for this")]
    for task in known.candidates(imported):
        try:
            return Verified(_replayed(known.env, task, imported, shell), "")
        except ReplayMismatch as mismatch:
            another = mismatch.step == 0 and task not in known.asking_for(imported)
            words = f"{task.id} asks for something else here" if another else mismatch.message
            differences.append((mismatch.step, words))
    _, furthest = max(differences, key=lambda item: item[0])
    return Verified(_as_told(imported, known, shell, reward), furthest)


def _shell(imported: ParsedEpisode, id: str, author: Author, source: str) -> Trajectory:
    """All that does not depend on a replay."""
    return Trajectory(
        id=id,
        task="",
        author=author,
        steps=imported.steps,
        final_observation=imported.final_observation,
        status="terminated",
        reward=None,
        success=False,
        source=source,
    )


def _replayed(env: Env, task: Task, imported: ParsedEpisode, shell: Trajectory) -> Trajectory:
    """The trajectory with the environment's own observations and rewards. ReplayMismatch at the first difference."""
    seen, over = env.reset(task), False
    steps: list[Step] = []
    for t, step in enumerate(imported.steps):
        if over:
            raise _differs(task, t, step.observation, "the end of the episode")
        if not _same(seen, step.observation):
            raise _differs(task, t, step.observation, seen)
        result = execute(env, step.action)
        steps.append(replace(step, observation=seen, reward=float(result.reward)))
        seen, over = result.observation, result.terminated
    if imported.final_observation and not over and not _same(seen, imported.final_observation):
        raise _differs(task, len(steps), imported.final_observation, seen)
    reward = float(env.score([step.reward for step in steps]))
    if imported.reward is not None and abs(reward - imported.reward) > _SAME_REWARD:
        raise _differs(task, len(steps), f"reward {imported.reward:g}", f"reward {reward:g}")
    return replace(
        shell,
        task=task.id,
        steps=tuple(steps),
        final_observation=seen,
        reward=reward,
        status="terminated" if over else "truncated",
        success=reward >= env.success_threshold,
        usage=Usage(replayed_steps=len(steps)),
    )


def _as_told(
    imported: ParsedEpisode, known: TaskIndex | None, shell: Trajectory, reward: float | None
) -> Trajectory:
    told = reward if imported.reward is None else imported.reward
    if told is None:
        raise ParseError(
            "no reward, and no replay that gives one (`--reward 1` takes such rows for wins)"
        )
    won = told >= (known.env.success_threshold if known else 1.0)
    return replace(
        shell,
        task=_task_of(imported, known),
        reward=told,
        replayable=False,
        status="terminated" if imported.terminated else "truncated",
        success=won if imported.success is None else bool(imported.success),
    )


def _task_of(imported: ParsedEpisode, known: TaskIndex | None) -> str:
    """The one task that asks for the same, else an id made of what is asked for: equal goals, equal ids."""
    asking = known.asking_for(imported) if known else []
    if len(asking) == 1:
        return asking[0].id
    if str(imported.task).startswith(TEXT):
        return str(imported.task)
    return TEXT + hashlib.blake2b(goal_key(imported.goal()).encode(), digest_size=6).hexdigest()


def _same(one: str, other: str) -> bool:
    """Equal but for white space, which many logs lose."""
    return one == other or one.split() == other.split()


def _differs(task: Task, t: int, told: str, seen: str) -> ReplayMismatch:
    message = (
        f"{task.id} differs at step {t}: told {_around(told, seen)!r}, seen {_around(seen, told)!r}"
    )
    return ReplayMismatch(message, step=t, expected=told, observed=seen)


def _around(text: str, other: str) -> str:
    """The text from shortly before its first difference on."""
    words, others = text.split(), other.split()
    same = next(
        (i for i, pair in enumerate(zip(words, others, strict=False)) if pair[0] != pair[1]), 0
    )
    shown = " ".join(words[max(0, same - 3) :])
    return shown if len(shown) <= _SHOWN else shown[:_SHOWN] + " …"
