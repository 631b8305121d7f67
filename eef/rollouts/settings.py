"""Settings of rollouts and of the exploration budget per round."""

from __future__ import annotations

from pydantic import Field, model_validator

from eef.config import Settings


class RolloutSettings(Settings):
    """How episodes are played."""

    batch_size: int = Field(default=32, ge=1)
    """Episodes played side by side."""

    cache_gib: float | None = Field(default=None, gt=0)
    """Maximum size of the key/value cache of a model in this process, in GiB (2^30 bytes); by
    default what the device holds. The cache has room for `batch_size` conversations as long as the
    longest of them."""

    step_limit: int | None = Field(default=None, ge=1)
    """Maximum number of steps of an episode; by default the environment's own limit."""

    reset_step_limit: bool = False
    """Give a rollout that starts inside a trajectory the whole step limit, instead of the part that
    its prefix leaves."""


class BudgetSettings(Settings):
    """Exploration budget per round, equal for every method that explores.

    By default there is no budget: each method plays what it plans, and the report shows the cost.
    Methods that do not explore (`bc`, `sft_all`, `nat`) are not affected. Set at most one of the
    following.
    """

    rollouts_per_task: int | None = Field(default=None, ge=1)
    """Rollouts per training task and round. A method's plan is played in turns of one rollout per
    task and starts over when it is used up, until the round is full. A method that plays only some
    of the tasks (`ipr` and `atlas`: those an expert has won) gets the same total, and therefore
    more rollouts for each of them."""

    rollouts: int | None = Field(default=None, ge=1)
    """Rollouts per round over all tasks."""

    tokens: int | None = Field(default=None, ge=1)
    """Tokens that the student generates per round. The round ends with the batch that reaches the
    budget. Batches shrink toward the end; a budget worth several `rollouts.batch_size` is exceeded
    only slightly."""

    @model_validator(mode="after")
    def _one_measure(self) -> BudgetSettings:
        given = [
            name
            for name in ("rollouts_per_task", "rollouts", "tokens")
            if getattr(self, name) is not None
        ]
        if len(given) > 1:
            raise ValueError(f"`{given[0]}` and `{given[1]}` both limit a round; set only one")
        return self

    def of_round(self, tasks: int) -> BudgetSettings:
        """The budget of a round with `tasks` training tasks: in `rollouts` or `tokens`, or none."""
        if self.rollouts_per_task is None:
            return self
        return BudgetSettings(rollouts=self.rollouts_per_task * tasks)
