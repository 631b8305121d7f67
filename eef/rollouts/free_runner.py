"""FreeRunner: many rollouts through servers, each at its own pace.

Each rollout is a coroutine: reach the start state, ask, step, …, record. None waits for another, so
the servers are busy until the last rollouts end.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterator, Sequence
from functools import partial
from time import perf_counter
from typing import Any

from eef.env import Env
from eef.errors import EefError, describe_error
from eef.policy import Completion, FreePolicy
from eef.rollouts.episode import Episode
from eef.rollouts.runner import RolloutParameters, RolloutRunner
from eef.rollouts.specs import RolloutSpec
from eef.trajectory import Trajectory, TrajectorySet
from eef.utils.seeds import derive_seed


class FreeRunner(RolloutRunner):
    """Plays any number of specs, at most `parameters.in_flight` at a time.

    Trajectories are yielded in the order in which they end, which differs between runs. Errors are
    those of `RolloutRunner`; when one propagates, the other rollouts are dropped.
    """

    def __init__(
        self,
        env: Env,
        policy: FreePolicy,
        trajectories: TrajectorySet,
        parameters: RolloutParameters,
    ) -> None:
        super().__init__(env, policy, trajectories, parameters)
        self._asked = policy
        self._clock = _SharedClock()
        self._loop = asyncio.new_event_loop()

    def play(self, batch: Sequence[RolloutSpec]) -> Iterator[Trajectory]:
        """Play all specs of a batch of any size."""
        waiting = iter(in_session_order(batch, self._trajectories))
        free = list(range(self._parameters.in_flight))
        playing: set[asyncio.Task[tuple[int, Trajectory]]] = set()
        try:
            while True:
                while free and (spec := next(waiting, None)) is not None:
                    rollout = self.play_one(heapq.heappop(free), spec)
                    playing.add(self._loop.create_task(rollout))
                if not playing:
                    return
                ended = self._finished(playing)
                for task in sorted(ended, key=lambda each: each.exception() is not None):
                    playing.discard(task)
                    slot, trajectory = task.result()  # raises the error of a rollout last
                    heapq.heappush(free, slot)
                    yield trajectory
        finally:
            self._cancel(playing)

    def _finished(
        self, playing: set[asyncio.Task[tuple[int, Trajectory]]]
    ) -> set[asyncio.Task[tuple[int, Trajectory]]]:
        """Continue until some rollouts have ended."""
        wait = self._loop.create_task(asyncio.wait(playing, return_when=asyncio.FIRST_COMPLETED))
        try:
            return self._loop.run_until_complete(wait)[0]
        except BaseException:  # an interruption
            self._cancel({wait})
            raise

    def close(self) -> None:
        self._loop.run_until_complete(self._asked.disconnect())
        self._loop.close()
        super().close()

    def _cancel(self, tasks: set[asyncio.Task[Any]]) -> None:
        for task in tasks:
            task.cancel()
        if tasks:
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))

    async def play_one(self, slot: int, spec: RolloutSpec) -> tuple[int, Trajectory]:
        """(slot, trajectory) of one rollout on the clone of a slot."""
        self._clock.enter()
        started = self._clock.now()
        try:
            episode = self._make_episode(spec)
            await self._call(self._restore, slot, spec, episode)
            session = session_of(spec, self._trajectories)
            while episode.status is None:
                completion = await self._ask(spec, episode, session)
                await self._call(episode.take, completion)
            episode.spend(self._clock.now() - started)
            trajectory = self._record(spec, episode)
        finally:
            self._clock.leave()
        if episode.status == "error":
            self._discard_clone(slot)
        return slot, trajectory

    async def _ask(self, spec: RolloutSpec, episode: Episode, session: str) -> Completion:
        seed = derive_seed(spec.seed, episode.turn)
        try:
            return await self._asked.complete(
                self._conversation(spec, episode), seed, self._parameters.sampling, session
            )
        except EefError:
            raise
        except Exception as error:
            return Completion(text=describe_error(error), finish="error")

    async def _call(self, function: Any, *arguments: Any) -> None:
        """Call a function, in a thread if the environment only waits for other processes."""
        if self._threads is None:
            function(*arguments)
            await asyncio.sleep(0)
        else:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._threads, partial(function, *arguments))


def session_of(spec: RolloutSpec, trajectories: TrajectorySet) -> str:
    """The common part of a rollout's prompts with others: the expert trajectory that its path
    starts with; without one, its task."""
    if spec.state is None:
        return spec.task.id
    trajectory = trajectories[spec.state.trajectory]
    while trajectory.start is not None:
        trajectory = trajectories[trajectory.start.trajectory]
    return trajectory.id


def in_session_order(
    specs: Sequence[RolloutSpec], trajectories: TrajectorySet
) -> list[RolloutSpec]:
    """The specs with those of a session next to one another, shorter prefixes first.

    The states of one failed episode are prefixes of one another, so a server computes each of them
    once. Sessions stay in the order of their first spec.
    """
    sessions: dict[str, list[RolloutSpec]] = {}
    for spec in specs:
        sessions.setdefault(session_of(spec, trajectories), []).append(spec)
    return [
        spec
        for group in sessions.values()
        for spec in sorted(group, key=lambda each: each.state.t if each.state else 0)
    ]


class _SharedClock:
    """Seconds that pass for each rollout: wall-clock time, divided among those in progress."""

    def __init__(self) -> None:
        self._active, self._seconds, self._last = 0, 0.0, perf_counter()

    def enter(self) -> None:
        self.now()
        self._active += 1

    def leave(self) -> None:
        self.now()
        self._active -= 1

    def now(self) -> float:
        passed, self._last = perf_counter() - self._last, perf_counter()
        self._seconds += passed / self._active if self._active else 0.0
        return self._seconds
