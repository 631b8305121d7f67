"""Settings of ScienceWorld."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from eef.config import ListOf
from eef.envs.scienceworld.tasks import Limits, Part
from eef.envs.simulators.settings import PoolSettings


class ScienceWorldSettings(PoolSettings):
    """Which tasks are played, in which worlds, and how an episode ends.

    Splits: `train`, `dev`, `test` (the official ones), `seen` and `unseen` (the first ten
    variations of each task in `dev` and in `test`), and `held-out` (both, reported separately).
    """

    tasks: str | ListOf[str] = "all"
    """A preset (`all`, `eto-24`, `agentgym-23`), one task (`boil`), or a list of tasks."""

    simplifications: str | ListOf[str] | None = None
    """`none`, `easy`, `eto` (`easy` with open containers), or a list of the simulator's own; by
    default those of the preset."""

    limits: Limits | None = None
    """Step limits by task: `eto` (those of ETO) or `none` (`step_limit` for all tasks); by default
    those of the preset."""

    step_limit: int | None = Field(default=None, ge=1)
    """Default step limit of a rollout; by default the highest of `limits`, or 100."""

    train: tuple[Part, ...] = Field(default=("train",), strict=False, min_length=1)
    """Official parts that the split `train` is drawn from: `["train"]` or `["train", "dev"]`. The
    parts it uses cannot be evaluated on."""

    success_threshold: float = Field(default=1.0, gt=0, le=1)
    """Final reward from which an episode is a win."""

    prompt: Literal["react", "none"] = "react"
    """`react`: the system message describes the actions and the form of an answer."""

    deterministic: bool = True
    """Refuse a JVM in which the same actions would not always give the same episode; `false`
    accepts any JVM."""
