"""Behaviors in ScienceWorld that reports count."""

from __future__ import annotations

from eef.envs.spec import Behavior

BEHAVIORS = (
    Behavior("Look around", "look around"),
    Behavior("Go, or teleport", r"(?:go|teleport) .+"),
    Behavior("Focus", "focus on .+"),
    Behavior("Wait", r"wait\d*"),
)
