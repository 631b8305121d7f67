"""RayServers: vLLM servers on the nodes of a Ray cluster, one actor per GPU."""

from __future__ import annotations

import asyncio
import secrets
import weakref
from pathlib import Path
from typing import Any

from eef.errors import ClusterError, EefError, ModelError
from eef.policies.settings import ServerSettings
from eef.policies.vllm_servers import Serving, VllmServers
from eef.utils.cluster import join, require_resources
from eef.utils.processes import Failure

_MARGIN = 60.0  # seconds beyond those that a server may take to start


class ServerHost:
    """The actor: one server on its node, on the GPU that Ray has assigned to it."""

    def __init__(self, settings: ServerSettings, serving: Serving, logs: str, key: str) -> None:
        import ray

        self._servers = VllmServers(
            settings,
            serving,
            gpus=[],  # the actor sees its own alone
            logs=Path(logs),
            host=ray.util.get_node_ip_address(),
            key=key,
        )

    def start(self) -> str | Failure:
        """Start the server; returns its URL."""
        try:
            self._servers.start()
        except EefError as error:
            return Failure.of(error)
        return self._servers.urls[0]

    def revive(self) -> Failure | None:
        """Start the server again if it has ended."""
        try:
            asyncio.run(self._servers.revive(self._servers.urls[0]))
        except EefError as error:
            return Failure.of(error)
        return None

    def restarted(self) -> int:
        return self._servers.restarted()

    def stop(self) -> None:
        self._servers.stop()


class RayServers:
    """Servers of one model in a cluster, with the interface of `VllmServers`.

    They end with this object, and with this process.
    """

    def __init__(self, settings: ServerSettings, serving: Serving, *, logs: Path) -> None:
        self.serving = serving
        self.key = secrets.token_urlsafe(24)
        self._settings, self._logs = settings, logs
        self._actors: dict[str, Any] = {}
        self._finalizer = weakref.finalize(self, _kill, self._actors)

    @property
    def urls(self) -> list[str]:
        return list(self._actors)

    def start(self) -> None:
        """Start all servers and wait until they answer.

        ClusterError if the cluster has no GPU, or none that is free; otherwise what
        `VllmServers.start` raises.
        """
        ray = join()
        require_resources(ray, {"GPU": 1}, "an inference server")
        count = self._count(ray)
        kind = ray.remote(num_gpus=1, num_cpus=0)(ServerHost)
        actors = [
            kind.remote(
                self._settings_of(number), self.serving, str(self._logs / f"ray{number}"), self.key
            )
            for number in range(count)
        ]
        try:
            calls = [actor.start.remote() for actor in actors]
            outcomes = ray.get(calls, timeout=self._settings.start_timeout + _MARGIN)
            for outcome in outcomes:
                if isinstance(outcome, Failure):
                    raise outcome.error()
        except ray.exceptions.GetTimeoutError:
            _kill_all(actors)
            raise ModelError(
                f"not all of {count} servers have started in the Ray cluster",
                hint=f"see `{self._logs}`, or raise `rollouts.server.start_timeout`",
            ) from None
        except ray.exceptions.RayActorError as error:
            _kill_all(actors)
            raise ModelError(
                f"the node of an inference server has ended: {str(error).splitlines()[0][:200]}",
                hint="run the same command again; stored rollouts are kept",
            ) from None
        except BaseException:
            _kill_all(actors)
            raise
        self._actors.update(zip(outcomes, actors, strict=True))

    def stop(self) -> None:
        """End all servers."""
        _kill(self._actors)

    async def revive(self, url: str) -> None:
        """Start a server again if it has ended. ModelError the second time, or without its node."""
        import ray

        try:
            outcome = await asyncio.to_thread(ray.get, self._actors[url].revive.remote())
        except ray.exceptions.RayActorError:
            raise ModelError(
                f"the node of the server at {url} has ended",
                hint="run the same command again to start servers on other nodes; stored rollouts "
                "are kept",
            ) from None
        if isinstance(outcome, Failure):
            raise outcome.error()

    def restarted(self) -> int:
        """How often servers were started again."""
        import ray

        return sum(ray.get([actor.restarted.remote() for actor in self._actors.values()]))

    def _settings_of(self, number: int) -> ServerSettings:
        """The settings of a server: those of one node need ports of their own."""
        port = self._settings.port
        return self._settings.model_copy(update={"port": port and port + number})

    def _count(self, ray: Any) -> int:
        free = int(ray.available_resources().get("GPU", 0))
        wanted = self._settings.count or max(1, free)
        if free < wanted:
            total = ray.cluster_resources().get("GPU", 0)
            raise ClusterError(
                f"{free} of {total:g} GPUs of the Ray cluster are free, and {wanted} servers are "
                "to start, one on each",
                hint="lower `rollouts.server.count`, or wait until other work has ended",
            )
        return wanted


def _kill(actors: dict[str, Any]) -> None:
    """End servers; an actor that is killed ends its server, too."""
    _kill_all(list(actors.values()))
    actors.clear()


def _kill_all(actors: list[Any]) -> None:
    import ray

    if not ray.is_initialized():
        return
    stops = [actor.stop.remote() for actor in actors]
    if stops:
        ray.wait(stops, num_returns=len(stops), timeout=_MARGIN)
    for actor in actors:
        ray.kill(actor)
