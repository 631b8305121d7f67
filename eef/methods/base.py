"""The base class of methods: `plan` chooses what to explore, `select` what to train on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Generic, Literal, Self, TypeVar, cast

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


@dataclass(frozen=True, slots=True)
class Method(ABC, Generic[OptionsT]):
    """A method, in rounds that count from 1 (round 0 is the expert data).

    A subclass has `Options`, `plan` and `select`; the rest has defaults. `plan` and `select` are
    pure: they read no file, no model and no environment. They use the student's rollouts of rounds
    up to `round` only, and their results depend on the set of trajectories, not on its order.

    `roles` are the models beside the student that a method asks, and `acting` is how the student
    takes a turn with them. A plan may hold notes: the pipeline requests them and plans again, until
    the plan holds no new notes; then it plays the states. A method finds its notes in
    `trajectories.notes`. With `turns` above 1, all of this is repeated, and a later plan of a round
    sees the rollouts of the earlier ones. After the last turn, a method with roles plans once more,
    for notes about its rollouts.
    """

    name: str
    options: OptionsT

    Options: ClassVar[type[MethodOptions]] = MethodOptions

    @classmethod
    def create(cls, name: str, options: Mapping[str, object]) -> Self:
        """The method under a name, with checked options. ConfigError for a wrong option."""
        checked = parse_settings(cls.Options, options, source=f"options.{name}")
        return cls(name, cast(OptionsT, checked))

    @abstractmethod
    def plan(
        self, trajectories: TrajectorySet, tasks: Sequence[str], round: int
    ) -> Sequence[Planned]:
        """The states to explore from in a round, task by task in the given order, and the notes to
        request first."""

    @abstractmethod
    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        """The selection to train on after a round. MethodError if there is nothing to train on."""

    def plan_evaluation(
        self, trajectories: TrajectorySet, tasks: Sequence[str]
    ) -> Sequence[Planned]:
        """The evaluation's rollouts, and the notes to request first. The first rollout of a task is
        the one that counts. By default, every task is played once.

        `trajectories` are only those of this evaluation. With `attempts` above 1, the evaluation is
        planned that many times, and a later plan sees how the earlier rollouts ended: this assumes
        that success is known at test time.
        """
        return [PlannedState(task, None, 1) for task in tasks]

    @property
    def branches(self) -> bool:
        """Whether `plan` returns states inside trajectories, which needs a replayable environment.

        False by default.
        """
        return False

    @property
    def acts(self) -> bool:
        """Whether `select` may return acts, which are trained on exactly as they were sampled."""
        return False

    @property
    def prompt_suffix(self) -> str:
        """The text after the environment's prompt whenever the student acts; none by default."""
        return ""

    @property
    def roles(self) -> Mapping[str, RoleUse]:
        """The models beside the student that it asks, by name; none by default."""
        return MappingProxyType({})

    def acting(self, round: int, *, at_test: bool) -> Acting:
        """How the student takes a turn in a round, while it explores or is evaluated."""
        return ALONE

    @property
    def turns(self) -> int:
        """How often a round plans and plays."""
        return 1

    @property
    def attempts(self) -> int:
        """How often an evaluation plans and plays."""
        return 1
