"""The Method protocol: `plan` chooses what to explore, `select` what to train on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Generic, Literal, Protocol, Self, TypeVar, cast

from pydantic import Field

from eef.config import Settings, parse_settings
from eef.roles import ALONE, Acting
from eef.selection import PlannedNote, PlannedState, Selection
from eef.trajectory import TrajectorySet


class MethodOptions(Settings):
    """Options of every method."""

    bc_experts: tuple[str, ...] | None = Field(default=None, strict=False)
    """Names of the experts whose wins are trained on; by default all experts."""


@dataclass(frozen=True, slots=True)
class RoleUse:
    """How a method uses a role.

    trained   the weights that its training in a round starts from: those of its model ("base"), or
              of the previous round ("last"); None if it is never trained
    at_test   whether it is asked while the method is evaluated
    optional  whether the method does without it if the recipe names no model for it
    """

    trained: Literal["base", "last"] | None = None
    at_test: bool = False
    optional: bool = False


AGENT = "agent"
"""The role that plays in the student's place, if the recipe names a model for it."""

Planned = PlannedState | PlannedNote

OptionsT = TypeVar("OptionsT", bound=MethodOptions)


class Method(Protocol):
    """A method, in rounds that count from 1 (round 0 is the expert data).

    `plan` and `select` are pure: they read no file, no model and no environment. They use the
    student's rollouts of rounds up to `round` only, and their results depend on the set of
    trajectories, not on its order. `prompt_suffix` is appended to the environment's prompt whenever
    the student acts; it is empty for most methods. `branches` states whether `plan` returns states
    inside recorded trajectories, which needs an environment that can be replayed. `acts` states
    whether `select` may return acts, which are trained on exactly as they were sampled.

    `roles` are the models beside the student that a method asks, by name, and `acting` is how the
    student takes a turn with them. A plan may hold notes: the pipeline requests them and plans
    again, until the plan holds no new notes; then it plays the states. A method finds its notes in
    `trajectories.notes`. With `turns` above 1, all of this is repeated, and a later plan of a round
    sees the rollouts of the earlier ones. After the last turn, a method with roles plans once more,
    for notes about its rollouts.
    """

    Options: ClassVar[type[MethodOptions]]

    @property
    def branches(self) -> bool: ...

    @property
    def acts(self) -> bool: ...

    @property
    def name(self) -> str: ...

    @property
    def options(self) -> MethodOptions: ...

    @property
    def prompt_suffix(self) -> str: ...

    @property
    def roles(self) -> Mapping[str, RoleUse]: ...

    def acting(self, round: int, *, at_test: bool) -> Acting:
        """How the student takes a turn in a round, while it explores or is evaluated."""
        ...

    @property
    def turns(self) -> int: ...

    @property
    def attempts(self) -> int: ...

    @classmethod
    def create(cls, name: str, options: Mapping[str, object]) -> Self:
        """The method under a name, with checked options. ConfigError for a wrong option."""
        ...

    def plan(
        self, trajectories: TrajectorySet, tasks: Sequence[str], round: int
    ) -> Sequence[Planned]:
        """The states to explore from in a round, task by task in the given order, and the notes to
        request first."""
        ...

    def plan_evaluation(
        self, trajectories: TrajectorySet, tasks: Sequence[str]
    ) -> Sequence[Planned]:
        """The evaluation's rollouts, and the notes to request first. The first rollout of a task is
        the one that counts.

        `trajectories` are only those of this evaluation. With `attempts` above 1, the evaluation is
        planned that many times, and a later plan sees how the earlier rollouts ended: this assumes
        that success is known at test time.
        """
        ...

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        """The selection to train on after a round. MethodError if there is nothing to train on."""
        ...


@dataclass(frozen=True, slots=True)
class Configured(Generic[OptionsT]):
    """Base of all methods: a name and checked options. Subclasses add `plan` and `select`."""

    name: str
    options: OptionsT

    Options: ClassVar[type[MethodOptions]] = MethodOptions

    @classmethod
    def create(cls, name: str, options: Mapping[str, object]) -> Self:
        checked = parse_settings(cls.Options, options, source=f"options.{name}")
        return cls(name, cast(OptionsT, checked))

    @property
    def branches(self) -> bool:
        return False

    @property
    def acts(self) -> bool:
        return False

    @property
    def prompt_suffix(self) -> str:
        return ""

    @property
    def roles(self) -> Mapping[str, RoleUse]:
        return MappingProxyType({})

    def acting(self, round: int, *, at_test: bool) -> Acting:
        return ALONE

    @property
    def turns(self) -> int:
        return 1

    @property
    def attempts(self) -> int:
        return 1

    def plan_evaluation(
        self, trajectories: TrajectorySet, tasks: Sequence[str]
    ) -> Sequence[Planned]:
        return [PlannedState(task, None, 1) for task in tasks]
