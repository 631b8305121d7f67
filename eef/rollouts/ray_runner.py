"""RayRunner: rollouts through servers, played by hosts on the nodes of a Ray cluster.

A host is an actor with environments of its own that plays rollouts at their own pace, near the
servers. This process deals them out and stores what they return: it stays the only writer.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from eef.env import Env
from eef.errors import EefError, ModelError, WorkerError
from eef.policy import FreePolicy
from eef.rollouts.free_runner import FreeRunner, in_session_order, session_of
from eef.rollouts.runner import RolloutParameters
from eef.rollouts.specs import RolloutSpec
from eef.trajectory import StateRef, Trajectory, TrajectorySet
from eef.utils.cluster import join, require_resources
from eef.utils.processes import Failure
from eef.utils.records import Json

_DEATHS = 3  # of hosts in a row, without a rollout in between


@dataclass(frozen=True, slots=True)
class RolloutHosts:
    """How rollouts are played in a cluster: `count` hosts with `cpus` CPUs each.

    `make` creates the environment and the policy of a host, inside it. `recover` is called if a
    host reaches no server; it raises an EefError if there is none left.
    """

    make: Callable[[], tuple[Env, FreePolicy]]
    count: int
    cpus: float
    recover: Callable[[], None]


class RolloutHost:
    """The actor. Its methods run in the event loop of its process."""

    def __init__(
        self, make: Callable[[], tuple[Env, FreePolicy]], parameters: RolloutParameters
    ) -> None:
        self._make, self._parameters = make, parameters
        self._trajectories = TrajectorySet()
        self._free = list(range(parameters.in_flight))
        self._runner: FreeRunner | None = None
        self._ready = asyncio.Lock()

    async def play(self, spec: RolloutSpec, origins: Sequence[Json]) -> Json | Failure:
        """The record of a rollout; `origins` are the trajectories that lead to its state."""
        try:
            async with self._ready:
                if self._runner is None:
                    env, policy = await asyncio.to_thread(self._make)
                    self._runner = FreeRunner(env, policy, self._trajectories, self._parameters)
            for record in origins:
                if record["id"] not in self._trajectories:
                    self._trajectories.add(Trajectory.from_record(record))
            slot = heapq.heappop(self._free)
            try:
                _, trajectory = await self._runner.play_one(slot, spec)
            finally:
                heapq.heappush(self._free, slot)
        except EefError as error:
            return Failure.of(error)
        return trajectory.to_record()


@dataclass(slots=True)
class _Host:
    """A host, the rollouts it has not been given yet, and how often it died in a row."""

    actor: Any
    waiting: deque[RolloutSpec] = field(default_factory=deque)
    playing: int = 0
    deaths: int = 0


@dataclass(frozen=True, slots=True)
class _Call:
    """A rollout that a host plays, and how often servers had been recovered when it started.

    When a server ends, all rollouts in flight fail; those that started before it was recovered do
    not indicate a second failure.
    """

    host: _Host
    spec: RolloutSpec
    recoveries: int


class RayRunner:
    """Plays any number of specs on hosts, `parameters.in_flight` at a time, an equal number on each
    (rounded up).

    Trajectories are yielded in the order in which they end. The rollouts of a host that dies are
    played again on another node. Errors are those of `FreeRunner`; WorkerError if hosts die
    repeatedly.
    """

    def __init__(
        self, trajectories: TrajectorySet, parameters: RolloutParameters, hosts: RolloutHosts
    ) -> None:
        self._ray = join()
        require_resources(self._ray, {"CPU": hosts.cpus}, "a host of rollouts")
        self._trajectories, self._hosts_of = trajectories, hosts
        share = max(1, -(-parameters.in_flight // hosts.count))
        self._parameters = replace(parameters, in_flight=share)
        self._hosts = [_Host(self._start()) for _ in range(hosts.count)]

    def play(self, batch: Sequence[RolloutSpec]) -> Iterator[Trajectory]:
        """Play all specs of a batch of any size."""
        self._deal(batch)
        pending: dict[Any, _Call] = {}
        recovered, recoveries = False, 0
        try:
            while True:
                for host in self._hosts:
                    while host.playing < self._parameters.in_flight and (spec := self._next(host)):
                        call = host.actor.play.remote(spec, self._origins(spec))
                        pending[call] = _Call(host, spec, recoveries)
                        host.playing += 1
                if not pending:
                    return
                [reference], _ = self._ray.wait(list(pending), num_returns=1)
                call = pending.pop(reference)
                host = call.host
                host.playing -= 1
                outcome = self._outcome(reference)
                if outcome is None:
                    host.waiting.appendleft(call.spec)
                    self._replace(host, pending)
                elif isinstance(outcome, Failure):
                    error = outcome.error()
                    if not isinstance(error, ModelError):
                        raise error
                    if call.recoveries == recoveries:
                        if recovered:
                            raise error
                        self._hosts_of.recover()
                        recovered, recoveries = True, recoveries + 1
                    host.waiting.appendleft(call.spec)
                else:
                    host.deaths = 0
                    recovered = recovered and call.recoveries != recoveries
                    yield Trajectory.from_record(outcome)
        finally:
            for reference in pending:
                self._ray.cancel(reference)

    def close(self) -> None:
        """End the hosts."""
        for host in self._hosts:
            self._ray.kill(host.actor)

    def __enter__(self) -> RayRunner:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _start(self) -> Any:
        hosts = self._hosts_of
        options = {"num_cpus": hosts.cpus, "max_concurrency": self._parameters.in_flight}
        return self._ray.remote(**options)(RolloutHost).remote(hosts.make, self._parameters)

    def _deal(self, batch: Sequence[RolloutSpec]) -> None:
        """Give each host whole sessions, whose prompts its servers have in their caches."""
        sessions: dict[str, list[RolloutSpec]] = {}
        for spec in in_session_order(batch, self._trajectories):
            sessions.setdefault(session_of(spec, self._trajectories), []).append(spec)
        for specs in sessions.values():
            min(self._hosts, key=lambda host: len(host.waiting)).waiting.extend(specs)

    def _next(self, host: _Host) -> RolloutSpec | None:
        """The next rollout of a host, or of the one that has most of them left."""
        most = host if host.waiting else max(self._hosts, key=lambda each: len(each.waiting))
        return most.waiting.popleft() if most.waiting else None

    def _origins(self, spec: RolloutSpec) -> list[Json]:
        """The trajectories that lead to a spec's state, each after the one it starts from.

        From a task's start: the expert's, whose episode seed it shares in a seeded environment.
        """
        records: list[Json] = []
        if spec.state is None:
            of_task = self._trajectories.of_task(spec.task.id)
            seeded = (each for each in of_task if each.by_expert and each.episode_seed is not None)
            return [each.to_record() for each in islice(seeded, 1) if each.start is None]
        state: StateRef | None = spec.state
        while state is not None:
            origin = self._trajectories[state.trajectory]
            records.append(origin.to_record())
            state = origin.start
        return records[::-1]

    def _outcome(self, reference: Any) -> Json | Failure | None:
        """The outcome that a host has returned; None if it has died."""
        exceptions = self._ray.exceptions
        try:
            outcome: Json | Failure = self._ray.get(reference)
        except (exceptions.RayActorError, exceptions.TaskCancelledError):
            return None
        return outcome

    def _replace(self, host: _Host, pending: dict[Any, _Call]) -> None:
        """Start a dead host again; its other rollouts return to it."""
        host.deaths += 1
        if host.deaths > _DEATHS:
            raise WorkerError(
                f"a host of rollouts ended {host.deaths} times in a row",
                hint="see the logs of Ray, or raise `rollouts.host_cpus`; stored rollouts are kept",
            )
        for reference in [each for each, call in pending.items() if call.host is host]:
            host.waiting.appendleft(pending.pop(reference).spec)
        host.playing = 0
        self._ray.kill(host.actor)
        host.actor = self._start()
