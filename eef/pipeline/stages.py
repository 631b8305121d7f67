"""Stages of a run, their order and their dependencies.

expert   collect → evaluate
bc       select → train → evaluate                    (round 0)
method   explore → select → train → evaluate          (rounds 1 … n, independently per method)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from eef.pipeline.recipe import Recipe

StageKind = Literal["collect", "explore", "select", "train", "evaluate"]

EXPERT, BC = "expert", "bc"
LOOP: tuple[StageKind, ...] = ("explore", "select", "train", "evaluate")


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a run. Round 0 is the expert data and behavior cloning."""

    method: str
    round: int
    kind: StageKind

    def __str__(self) -> str:
        return f"{self.method} {self.kind}" + (f" (round {self.round})" if self.round else "")

    def is_of(self, method: str | None, round: int | None) -> bool:
        """Whether it is a stage of a method and of a round; None stands for all."""
        return method in (None, self.method) and round in (None, self.round)

    def sibling(self, kind: StageKind) -> Stage:
        """The stage of another kind in the same round of the same method."""
        return Stage(self.method, self.round, kind)


COLLECT = Stage(EXPERT, 0, "collect")


def stages_of(recipe: Recipe) -> list[Stage]:
    """All stages of a recipe, each after those it depends on."""
    stages = [COLLECT]
    stages += [Stage(EXPERT, 0, "evaluate")] if recipe.expert.players else []
    stages += [Stage(BC, 0, kind) for kind in LOOP if kind != "explore"]
    for method in round_methods(recipe):
        own = recipe.of_method(method)
        for round in range(1, own.rounds + 1):
            evaluated = round % own.evaluate.every == 0 or round == own.rounds
            kinds = LOOP if evaluated else LOOP[:-1]
            stages += [Stage(method, round, kind) for kind in kinds]
    return stages


def round_methods(recipe: Recipe) -> list[str]:
    """The methods that go through rounds: all but behavior cloning, which every run starts with."""
    return [name for name in recipe.methods if name != BC]


def dependencies(stage: Stage) -> list[Stage]:
    """The stages that must be done before a stage."""
    if stage.method == EXPERT:
        return [COLLECT] if stage.kind != "collect" else []
    if stage.kind == "explore":
        return [COLLECT, trained_before(stage)]
    if stage.kind == "select":
        return [COLLECT] if stage.method == BC else [COLLECT, stage.sibling("explore")]
    return [COLLECT, stage.sibling("select" if stage.kind == "train" else "train")]


def trained_before(stage: Stage) -> Stage:
    """The training whose student explores in a stage's round: the previous one of its method."""
    method = stage.method if stage.round > 1 else BC
    return Stage(method, stage.round - 1, "train")
