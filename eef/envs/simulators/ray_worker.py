"""Workers as actors of a Ray cluster, on any of its nodes, with the interface of a local worker."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from eef.envs.simulators.settings import PoolSettings
from eef.envs.simulators.worker import (
    START_TIMEOUT,
    Host,
    SimulatorFactory,
    Worker,
    WorkerRestarted,
)
from eef.errors import ClusterError, EefError, EnvDied
from eef.utils.cluster import describe_amount, join, node_has_ended, require_resources
from eef.utils.processes import Failure

_SECONDS_OF_DOUBT = 3.0  # in which Ray notices that a node has ended
_SECONDS_OUT_OF_REACH = 30.0  # after which a node counts as ended


def kind_of_worker(settings: PoolSettings) -> Callable[[SimulatorFactory, float, str], Worker]:
    """How the workers of an environment are created."""
    if settings.placement == "local":
        return Worker
    return partial(RayWorker, cpus=settings.worker_cpus)


class RayHost:
    """The actor: a simulator and its answers. An error of creation is the first answer."""

    def __init__(self, factory: SimulatorFactory) -> None:
        self._host: Host | None = None
        self._refused: Failure | None = None
        try:
            self._host = Host(factory)
        except EefError as error:
            self._refused = Failure.of(error)

    def begin(self) -> tuple[str, Failure | None]:
        """(id of the node, why the simulator could not be created)."""
        import ray

        return ray.get_runtime_context().get_node_id(), self._refused

    def answer(self, name: str, args: tuple[Any, ...]) -> Any:
        assert self._host is not None, "a refusal ends the worker"
        return self._host.answer(name, args)


class RayWorker(Worker):
    """A worker whose process is an actor, which Ray places on a node with `cpus` free.

    If the node dies, the request was not the cause: the episodes are started again elsewhere, as
    after any death between two requests.
    """

    def __init__(
        self, factory: SimulatorFactory, timeout: float, name: str, *, cpus: float
    ) -> None:
        super().__init__(factory, timeout, name)
        self._cpus = cpus
        self._actor: Any = None
        self._node = ""

    def _is_started(self) -> bool:
        return self._actor is not None

    def _has_ended(self) -> bool:
        return False  # which the next request finds out

    def _start(self) -> None:
        ray = join()
        require_resources(ray, {"CPU": self._cpus}, self._name)
        kind = ray.remote(num_cpus=self._cpus, max_restarts=0, max_task_retries=0)(RayHost)
        self._actor = kind.remote(self._factory)
        try:
            self._node, refused = ray.get(self._actor.begin.remote(), timeout=START_TIMEOUT)
        except ray.exceptions.GetTimeoutError:
            self._reap()
            raise self._no_room(ray) from None
        except ray.exceptions.RayActorError as error:
            self._record_death()
            raise EnvDied(f"{self._name} ended while it was starting: {_first(error)}") from None
        except BaseException:
            self._reap()
            raise
        if refused is not None:
            self._reap()
            raise refused.error()

    def _request(self, request: tuple[str, tuple[Any, ...]] | None, timeout: float) -> Any:
        import ray

        assert request is not None, "the start has no request"
        try:
            answer = ray.get(self._actor.answer.remote(*request), timeout=timeout)
        except ray.exceptions.GetTimeoutError:
            self._record_death()
            raise EnvDied(
                f"{self._name} did not answer in {timeout:.0f} s", hint="raise `env.timeout`"
            ) from None
        except ray.exceptions.RayActorError as error:
            innocent = self._node_has_ended(ray, error)
            self._record_death()
            if innocent:
                raise WorkerRestarted from None
            raise EnvDied(f"{self._name} ended", hint="raise `env.memory`") from None
        except BaseException:
            self._reap()
            raise
        return self._read(answer)

    def _node_has_ended(self, ray: Any, error: Exception) -> bool:
        """Whether the actor has died with its node, or is out of reach.

        Ray may notice the death of a process before that of its node.
        """
        if "its node has died" in str(error):
            return True
        away = isinstance(error, ray.exceptions.ActorUnavailableError)
        deadline = time.monotonic() + (_SECONDS_OUT_OF_REACH if away else _SECONDS_OF_DOUBT)
        while not node_has_ended(ray, self._node):
            if time.monotonic() > deadline:
                return away
            time.sleep(0.1)
        return True

    def _reap(self) -> None:
        """Kill the actor; its JVM ends with it."""
        if self._actor is None:
            return
        import ray

        actor, self._actor = self._actor, None
        if ray.is_initialized():
            ray.kill(actor)
        self._forget_episodes()

    def _no_room(self, ray: Any) -> EefError:
        free, all = ray.available_resources(), ray.cluster_resources()
        return ClusterError(
            f"{self._name} found no room in the Ray cluster in {START_TIMEOUT:.0f} s: it needs "
            f"{describe_amount('CPU', self._cpus)}, and {free.get('CPU', 0):g} of "
            f"{all.get('CPU', 0):g} are free",
            hint="lower `env.workers`, or add nodes to the cluster",
        )


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
