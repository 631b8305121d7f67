"""The Method protocol: `plan` chooses what to roll out, `select` what to train on. Both are pure functions."""

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
    """Experts (without `expert:`) whose wins are trained on; every expert's when left out."""


OptionsT = TypeVar("OptionsT", bound=MethodOptions)


class Method(Protocol):
    """What to play on from and what to train on, in rounds that count from 1 (round 0 is the expert data).

    `prompt_suffix` is what the policy is told beside the environment's prompt whenever it acts, mostly nothing. Both functions
    read the student's rollouts of rounds up to `round` only; what they return depends on the
    set of trajectories, not on its order.
    """

    Options: ClassVar[type[MethodOptions]]

    @property
    def name(self) -> str: ...

    @property
    def options(self) -> MethodOptions: ...

    @property
    def prompt_suffix(self) -> str: ...

    @classmethod
    def of(cls, name: str, options: Mapping[str, object]) -> Self:
        """The method under a name with checked options (ConfigError)."""
        ...

    def plan(
        self, trajectories: TrajectorySet, tasks: Sequence[str], round: int
    ) -> list[PlannedState]:
        """The states to play on from in a round, the tasks in the order given."""
        ...

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        """What to train on after a round; MethodError where there is nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Configured(Generic[OptionsT]):
    """What every method is made of: a name and checked options. A method is a subclass with `plan` and `select`."""

    name: str
    options: OptionsT

    Options: ClassVar[type[MethodOptions]] = MethodOptions

    @classmethod
    def of(cls, name: str, options: Mapping[str, object]) -> Self:
        return cls(
            name, cast(OptionsT, parse_settings(cls.Options, options, source=f"options.{name}"))
        )

    @property
    def prompt_suffix(self) -> str:
        return ""
