"""Settings of rollouts and of the exploration budget per round."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from eef.config import Settings
from eef.policies.settings import ServerSettings

Engine = Literal["local", "vllm", "remote"]
_IN_FLIGHT = 64
_ONLY = {
    "remote": {"urls", "model", "key"},
    "vllm": {
        "python",
        "arguments",
        "context",
        "port",
        "start_timeout",
        "during_training",
        "placement",
        "count",
    },
}


class RolloutSettings(Settings):
    """How episodes are played."""

    engine: Engine = "local"
    """Engine that computes the student's completions. `local`: the model in this process; equal
    runs give bit-identical results. `vllm`: vLLM servers that `eef` starts, much faster for models
    of 1B parameters and more. `remote`: servers that you run (vLLM, or any server whose
    `/v1/completions` takes and returns token ids). Servers may sample other tokens when a run is
    repeated; what a run has stored is exact and is never sampled again."""

    batch_size: int = Field(default=32, ge=1)
    """Episodes that a `local` model plays in one batch, and the rollouts planned at a time with
    `budget.tokens`."""

    in_flight: int = Field(default=_IN_FLIGHT, ge=1)
    """Episodes played concurrently through servers."""

    placement: Literal["local", "ray"] = "local"
    """Where episodes are played through servers. `local`: in this process. `ray`: by hosts, actors
    of a Ray cluster on any of its nodes; this process stores what they play. Useful if this process
    is the bottleneck (`docs/cluster.md`)."""

    hosts: int = Field(default=1, ge=1)
    """`placement` `ray`: number of hosts, which share `in_flight`."""

    host_cpus: float = Field(default=1.0, gt=0)
    """`placement` `ray`: CPUs that Ray reserves for each host."""

    server: ServerSettings = ServerSettings()

    cache_gib: float | None = Field(default=None, gt=0)
    """Maximum size of the key/value cache of a model in this process, in GiB (2^30 bytes); by
    default, only the device's memory limits it. The cache holds `batch_size` conversations, each
    with the length of the longest."""

    step_limit: int | None = Field(default=None, ge=1)
    """Maximum number of steps of an episode; by default the environment's own limit."""

    reset_step_limit: bool = False
    """Give a rollout that starts inside a trajectory the whole step limit, instead of the part that
    its prefix leaves."""

    @model_validator(mode="after")
    def _server_settings_have_effect(self) -> RolloutSettings:
        defaults = ServerSettings()
        fields = ServerSettings.model_fields
        given = [name for name in fields if getattr(self.server, name) != getattr(defaults, name)]
        for name in given:
            engines = [engine for engine, names in _ONLY.items() if name in names] or list(_ONLY)
            if self.engine not in engines:
                raise ValueError(
                    f"`server.{name}` has no effect with `engine` {self.engine!r}; it belongs to "
                    f"{' and '.join(map(repr, engines))}"
                )
        if self.engine == "local" and self.in_flight != _IN_FLIGHT:
            raise ValueError("`in_flight` has no effect with `engine` 'local'; see `batch_size`")
        if self.engine != "local" and self.cache_gib is not None:
            raise ValueError(f"`cache_gib` has no effect with `engine` {self.engine!r}; remove it")
        if self.placement == "ray" and self.engine == "local":
            raise ValueError(
                "`placement` 'ray' has no effect with `engine` 'local', which plays episodes in "
                "the process of the model; see `env.placement`"
            )
        if self.placement == "local" and (self.hosts != 1 or self.host_cpus != 1):
            raise ValueError("`hosts` and `host_cpus` have no effect with `placement` 'local'")
        if self.engine == "remote" and not self.server.urls:
            raise ValueError("`engine` is 'remote', but `server.urls` is empty")
        return self


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
    """Tokens that the student and all roles of a method generate per round. The round ends with the
    batch that reaches the budget. Batches shrink toward the end, so a budget of several times
    `rollouts.batch_size` rollouts is exceeded only slightly. The tokens that a judge generates
    about the rollouts of a round come on top of the budget."""

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

    def after(self, rollouts: int, tokens: int) -> BudgetSettings | None:
        """The rest of a round's budget after some rollouts; None if it is spent."""
        if self.rollouts is not None:
            left = self.rollouts - rollouts
            return BudgetSettings(rollouts=left) if left > 0 else None
        if self.tokens is not None:
            left = self.tokens - tokens
            return BudgetSettings(tokens=left) if left > 0 else None
        return self

    def of_round(self, tasks: int) -> BudgetSettings:
        """The budget of a round with `tasks` training tasks: in `rollouts` or `tokens`, or none."""
        if self.rollouts_per_task is None:
            return self
        return BudgetSettings(rollouts=self.rollouts_per_task * tasks)
