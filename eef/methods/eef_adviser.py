"""EEF+adviser: EEF in which a role helps the student to continue the experts' failures.

A rollout from inside an expert's failure proves a recovery only if it wins, and few rollouts from a
hard state do. There, the student acts as in CGI, EPO or STL, with a role that is not trained; from
a task's start, it acts without the role. It is trained on its actions without the role's texts, and
evaluated without the role.

The label of an expert's first segment therefore compares the student alone with the student that is
helped: `beneficial` may mean that the help was, and a harmful action may count as neutral.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from eef.methods.base import MethodOptions, RoleUse
from eef.methods.eef import Eef, EefOptions
from eef.roles import ALONE, Acting

_KINDS: Mapping[str, Literal["criticized", "advised", "lookahead"]] = {
    "critic": "criticized",
    "reasoner": "advised",
    "value": "lookahead",
}


class EefAdviserOptions(EefOptions):
    """Options of `eef+adviser`: those of `eef`, and the role that helps."""

    adviser: Literal["critic", "reasoner", "value"] = "critic"
    """The role that helps: a `critic` comments on each of the student's proposals (as in `cgi`), a
    `reasoner` states a strategy before each turn (`epo`), a `value` model scores the state that
    each proposal leads to (`stl`)."""

    candidates: int = Field(default=5, ge=1)
    """Proposals per turn, with a critic or a value model."""


@dataclass(frozen=True, slots=True)
class EefAdviser(Eef):
    """Exploring Expert Failures, with help at the experts' states.

    `plan` and `select`: those of `eef`.
    """

    options: EefAdviserOptions

    Options: ClassVar[type[MethodOptions]] = EefAdviserOptions

    @property
    def roles(self) -> Mapping[str, RoleUse]:
        return {self.options.adviser: RoleUse()}

    def acting(self, round: int, *, at_test: bool) -> Acting:
        if at_test:
            return ALONE
        adviser = self.options.adviser
        return Acting(
            _KINDS[adviser], adviser, candidates=self.options.candidates, from_start=False
        )


METHOD = EefAdviser
