"""Verify: replays a parsed episode in its environment and compares observations and rewards.

An episode that matches becomes a trajectory like our own; methods can branch from all its states.
One that matches up to a step is *partly verified*: methods can branch from its states up to that
step. Any other is *unverified*: kept as recorded, usable for behavior cloning, refused for
branching.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Mapping
from dataclasses import replace
from typing import NamedTuple

from eef.env import Env, execute, seeded_task
from eef.errors import BudgetError, ConfigError, ModelError, ReplayMismatch, describe_error
from eef.importers.episode import ParsedEpisode, ParseError, goal_key
from eef.replay import Match, compare_observations
from eef.task import Task, TaskSet
from eef.tools import read_turn
from eef.trajectory import Author, Step, Trajectory, Usage

_SAME_REWARD = 1e-6
_LONGEST_EXCERPT = 160  # characters


class Verified(NamedTuple):
    """The trajectory of an episode; `difference` is why it is unverified from some step on, or
    empty."""

    trajectory: Trajectory
    difference: str


class TaskIndex:
    """Finds the tasks of an environment by id, number or goal."""

    def __init__(self, env: Env, splits: Mapping[str, TaskSet]) -> None:
        self.env = env
        self.split_of = {task.id: split for split, tasks in splits.items() for task in tasks}
        self._by_id = {task.id: task for tasks in splits.values() for task in tasks}
        self._by_number = {task.index: task for task in self._by_id.values()}
        self._by_goal: dict[str, list[Task]] = {}
        for task in self._by_id.values():
            self._by_goal.setdefault(goal_key(task.instruction), []).append(task)

    def candidates(self, episode: ParsedEpisode) -> list[Task]:
        """The tasks an episode may be of: the one its row names, then those with its goal."""
        named = self._by_id.get(str(episode.task)) or (
            self._by_number.get(episode.task) if isinstance(episode.task, int) else None
        )
        tasks = (*([named] if named else ()), *self.with_goal_of(episode))
        return list({task.id: task for task in tasks}.values())

    def with_goal_of(self, episode: ParsedEpisode) -> list[Task]:
        """The tasks with an episode's goal; without any, those whose goal is its first line."""
        goal = episode.goal()
        return self._by_goal.get(goal_key(goal)) or self._by_goal.get(
            goal_key(goal.split("\n", 1)[0]), []
        )

    def is_among(self, task: str, episode: ParsedEpisode, ids: Container[str]) -> bool:
        """Whether an episode of `task` belongs to one of the tasks `ids`.

        For a task outside the environment: whether all tasks with the episode's goal are in `ids`.
        """
        if task in self.split_of:
            return task in ids
        same_goal = self.with_goal_of(episode)
        return bool(same_goal) and all(item.id in ids for item in same_goal)


def verify(
    episode: ParsedEpisode,
    task_index: TaskIndex | None,
    *,
    id: str,
    author: Author,
    source: str,
    reward: float | None,
) -> Verified:
    """The trajectory of an episode, verified if a task of `task_index` returns its observations.

    `reward` is used if the row records none and the episode is unverified. ParseError if there is
    no reward at all.
    """
    unplayed = _unplayed(episode, id, author, episode.source or source)
    if task_index is None:
        return _as_recorded(episode, None, unplayed, reward, "no environment to replay it in")
    env = task_index.env
    if not env.replayable:
        difference = f"{env.name} cannot be replayed"
        return _as_recorded(episode, task_index, unplayed, reward, difference)
    unseeded = env.seeded and episode.episode_seed is None
    found: list[tuple[int, str, Trajectory]] = []
    for task in task_index.candidates(episode):
        try:
            played, mismatch = _replay(env, task, episode, unplayed)
        except (ConfigError, ModelError, BudgetError):
            raise  # it concerns all rows
        except Exception as error:  # of this row's replay; the others may be fine
            difference = f"{task.id}: the environment failed: {describe_error(error)}"
            return _as_recorded(episode, task_index, unplayed, reward, difference)
        if mismatch is None:
            return Verified(played, "")
        other_goal = mismatch.step == 0 and task not in task_index.with_goal_of(episode)
        message = f"{task.id} has another goal here" if other_goal else mismatch.message
        message += " (replayed with seed 0: the row has no `episode_seed`)" if unseeded else ""
        found.append((mismatch.step, message, played))
    if not found:
        difference = _no_task(env, episode)
        return _as_recorded(episode, task_index, unplayed, reward, difference)
    _, difference, played = max(found, key=lambda item: item[0])
    held = len(played.steps)
    if not 0 < held < len(episode.steps):
        return _as_recorded(episode, task_index, unplayed, reward, difference)
    return Verified(_as_far_as_verified(episode, played, env, reward), difference)


def _unplayed(episode: ParsedEpisode, id: str, author: Author, source: str) -> Trajectory:
    """The trajectory without what depends on a replay."""
    return Trajectory(
        id=id,
        task="",
        author=author,
        steps=episode.steps,
        final_observation=episode.final_observation,
        status="terminated",
        reward=None,
        success=False,
        source=source,
    )


def _replay(
    env: Env, task: Task, episode: ParsedEpisode, unplayed: Trajectory
) -> tuple[Trajectory, ReplayMismatch | None]:
    """The trajectory with the environment's own observations and rewards.

    Observations that differ only in what the environment ignores stay as they were recorded: the
    agent acted on those.
    Turns of only text after the end of the episode ("The ticket is closed.") are dropped. If the
    replay differs from the episode, the result is the trajectory of the steps before the difference
    and the difference.
    """
    seed = (episode.episode_seed or 0) if env.seeded else None
    observation, over = env.reset(seeded_task(env, task, seed or 0)), False
    steps: list[Step] = []
    tolerated = 0
    mismatch: ReplayMismatch | None = None
    for t, step in enumerate(episode.steps):
        if over and any(_acts(env, later) for later in episode.steps[t:]):
            mismatch = _mismatch(task, t, step.observation, "the end of the episode")
        else:
            match = _compare(env, step.observation, observation)
            if match == "different":
                mismatch = _mismatch(task, t, step.observation, observation)
            elif match == "tolerated":
                observation, tolerated = step.observation, tolerated + 1
        if mismatch or over:  # closing words are not part of the episode
            break
        result = execute(env, step.action)
        steps.append(replace(step, observation=observation, reward=float(result.reward)))
        observation, over = result.observation, result.terminated
    final = episode.final_observation
    if mismatch is None and final and len(steps) == len(episode.steps):
        match = _compare(env, final, observation)
        # what follows the end is not part of the episode
        if match == "different" and not (over and _continues(final, observation)):
            mismatch = _mismatch(task, len(steps), final, observation)
        elif match == "tolerated":
            observation, tolerated = final, tolerated + 1
    reward = float(env.score([step.reward for step in steps]))
    if (
        mismatch is None
        and episode.reward is not None
        and abs(reward - episode.reward) > _SAME_REWARD
    ):
        recorded = f"reward {episode.reward:g}"
        mismatch = _mismatch(task, len(steps), recorded, f"reward {reward:g}")
        steps = []  # an outcome that the environment contradicts is not evidence
    if mismatch is not None and steps:
        steps.pop()  # its result is not the recorded one
    trajectory = replace(
        unplayed,
        task=task.id,
        steps=tuple(steps),
        final_observation=observation,
        reward=reward,
        status="terminated" if over else "truncated",
        success=reward >= env.success_threshold,
        episode_seed=seed,
        usage=Usage(replayed_steps=len(steps), tolerated_steps=tolerated),
    )
    return trajectory, mismatch


def _acts(env: Env, step: Step) -> bool:
    """Whether a turn has an action that is more than words."""
    words = env.text_action and step.action.startswith(f"{env.text_action}[")
    return bool(step.action) and not (words and not read_turn(step.completion).calls)


def _as_far_as_verified(
    episode: ParsedEpisode, played: Trajectory, env: Env, default_reward: float | None
) -> Trajectory:
    """The trajectory of an episode whose first steps were verified, and the others not.

    If no reward is recorded, it is a failure.
    """
    rewards = (episode.reward, default_reward, 0.0)
    reward = next(each for each in rewards if each is not None)
    won = reward >= env.success_threshold if episode.success is None else bool(episode.success)
    held = len(played.steps)
    return replace(
        played,
        steps=(*played.steps, *episode.steps[held:]),
        final_observation=episode.final_observation,
        reward=reward,
        success=won,
        status="terminated" if episode.terminated else "truncated",
        verified_steps=held,
    )


def _as_recorded(
    episode: ParsedEpisode,
    task_index: TaskIndex | None,
    unplayed: Trajectory,
    default_reward: float | None,
    difference: str,
) -> Verified:
    """The unverified trajectory, with the reason. ParseError if it has no reward."""
    reward = default_reward if episode.reward is None else episode.reward
    if reward is None:
        raise ParseError(f"no reward, and no replay that gives one: {difference}")
    won = reward >= (task_index.env.success_threshold if task_index else 1.0)
    trajectory = replace(
        unplayed,
        task=_task_id(episode, task_index),
        reward=reward,
        replayable=False,
        status="terminated" if episode.terminated else "truncated",
        success=won if episode.success is None else bool(episode.success),
    )
    return Verified(trajectory, difference)


def _no_task(env: Env, episode: ParsedEpisode) -> str:
    """Why no task was found for an episode."""
    if episode.task is None:
        return f"the row names no `task`, and {env.name} has none with this goal"
    return f"{env.name} has no task {episode.task!r}, and none with this goal"


def _task_id(episode: ParsedEpisode, task_index: TaskIndex | None) -> str:
    """The only task with the episode's goal; without one, the task whose id the row names, the id
    that an earlier import assigned, or one derived from the goal."""
    same_goal = task_index.with_goal_of(episode) if task_index else []
    if len(same_goal) == 1:
        return same_goal[0].id
    if task_index and str(episode.task) in task_index.split_of:
        return str(episode.task)
    if episode.unverified_task:
        return episode.unverified_task
    digest = hashlib.blake2b(goal_key(episode.goal()).encode(), digest_size=6).hexdigest()
    return f"text/{digest}"


def _continues(text: str, start: str) -> bool:
    """Whether a text begins with another one, up to white space."""
    return bool(start.strip()) and "".join(text.split()).startswith("".join(start.split()))


def _compare(env: Env, recorded: str, observed: str) -> Match:
    """How two observations compare, up to white space, which many logs do not keep."""
    return compare_observations(env.ignored, recorded, observed, white_space=False)


def _mismatch(task: Task, t: int, recorded: str, observed: str) -> ReplayMismatch:
    message = (
        f"{task.id} differs at step {t}: recorded {_excerpt(recorded, observed)!r}, "
        f"observed {_excerpt(observed, recorded)!r}"
    )
    return ReplayMismatch(message, step=t, expected=recorded, observed=observed)


def _excerpt(text: str, other: str) -> str:
    """The text from shortly before its first difference."""
    words, others = text.split(), other.split()
    same = next(
        (i for i, pair in enumerate(zip(words, others, strict=False)) if pair[0] != pair[1]), 0
    )
    shown = " ".join(words[max(0, same - 3) :])
    return shown if len(shown) <= _LONGEST_EXCERPT else shown[:_LONGEST_EXCERPT] + " …"
