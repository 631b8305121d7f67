"""AskedModels: the models beside the student, which a comparison of scores must state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from eef.pipeline.ledger import Cost
from eef.pipeline.run_directory import RunData


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedModels:
    """The models beside the student that a method asks, role → model.

    `at_test` are those asked during evaluation, `in_training` those asked only before it.
    `success_known`: an evaluation retries tasks that have failed. The score still counts first
    attempts only.
    """

    at_test: Mapping[str, str] = field(default_factory=dict)
    in_training: Mapping[str, str] = field(default_factory=dict)
    success_known: bool = False

    @property
    def any(self) -> bool:
        return bool(self.at_test or self.in_training or self.success_known)


NO_MODELS = AskedModels()


def asked_models(run: RunData, method: str) -> AskedModels:
    """The models that a method of a run asks; none for the expert."""
    if method not in run.methods:
        return NO_MODELS
    models = run.recipes[method].roles
    asked = {
        role: (models[role].model, use)
        for role, use in run.methods[method].roles.items()
        if role in models
    }
    return AskedModels(
        at_test={role: model for role, (model, use) in asked.items() if use.at_test},
        in_training={role: model for role, (model, use) in asked.items() if not use.at_test},
        success_known=run.methods[method].attempts > 1,
    )


def completions_per_turn(evaluation: Cost | None) -> float | None:
    """Completions of all models per turn of an evaluation; None if they were not counted."""
    if evaluation is None or not evaluation.completions or not evaluation.env_steps:
        return None
    written = evaluation.completions + sum(usage.completions for usage in evaluation.roles)
    return written / evaluation.env_steps
