"""The Method protocol: `plan` chooses what to explore, `select` what to train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Protocol, Self, TypeVar, cast

from pydantic import Field

from eef.config import Settings, parse_settings
from eef.selection import PlannedState, Selection
from eef.trajectory import TrajectorySet


class MethodOptions(Settings):
    """Options of every method."""

    bc_experts: tuple[str, ...] | None = Field(default=None, strict=False)
    """Names of the experts whose wins are trained on; by default all experts."""


OptionsT = TypeVar("OptionsT", bound=MethodOptions)


class Method(Protocol):
    """A method, in rounds that count from 1 (round 0 is the expert data).

    `plan` and `select` are pure: they read no file, no model and no environment. They use the
    student's rollouts of rounds up to `round` only, and their results depend on the set of
    trajectories, not on its order. `prompt_suffix` is appended to the environment's prompt whenever
    the student acts; it is mostly empty. `branches` states whether `plan` returns states inside
    recorded trajectories, which needs an environment that can be replayed.
    """

    Options: ClassVar[type[MethodOptions]]
    branches: ClassVar[bool]

    @property
    def name(self) -> str: ...

    @property
    def options(self) -> MethodOptions: ...

    @property
    def prompt_suffix(self) -> str: ...

    @classmethod
    def create(cls, name: str, options: Mapping[str, object]) -> Self:
        """The method under a name, with checked options. ConfigError for a wrong option."""
        ...

    def plan(
        self, trajectories: TrajectorySet, tasks: Sequence[str], round: int
    ) -> list[PlannedState]:
        """The states to explore from in a round, task by task in the given order."""
        ...

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        """What to train on after a round. MethodError if there is nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Configured(Generic[OptionsT]):
    """Base of all methods: a name and checked options. Subclasses add `plan` and `select`."""

    name: str
    options: OptionsT

    Options: ClassVar[type[MethodOptions]] = MethodOptions
    branches: ClassVar[bool] = False

    @classmethod
    def create(cls, name: str, options: Mapping[str, object]) -> Self:
        checked = parse_settings(cls.Options, options, source=f"options.{name}")
        return cls(name, cast(OptionsT, checked))

    @property
    def prompt_suffix(self) -> str:
        return ""
