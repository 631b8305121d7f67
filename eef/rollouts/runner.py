"""RolloutRunner: one policy plays many specs in lockstep, from task starts or recorded states.

The episodes of a batch advance together: one `Policy.act` for all that are still running, then one
environment step each. A rollout that fails becomes a trajectory with `status="error"`; the others
continue.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TypeVar

from eef.chat import Thoughts
from eef.env import Env, seeded_task
from eef.errors import (
    BudgetError,
    ConfigError,
    EefError,
    ModelError,
    ReplayMismatch,
    describe_error,
)
from eef.note import Shown
from eef.policy import (
    Completion,
    Conversation,
    LookingPolicy,
    Policy,
    PrivilegedPolicy,
    Sampling,
    start_batch,
    tools_of,
)
from eef.rollouts.episode import Episode
from eef.rollouts.restore import StateRestorer
from eef.rollouts.specs import RolloutSpec
from eef.trajectory import Trajectory, TrajectorySet
from eef.utils.seeds import derive_seed

Spec = TypeVar("Spec")
_THREADS = 64  # at least; they wait for other processes and compute nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutParameters:
    """How rollouts are played.

    `step_limit` bounds the whole path, prefix included; with `reset_step_limit` it bounds the
    rollout's own steps. A task's own limit applies if it is lower. `batch_size` episodes are
    played side by side, or `in_flight` of them through a server. With `thoughts="dropped"` the
    policy does not see the thought blocks of earlier turns. `advice` is the advice of earlier turns
    that it sees. `episode_seed` and the task determine the seed of an episode that starts there,
    in environments that are seeded.
    """

    sampling: Sampling
    step_limit: int
    batch_size: int = 32
    in_flight: int = 64
    reset_step_limit: bool = False
    thoughts: Thoughts = "kept"
    episode_seed: int = 0
    advice: Shown = "none"


def batches(specs: Sequence[Spec], size: int) -> Iterator[Sequence[Spec]]:
    """Consecutive batches of `size`; the last one may be smaller."""
    return (specs[first : first + size] for first in range(0, len(specs), size))


def play(
    specs: Sequence[RolloutSpec],
    *,
    env: Env,
    policy: Policy,
    trajectories: TrajectorySet,
    parameters: RolloutParameters,
) -> Iterator[Trajectory]:
    """Play all specs in batches of fixed composition; yields each trajectory as soon as it ends.

    `trajectories` hold the states to start from. For errors see `RolloutRunner`.
    """
    with RolloutRunner(env, policy, trajectories, parameters) as runner:
        for batch in batches(specs, parameters.batch_size):
            yield from runner.play(batch)


class RolloutRunner:
    """Plays batches of specs with one policy, on clones of `env` that are kept between batches.

    If the environment is `concurrent`, the episodes of a batch are started and stepped in threads.

    If the environment is seeded, a rollout from a state has the episode seed of that state's
    trajectory. One from a task's start has that of the task's first expert trajectory; if there is
    none, a seed derived from `episode_seed` and the task. All rollouts from a task's start begin in
    the same state.

    An exception of the environment or the policy ends its episode with an error. Only an EefError
    of the policy, a ConfigError, ModelError or BudgetError of the environment (which cannot be used
    as configured) and KeyboardInterrupt propagate to the caller.
    """

    def __init__(
        self, env: Env, policy: Policy, trajectories: TrajectorySet, parameters: RolloutParameters
    ) -> None:
        self._env = env
        self._policy = policy
        self._trajectories = trajectories
        self._restorer = StateRestorer(trajectories)
        self._parameters = parameters
        self._tools = tools_of(policy)
        self._prompt = env.prompt if self._tools is None else self._tools.prompt
        self._clones: dict[int, Env] = {}
        threads = max(_THREADS, parameters.batch_size, parameters.in_flight)
        self._threads = ThreadPoolExecutor(threads) if env.concurrent else None

    def play(self, batch: Sequence[RolloutSpec]) -> Iterator[Trajectory]:
        """Play one batch in lockstep; trajectories are yielded in the order in which they end."""
        start_batch(self._policy)
        episodes = self._start(batch)
        alive = list(zip(batch, episodes, strict=True))
        while alive:
            for spec, episode in alive:
                if episode.status is not None:
                    yield self._record(spec, episode)
            alive = [(spec, episode) for spec, episode in alive if episode.status is None]
            self._advance(alive)
        for slot, episode in enumerate(episodes):
            if episode.status == "error":
                self._discard_clone(slot)

    def close(self) -> None:
        """Close the clones; `env` itself stays open."""
        for slot in list(self._clones):
            self._discard_clone(slot)
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)

    def __enter__(self) -> RolloutRunner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _clone(self, slot: int) -> Env:
        """The clone that plays the batch's episode number `slot`."""
        if slot not in self._clones:
            self._clones[slot] = self._env.clone()
        return self._clones[slot]

    def _discard_clone(self, slot: int) -> None:
        clone = self._clones.pop(slot, None)
        if clone is not None:
            with suppress(Exception):  # a failed clone may fail to close as well
                clone.close()

    def _start(self, batch: Sequence[RolloutSpec]) -> list[Episode]:
        """The episodes of a batch, each in its start state; the time taken is shared equally."""
        started = perf_counter()
        episodes = [self._make_episode(spec) for spec in batch]
        self._for_each_row(self._restore, range(len(batch)), batch, episodes)
        _share(episodes, perf_counter() - started)
        return episodes

    def _make_episode(self, spec: RolloutSpec) -> Episode:
        prefix = [item.step for item in self._restorer.prefix(spec.state)]
        limit = self._parameters.step_limit
        if spec.task.step_limit:
            limit = min(limit, spec.task.step_limit)
        return Episode(
            prefix=prefix,
            tools=self._tools,
            steps_left=limit if self._parameters.reset_step_limit else limit - len(prefix),
        )

    def _restore(self, slot: int, spec: RolloutSpec, episode: Episode) -> None:
        try:
            clone = self._clone(slot)
            task = seeded_task(clone, spec.task, self._episode_seed(spec) or 0)
            episode.begin(clone, self._restorer.restore(clone, task, spec.state))
        except (ConfigError, ModelError, BudgetError):
            raise
        except ReplayMismatch as mismatch:
            episode.end("error", mismatch.message, "replay")
        except Exception as error:
            episode.fail(error)

    def _advance(self, alive: Sequence[tuple[RolloutSpec, Episode]]) -> None:
        """Play one turn of each episode; the time taken is shared equally."""
        started = perf_counter()
        episodes = [episode for _, episode in alive]
        self._for_each_row(Episode.take, episodes, self._act(alive))
        _share(episodes, perf_counter() - started)

    def _for_each_row(self, function: Callable[..., None], *columns: Sequence[Any]) -> None:
        """Call a function with each row of `columns`, in threads if the environment allows it."""
        rows = list(zip(*columns, strict=True))
        if self._threads is None:
            for row in rows:
                function(*row)
        else:
            list(self._threads.map(lambda row: function(*row), rows))

    def _act(self, alive: Sequence[tuple[RolloutSpec, Episode]]) -> list[Completion]:
        """The next completion of each episode."""
        if not alive:
            return []
        conversations = [self._conversation(*each) for each in alive]
        seeds = [derive_seed(spec.seed, episode.turn) for spec, episode in alive]
        try:
            if isinstance(self._policy, PrivilegedPolicy):
                return self._policy.act_on(
                    [spec.task for spec, _ in alive],
                    conversations,
                    seeds,
                    self._parameters.sampling,
                )
            if isinstance(self._policy, LookingPolicy):
                looks = [episode.look for _, episode in alive]
                return self._policy.act_looking(
                    looks, conversations, seeds, self._parameters.sampling
                )
            return self._policy.act(conversations, seeds, self._parameters.sampling)
        except EefError:
            raise
        except Exception as error:
            if len(alive) == 1 or self._policy.replays == "batch":
                failed = Completion(text=describe_error(error), finish="error")
                return [failed] * len(alive)
        # one by one, so that only the failing ones are lost
        return [self._act([one])[0] for one in alive]

    def _conversation(self, spec: RolloutSpec, episode: Episode) -> Conversation:
        """The prompt for an episode's next completion."""
        parameters = self._parameters
        return episode.conversation(
            self._prompt, spec.prompt_suffix, parameters.thoughts, parameters.advice
        )

    def _record(self, spec: RolloutSpec, episode: Episode) -> Trajectory:
        reward = episode.score()
        assert episode.status is not None, "only finished episodes are recorded"
        return Trajectory(
            id=spec.id,
            task=spec.task.id,
            author=self._policy.author,
            steps=tuple(episode.steps),
            final_observation=episode.observation,
            status=episode.status,
            reward=reward,
            success=reward is not None and reward >= self._env.success_threshold,
            start=spec.state,
            round=spec.round,
            seed=spec.seed,
            episode_seed=self._episode_seed(spec),
            error=episode.error,
            error_kind=episode.error_kind,
            usage=episode.usage,
            replayable=self._env.replayable,
            prompt_suffix=spec.prompt_suffix,
        )

    def _episode_seed(self, spec: RolloutSpec) -> int | None:
        """The seed of the environment in a rollout; None if it is not seeded."""
        if not self._env.seeded:
            return None
        if spec.state is not None:
            return self._trajectories[spec.state.trajectory].episode_seed or 0
        return start_seed(self._trajectories, spec.task.id, self._parameters.episode_seed)


def start_seed(trajectories: TrajectorySet, task: str, seed: int) -> int:
    """The seed of all episodes that start a task in a seeded environment.

    It is that of the task's first expert trajectory, so that rollouts start in the state in which
    the expert started. If there is none, it is derived from `seed` and the task.
    """
    for item in trajectories.of_task(task):
        if item.by_expert and item.episode_seed is not None:
            return item.episode_seed
    return derive_seed("episode", seed, task)


def _share(episodes: Sequence[Episode], seconds: float) -> None:
    for episode in episodes:
        episode.spend(seconds / len(episodes))
