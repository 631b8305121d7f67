"""Environments of verifiers 0.1 (`load_environment`): multi-turn, with tools or without.

Later versions of verifiers start programs of their own as agents, whose turns cannot be given one
by one.

    [env]
    name = "verifiers"
    task = "wordle"
    python = "/opt/verifiers/bin/python"
"""

from __future__ import annotations

from eef.envs.loops import LoopEnv, LoopSettings
from eef.envs.spec import EnvSpec


class VerifiersSettings(LoopSettings):
    """Settings of `verifiers`."""


class Verifiers(LoopEnv):
    """A rollout of an environment of verifiers per episode; the reward is its rubric's."""

    name = "verifiers"
    framework = "verifiers"
    package = "'verifiers>=0.1.14,<0.2'"


SPEC = EnvSpec(
    settings=VerifiersSettings,
    make=Verifiers,  # type: ignore[arg-type]  # its prompt is a property
    describe=lambda fingerprint: str(fingerprint["task"]),
)
