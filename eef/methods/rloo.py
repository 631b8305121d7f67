"""RLOO: groups of rollouts, advantages against the mean of the others in the group.

Source: Ahmadian et al., *Back to Basics: Revisiting REINFORCE-Style Optimization*, arXiv
2402.14740. R − mean of the n − 1 others is n / (n − 1) times R − mean of the group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from eef.methods.base import MethodOptions
from eef.methods.grpo import Grpo, GrpoOptions
from eef.trajectory import Trajectory


class RlooOptions(GrpoOptions):
    """Options of `rloo`, which does not divide by a deviation."""

    scale: Literal["one"] = "one"
    """Advantages are not divided."""

    mean: Literal["rollouts"] = "rollouts"
    """The mean is over the other rollouts of a group."""


@dataclass(frozen=True, slots=True)
class Rloo(Grpo):
    """REINFORCE with a leave-one-out baseline.

    `plan`: that of `grpo`. `select`: that of `grpo`, against the mean of the other rollouts.
    """

    Options: ClassVar[type[MethodOptions]] = RlooOptions

    def advantages(self, group: Sequence[Trajectory]) -> dict[str, float]:
        factor = len(group) / max(1, len(group) - 1)
        return {name: factor * value for name, value in Grpo.advantages(self, group).items()}


METHOD = Rloo
