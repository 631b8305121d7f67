"""Rollouts: one policy plays many launches in lockstep batches, from a task's start or any recorded state.

The episodes of a batch take their turns together: one `Policy.act` for all that are alive, then a step of
each. A rollout that breaks becomes a trajectory with `status="error"`, and the others play on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter
from types import TracebackType
from typing import Any

from eef.env import Env
from eef.errors import ConfigError, EefError, ReplayMismatch
from eef.policy import Completion, Policy, PrivilegedPolicy, Sampling
from eef.rollouts.episode import Episode, words
from eef.rollouts.restore import StateRestorer
from eef.task import Task
from eef.trajectory import StateRef, Trajectory, TrajectorySet

_MISMATCH = "replay: "
_THREADS = 64  # they wait for other processes and compute nothing


@dataclass(frozen=True, slots=True)
class RolloutSpec:
    """One rollout to be played, from `state` or (None) the task's start. `id` becomes its trajectory's."""

    id: str
    task: Task
    state: StateRef | None
    seed: int
    round: int


def derive_seed(*parts: object) -> int:
    """A seed of 31 bits made from the texts of `parts`, the same on every machine."""
    digest = hashlib.blake2b(repr([str(part) for part in parts]).encode(), digest_size=4).digest()
    return int.from_bytes(digest) >> 1


def batches(launches: Sequence[RolloutSpec], size: int) -> Iterator[Sequence[RolloutSpec]]:
    """Consecutive batches of `size`, the last one perhaps smaller."""
    return (launches[first : first + size] for first in range(0, len(launches), size))


def is_replay_mismatch(trajectory: Trajectory) -> bool:
    """Whether the rollout never began because its state did not come back."""
    return trajectory.status == "error" and (trajectory.error or "").startswith(_MISMATCH)


def play(
    launches: Sequence[RolloutSpec],
    *,
    env: Env,
    policy: Policy,
    trajectories: TrajectorySet,
    sampling: Sampling,
    step_limit: int,
    batch_size: int,
    reset_step_limit: bool = False,
    progress: Callable[[Trajectory], None] | None = None,
) -> Iterator[Trajectory]:
    """Play all launches in batches of fixed composition; yields each trajectory as soon as it has ended.

    `trajectories` hold the states to start from. `progress` is told of a trajectory once the caller has dealt
    with it and asks for the next. For limits and errors see `RolloutRunner`.
    """
    player = RolloutRunner(
        env,
        policy,
        trajectories,
        sampling=sampling,
        step_limit=step_limit,
        reset_step_limit=reset_step_limit,
    )
    with player:
        for batch in batches(launches, batch_size):
            for trajectory in player.play(batch):
                yield trajectory
                if progress is not None:
                    progress(trajectory)


class RolloutRunner:
    """Plays batches of launches with one policy, on clones of `env` which it keeps from batch to batch.

    `step_limit` bounds the whole path, prefix included; with `reset_step_limit` the rollout's own steps alone. A task's
    own limit holds where it is lower. `prompt_suffix` is what the policy is told beside the environment's prompt. Where the
    environment is `concurrent`, the episodes of a batch are begun side by side, and so are their steps.

    An exception of the environment or the policy ends the episode it came from as an error. Only an EefError
    of the policy or a ConfigError of the environment (it cannot be used as asked) goes through to the caller, and so
    does KeyboardInterrupt.
    """

    def __init__(
        self,
        env: Env,
        policy: Policy,
        trajectories: TrajectorySet,
        *,
        sampling: Sampling,
        step_limit: int,
        reset_step_limit: bool = False,
        prompt_suffix: str = "",
    ) -> None:
        self._env = env
        self._policy = policy
        self._states = StateRestorer(trajectories)
        self._sampling = sampling
        self._step_limit = step_limit
        self._fresh_limit = reset_step_limit
        self._told = prompt_suffix
        self._clones: dict[int, Env] = {}
        self._threads = ThreadPoolExecutor(_THREADS) if env.concurrent else None

    def play(self, batch: Sequence[RolloutSpec]) -> Iterator[Trajectory]:
        """Play the launches of one batch in lockstep; trajectories come in the order in which they end."""
        episodes = self._start(batch)
        alive = list(zip(batch, episodes, strict=True))
        while alive:
            for launch, episode in alive:
                if episode.status is not None:
                    yield self._record(launch, episode)
            alive = [(launch, episode) for launch, episode in alive if episode.status is None]
            self._turn(alive)
        for place, episode in enumerate(episodes):
            if episode.status == "error":
                self._discard(place)

    def close(self) -> None:
        """Close the clones; `env` itself stays open."""
        for place in list(self._clones):
            self._discard(place)
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)

    def __enter__(self) -> RolloutRunner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _clone(self, place: int) -> Env:
        if place not in self._clones:
            self._clones[place] = self._env.clone()
        return self._clones[place]

    def _discard(self, place: int) -> None:
        clone = self._clones.pop(place, None)
        if clone is not None:
            with suppress(Exception):  # one that broke may not close either
                clone.close()

    def _start(self, batch: Sequence[RolloutSpec]) -> list[Episode]:
        """The episodes of a batch, each in its state; the time that takes is shared equally."""
        started = perf_counter()
        episodes = [self._episode(launch) for launch in batch]
        self._each(self._reach, range(len(batch)), batch, episodes)
        _share(episodes, perf_counter() - started)
        return episodes

    def _episode(self, launch: RolloutSpec) -> Episode:
        prefix = [item.step for item in self._states.prefix(launch.state)]
        limit = min(self._step_limit, launch.task.step_limit or self._step_limit)
        return Episode(
            prefix=prefix, steps_left=limit if self._fresh_limit else limit - len(prefix)
        )

    def _reach(self, place: int, launch: RolloutSpec, episode: Episode) -> None:
        try:
            clone = self._clone(place)
            episode.begin(clone, *self._states.reach(clone, launch.task, launch.state))
        except ConfigError:
            raise
        except ReplayMismatch as mismatch:
            episode.end("error", _MISMATCH + mismatch.message)
        except Exception as error:
            episode.fail(error)

    def _turn(self, alive: Sequence[tuple[RolloutSpec, Episode]]) -> None:
        """One completion and one step of each episode; the time it takes is shared equally."""
        started = perf_counter()
        episodes = [episode for _, episode in alive]
        self._each(Episode.take, episodes, self._act(alive))
        _share(episodes, perf_counter() - started)

    def _each(self, do: Callable[..., None], *columns: Sequence[Any]) -> None:
        """Do it row by row, side by side where the environment allows it."""
        rows = list(zip(*columns, strict=True))
        if self._threads is None:
            for row in rows:
                do(*row)
        else:
            list(self._threads.map(lambda row: do(*row), rows))

    def _act(self, alive: Sequence[tuple[RolloutSpec, Episode]]) -> list[Completion]:
        if not alive:
            return []
        conversations = [episode.conversation(self._env.prompt, self._told) for _, episode in alive]
        seeds = [derive_seed(launch.seed, episode.turn) for launch, episode in alive]
        try:
            if isinstance(self._policy, PrivilegedPolicy):
                return self._policy.act_on(
                    [launch.task for launch, _ in alive], conversations, seeds, self._sampling
                )
            return self._policy.act(conversations, seeds, self._sampling)
        except EefError:
            raise
        except Exception as error:
            if len(alive) == 1:
                return [Completion(text=words(error), finish="error")]
        return [
            self._act([one])[0] for one in alive
        ]  # one by one, so that only the broken ones are lost

    def _record(self, launch: RolloutSpec, episode: Episode) -> Trajectory:
        reward = episode.score()
        assert episode.status is not None, "only an episode that has ended is recorded"
        return Trajectory(
            id=launch.id,
            task=launch.task.id,
            author=self._policy.name,
            steps=tuple(episode.steps),
            final_observation=episode.observation,
            status=episode.status,
            reward=reward,
            success=reward is not None and reward >= self._env.success_threshold,
            start=launch.state,
            round=launch.round,
            seed=launch.seed,
            error=episode.error,
            usage=episode.usage,
        )


def _share(episodes: Sequence[Episode], seconds: float) -> None:
    for episode in episodes:
        episode.spend(seconds / len(episodes))
