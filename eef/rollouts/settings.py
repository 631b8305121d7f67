"""Settings of rollouts and of the per-round exploration budget."""

from __future__ import annotations

from pydantic import Field, model_validator

from eef.config import (
    Settings,
)


class RolloutSettings(Settings):
    """How episodes are played."""

    batch_size: int = Field(default=32, ge=1)
    """Episodes played side by side."""

    step_limit: int | None = Field(default=None, ge=1)
    """Steps of an episode at most; the environment's own limit when left out."""

    reset_step_limit: bool = False
    """Give a rollout from an expert's state the whole step limit, not what the prefix leaves of it."""


class BudgetSettings(Settings):
    """What the methods of a run have as much of. Without any of these each plays what it plans, and the report shows
    what it took. Methods that explore nothing (`bc`, `sft_all`, `nat`) have none."""

    rollouts_per_task: int | None = Field(default=None, ge=1)
    """Rollouts of a round for each training task, of each method that explores: what it plans is played in turns of
    one rollout a task, begun anew when it is through, until the round is full. A method that plays some of the tasks
    alone (`ipr`, `atlas`: those an expert won) has as many rollouts in all, so more for each of them."""

    rollouts: int | None = Field(default=None, ge=1)
    """The same as rollouts of all tasks together."""

    tokens: int | None = Field(default=None, ge=1)
    """The same by tokens that the student generates. The round is full with the batch that reaches them; batches
    shrink towards the end, but let the tokens be worth several `rollouts.batch_size`."""

    @model_validator(mode="after")
    def _one_measure(self) -> BudgetSettings:
        given = [
            name
            for name in ("rollouts_per_task", "rollouts", "tokens")
            if getattr(self, name) is not None
        ]
        if len(given) > 1:
            raise ValueError(
                f"`{given[0]}` and `{given[1]}` both say when a round is full; leave one out"
            )
        return self

    def of_round(self, tasks: int) -> BudgetSettings:
        """The same for a round of so many training tasks: in `rollouts` or `tokens`, or empty."""
        if self.rollouts_per_task is None:
            return self
        return BudgetSettings(rollouts=self.rollouts_per_task * tasks)
