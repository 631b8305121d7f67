"""Inspect tasks: their solver asks for the agent's turns, and their scorers score.

[env]
name = "inspect"
task = "my_tasks.py:desk"
"""

from __future__ import annotations

from pydantic import Field

from eef.envs.loops import LoopEnv, LoopSettings
from eef.envs.spec import EnvSpec


class InspectSettings(LoopSettings):
    """Settings of `inspect`."""

    model_roles: dict[str, str] = Field(default={})
    """Models of other roles, such as `{ grader = "openai/gpt-5" }`; the agent plays none of
    them."""


class Inspect(LoopEnv):
    """A sample of an Inspect task per episode."""

    name = "inspect"
    framework = "inspect"
    package = "inspect-ai"


SPEC = EnvSpec(
    settings=InspectSettings,
    make=Inspect,  # type: ignore[arg-type]  # its prompt is a property
    describe=lambda fingerprint: str(fingerprint["task"]),
)
