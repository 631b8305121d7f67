"""Settings of every environment that plays its episodes in worker processes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from eef.config import Settings


class PoolSettings(Settings):
    """Worker processes and their JVMs."""

    workers: int = Field(default=1, ge=1)
    """Processes in which episodes are played, each with its own JVM."""

    memory: int = Field(default=512, ge=64)
    """Maximum heap of each JVM, in MB."""

    timeout: float = Field(default=120.0, gt=0)
    """Seconds after which an action counts as hung."""

    placement: Literal["local", "ray"] = "local"
    """Where workers run. `local`: processes of this machine. `ray`: actors of a Ray cluster, on any
    of its nodes (`eef run --ray`); Java and the packages are at the same paths on every node."""

    worker_cpus: float = Field(default=1.0, gt=0)
    """CPUs that Ray reserves for each worker."""

    @model_validator(mode="after")
    def _cpus_have_effect(self) -> PoolSettings:
        if self.worker_cpus != 1 and self.placement == "local":
            raise ValueError("`worker_cpus` has no effect with `placement` 'local'")
        return self
