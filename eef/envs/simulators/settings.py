"""Settings of every environment that plays its episodes in worker processes."""

from __future__ import annotations

from pydantic import Field

from eef.config import Settings


class PoolSettings(Settings):
    """Worker processes and their JVMs."""

    workers: int = Field(default=1, ge=1)
    """Processes in which episodes are played, each with its own JVM."""

    memory: int = Field(default=512, ge=64)
    """Maximum heap of each JVM, in MB."""

    timeout: float = Field(default=120.0, gt=0)
    """Seconds after which an action counts as hung."""
