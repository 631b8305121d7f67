"""Stages of a run: their order and their dependencies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from eef.pipeline.recipe import Recipe

Kind = Literal["collect", "explore", "select", "train", "evaluate"]
EXPERT, BC = "expert", "bc"


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a run: what is done, for which method, in which round (0: the experts, behaviour cloning)."""

    method: str
    round: int
    kind: Kind

    def __str__(self) -> str:
        return f"{self.method} {self.kind}" + (f" (round {self.round})" if self.round else "")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a stage is: `done` of `total` rollouts or updates; `note` is a word on how it goes.

    `total` 0: not known yet, or nothing to count. A stage's last one, when all it leaves is written, is `finished`.
    """

    stage: Stage
    done: int
    total: int
    note: str = ""
    finished: bool = False


Listener = Callable[[Progress], None]


def stages_of(recipe: Recipe) -> list[Stage]:
    """All stages of a recipe in order, each after those it needs."""
    stages = [Stage(EXPERT, 0, "collect")]
    stages += [Stage(EXPERT, 0, "evaluate")] if recipe.expert.players else []
    stages += [Stage(BC, 0, kind) for kind in _kinds("select", "train", "evaluate")]
    for method in explorers(recipe):
        for round in range(1, recipe.rounds + 1):
            stages += [
                Stage(method, round, kind)
                for kind in _kinds("explore", "select", "train", "evaluate")
            ]
    return stages


def explorers(recipe: Recipe) -> list[str]:
    """The methods that go through rounds: all but behaviour cloning, with which every run begins."""
    return [name for name in recipe.methods if name != BC]


def _kinds(*kinds: Kind) -> tuple[Kind, ...]:
    return kinds
