"""Engines: the inference servers that the students of a run play through."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eef.config import parse_settings
from eef.env import Env
from eef.errors import ConfigError, ModelError
from eef.pipeline.recipe import Recipe
from eef.policies.keys import read_key
from eef.policies.ray_servers import RayServers
from eef.policies.settings import ServerSettings
from eef.policies.vllm_servers import NAME, Serving, VllmServers, vllm_version
from eef.policy import FreePolicy, Policy
from eef.rollouts.ray_runner import RolloutHosts
from eef.rollouts.settings import RolloutSettings
from eef.trajectory import Author
from eef.utils.cluster import enter_directory
from eef.utils.extras import require_package
from eef.utils.jsonl import read_json

if TYPE_CHECKING:
    from eef.pipeline.context import RunContext
    from eef.policies.completions import CompletionsClient

_LOGS = "servers"


@dataclass(frozen=True, slots=True)
class HostFactory:
    """Creates the environment and the policy of a rollout host (`eef.rollouts.ray_runner`).

    `served` is the student's name at the servers, `source` its checkpoint, `context` the longest
    conversation. Servers that the user runs get the key of the host's own environment, so `key` is
    None for them. The environment's workers are beside the host.
    """

    directory: str
    here: str
    urls: tuple[str, ...]
    key: str | None
    served: str
    source: str
    author: Author
    context: int

    def __call__(self) -> tuple[Env, FreePolicy]:
        from eef.pipeline.context import RunContext
        from eef.pipeline.run_directory import RunDirectory
        from eef.policies.completions import CompletionsClient
        from eef.policies.engine import EnginePolicy

        enter_directory(self.here)
        recipe = RunDirectory.open(self.directory).recipe
        changes = {"env": {**recipe.env.model_dump(), **self._beside(recipe)}}
        recipe = parse_settings(Recipe, {**recipe.model_dump(), **changes}, source=self.directory)
        context = RunContext(RunDirectory(Path(self.directory), recipe))
        settings = recipe.rollouts.server
        key = self.key or os.environ.get(settings.key, "").strip() or None
        policy = EnginePolicy(
            CompletionsClient(self.urls, settings, key=key),
            self.served,
            context.base_renderer(self.source),
            author=self.author,
            context=self.context,
        )
        return context.env, policy

    def _beside(self, recipe: Recipe) -> dict[str, Any]:
        """Settings of workers that are started beside the host."""
        if recipe.env.options.get("placement") != "ray":
            return {}
        return {"placement": "local", "worker_cpus": 1.0}


class Engines:
    """The servers of a run: those that the recipe names (`remote`), or that are started (`vllm`).

    A checkpoint of LoRA adapters is loaded into running servers under a name of its own, which
    holds a digest of its weights, and the one before is unloaded. For full weights, servers are
    started again.
    """

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._servers: VllmServers | RayServers | None = None
        self._factory: HostFactory | None = None
        self._policy: Policy | None = None
        self._client: CompletionsClient | None = None
        self._adapters: str | None = None

    @property
    def _settings(self) -> ServerSettings:
        return self._context.recipe.rollouts.server

    def version(self) -> str:
        """The version of the engine. An EefError if it cannot be used at all."""
        if self._context.recipe.rollouts.engine == "vllm":
            return vllm_version(self._settings)
        client = self._connect()
        return self._run(client, client.version(client.urls[0]))

    def check(self) -> None:
        """Raise an EefError if the engine cannot be used; starts nothing."""
        from eef.models.location import locate

        recipe = self._context.recipe
        require_package("aiohttp", f"`rollouts.engine` {recipe.rollouts.engine!r}")
        if recipe.rollouts.engine == "vllm":
            vllm_version(self._settings)
            return
        if recipe.model.lora is None and _adapter_rank(locate(recipe.model.name)) is None:
            raise ConfigError(
                "`rollouts.engine` is 'remote', but training changes all weights, which a running "
                "server cannot load",
                hint='train adapters (`[model.lora]`), or use `rollouts.engine = "vllm"`',
            )
        client = self._connect()
        self._run(client, _list_all(client, self._settings.model))

    def policy(self, model_name: str, author: Author) -> Policy:
        """A policy that plays a model: the base model, or a checkpoint of it."""
        from eef.models.loading import adapter_base
        from eef.models.location import locate
        from eef.policies.engine import EnginePolicy
        from eef.policies.probe import Probe, probe_servers

        context = self._context
        source = locate(model_name)
        rank = _adapter_rank(source)
        adapted = rank is not None
        client = self._serve(locate(adapter_base(source)) if adapted else source, rank)
        served = self._run(client, self._name(client, source if adapted else None, author))
        renderer = context.base_renderer(model_name)
        task = context.train_tasks[0]
        talk = [{"role": "system", "content": context.prompt}] if context.prompt else []
        probe = Probe(
            model=served,
            source=model_name,
            dtype=context.recipe.model.dtype,
            conversation=[*talk, {"role": "user", "content": task.instruction}],
            max_tokens=context.recipe.sampling.max_tokens,
        )
        room = self._run(client, probe_servers(client, self._settings, renderer, probe))
        limits = [room, *(length for length in [context.model_context(model_name)] if length)]
        self._factory = HostFactory(
            directory=str(context.run.path.resolve()),
            here=os.getcwd(),
            urls=client.urls,
            key=self._servers.key if self._servers is not None else None,
            served=served,
            source=model_name,
            author=author,
            context=min(limits),
        )
        self._policy = EnginePolicy(client, served, renderer, author=author, context=min(limits))
        return self._policy

    def hosts(self, policy: Policy, settings: RolloutSettings) -> RolloutHosts | None:
        """The hosts that play the last policy's rollouts in a Ray cluster; None for others."""
        if policy is not self._policy or self._factory is None:
            return None
        return RolloutHosts(
            self._factory, count=settings.hosts, cpus=settings.host_cpus, recover=self._recover
        )

    def _recover(self) -> None:
        """Start servers again that have ended. ModelError if one cannot be reached."""
        client = self._connect() if self._servers is None else self._client
        assert client is not None

        async def look() -> None:
            for url in client.urls:
                if self._servers is not None:
                    await self._revive(url)
                else:
                    await client.models(url)

        self._run(client, look())

    def release(self) -> None:
        """Stop servers, unless they are to run while the student is trained."""
        if not self._settings.during_training or self._context.recipe.model.lora is None:
            self.close()

    def close(self) -> None:
        """Stop the servers that were started."""
        if self._servers is not None:
            self._servers.stop()
            self._servers = self._client = self._adapters = None

    def _serve(self, base: str, rank: int | None = None) -> CompletionsClient:
        """A client of servers that have a base model, and take adapters of a rank if it has one.

        Servers that have ended since they were last used are started again.
        """
        from eef.models.loading import release_memory, visible_gpus
        from eef.policies.completions import CompletionsClient

        context, settings = self._context, self._settings
        if context.recipe.rollouts.engine == "remote":
            return self._connect()
        lora = context.recipe.model.lora
        serving = Serving(
            model=base,
            dtype=context.recipe.model.dtype,
            context=settings.context or context.recipe.chat.max_length,
            rank=lora.rank if lora else rank,
        )
        if self._servers is None or self._servers.serving != serving:
            self.close()
            logs = (context.run.path / _LOGS).resolve()
            servers: VllmServers | RayServers
            if settings.placement == "ray":
                servers = RayServers(settings, serving, logs=logs)
            else:
                servers = VllmServers(settings, serving, gpus=visible_gpus(), logs=logs)
            release_memory()  # what a training in this process has left
            servers.start()
            self._servers = servers
            self._client = CompletionsClient(
                servers.urls, settings, key=servers.key, revive=self._revive
            )
        else:
            self._recover()
        assert self._client is not None
        return self._client

    async def _revive(self, url: str) -> None:
        """Start a server again if it has ended, with the adapters that it had."""
        servers, client = self._servers, self._client
        assert servers is not None
        assert client is not None
        await servers.revive(url)
        if self._adapters is not None and self._adapters not in await client.models(url):
            await client.load_adapter(url, self._adapters, self._adapter_path)

    async def _name(self, client: CompletionsClient, adapters: str | None, author: Author) -> str:
        """The name under which the servers have the base model, or adapters, loaded if needed."""
        if adapters is None:
            return await self._base_name(client)
        name = f"{author.name}-{_digest(Path(adapters))}"
        before, self._adapters, self._adapter_path = self._adapters, name, adapters
        for url in client.urls:
            if name not in await client.models(url):
                await client.load_adapter(url, name, adapters)
            if before not in (None, name):
                assert before is not None
                await client.unload_adapter(url, before)
        return name

    async def _base_name(self, client: CompletionsClient) -> str:
        if self._servers is not None:
            return NAME
        return (await _list_all(client, self._settings.model))[0]

    def _connect(self) -> CompletionsClient:
        """The client of the servers that the recipe names."""
        require_package("aiohttp", "`rollouts.engine` 'remote'")
        from eef.policies.completions import CompletionsClient

        if self._client is None:
            settings = self._settings
            hint = f"`export {settings.key}=…`; servers on this machine need none"
            key = read_key(settings.key, settings.urls, hint=hint)
            self._client = CompletionsClient(settings.urls, settings, key=key)
        return self._client

    def _run(self, client: CompletionsClient, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine in an event loop of its own, and close the client's connections."""

        async def and_disconnect() -> Any:
            try:
                return await work
            finally:
                await client.disconnect()

        return asyncio.run(and_disconnect())


async def _list_all(client: CompletionsClient, wanted: str | None) -> list[str]:
    """The name of the base model at each server. ModelError if a server does not list it."""
    names = []
    for url in client.urls:
        listed = await client.models(url)
        bases = [name for name, entry in listed.items() if entry.get("parent") is None]
        name = wanted or (bases[0] if len(bases) == 1 else None)
        if name not in listed:
            known = ", ".join(map(repr, bases)) or "nothing"
            raise ModelError(
                f"the server at {url} does not serve {wanted!r}; it lists {known}"
                if wanted
                else f"the server at {url} serves several models: {known}",
                hint="set `rollouts.server.model` to the name of the student's base model",
            )
        assert name is not None
        names.append(name)
    return names


def _adapter_rank(source: str) -> int | None:
    """The rank of the adapters in a directory; None if it holds other weights."""
    path = Path(source) / "adapter_config.json"
    return int(read_json(path).get("r", 8)) if path.is_file() else None


def _digest(adapters: Path) -> str:
    """Eight characters that identify the weights of adapters."""
    digest = hashlib.sha256()
    for path in sorted(adapters.glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:8]
