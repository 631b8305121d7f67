"""Settings of policies: sampling, inference servers, and the servers of API experts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from eef.config import Settings, check_address
from eef.policies.keys import check_key_name


class ApiSettings(Settings):
    """An OpenAI-compatible server, and the budget for it."""

    base_url: str = "https://api.openai.com/v1"
    """Address of the server, including `/v1`."""

    more_urls: tuple[str, ...] = Field(default=(), strict=False)
    """Addresses of further servers of the same model and key. Each conversation stays with one
    server, for its prefix cache, until that fails."""

    key: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key. The key itself is never written to a
    file. Servers on this machine need none."""

    concurrency: int = Field(default=8, ge=1)
    """Concurrent requests."""

    requests_per_minute: int | None = Field(default=None, ge=1)
    """Maximum requests per minute; unlimited by default."""

    timeout: float = Field(default=120.0, gt=0)
    """Seconds after which a request is abandoned and retried."""

    retries: int = Field(default=6, ge=0)
    """Retries per request (after 429, 5xx, a time-out, an empty or malformed response) before its
    rollout fails."""

    backoff: float = Field(default=1.0, ge=0)
    """Seconds before the first retry, doubled for each further one. A `Retry-After` header takes
    precedence."""

    max_requests: int | None = Field(default=None, ge=1)
    """Budget in requests, including retries; unlimited by default."""

    max_tokens: int | None = Field(default=None, ge=1)
    """Budget in tokens, prompts and completions together; unlimited by default."""

    max_cost: float | None = Field(default=None, gt=0)
    """Budget in money, in the currency of the prices; unlimited by default."""

    prompt_price: float = Field(default=0.0, ge=0)
    """Price per million prompt tokens."""

    completion_price: float = Field(default=0.0, ge=0)
    """Price per million completion tokens."""

    @model_validator(mode="after")
    def _holds_no_secret(self) -> ApiSettings:
        check_key_name(self.key)
        check_address("base_url", self.base_url)
        for url in self.more_urls:
            check_address("more_urls", url)
        if self.max_cost is not None and not (self.prompt_price or self.completion_price):
            raise ValueError(
                "`max_cost` has no effect without `prompt_price` or `completion_price`"
            )
        return self


class UserSettings(Settings):
    """A simulated user of an environment, played by a model at a server."""

    model: str
    """Name of the model, as its server lists it."""

    api: ApiSettings = ApiSettings()
    """The server, and the budget for it."""

    cache: str = "user-responses.jsonl"
    """File that keeps every answer by conversation and seed. Keep it with the run: recorded states
    are restored from it. Several processes may share it."""

    temperature: float = Field(default=0.7, ge=0)
    """Temperature of the user's model."""

    max_tokens: int = Field(default=256, ge=1)
    """Maximum tokens per message, reasoning included."""

    max_messages: int = Field(default=12, ge=1)
    """Maximum messages of the user per episode; after the last one, the user leaves."""


class RoleSettings(Settings):
    """A model beside the student that methods ask: a judge, planner, critic, …"""

    model: str
    """`base` (the student's base model), `hf/<path or hub id>`, `openai/<model>` (at the server of
    `api`) or `scripted/<preset>`. A role that a method trains is a model of the first two kinds."""

    api: ApiSettings | None = None
    """The server of an `openai/<model>` role. All methods of a run share its budget; a request that
    one of them has made is not repeated for another. With `jobs` above 1, the budget may be
    exceeded by the requests that other methods have in progress."""

    temperature: float = Field(default=0.7, ge=0)
    """Temperature of the role; during evaluation that of `evaluate`."""

    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling of the role."""

    max_tokens: int = Field(default=512, ge=1)
    """Maximum tokens of a text, reasoning included. A text that reaches the limit is requested once
    more, and skipped if it reaches the limit again."""

    @model_validator(mode="after")
    def _settings_have_effect(self) -> RoleSettings:
        if self.model != "base" and not self.model.startswith(("hf/", "openai/", "scripted/")):
            raise ValueError(
                f"`model` is {self.model!r}; expected `base`, `hf/…`, `openai/…` or `scripted/…`"
            )
        if self.api is not None and not self.model.startswith("openai/"):
            raise ValueError("`api` has no effect: `model` is not `openai/<model>`")
        if self.temperature == 0 and self.top_p != 1:
            raise ValueError("`top_p` has no effect at temperature 0; remove it")
        return self


class ServerSettings(Settings):
    """Inference servers that the student plays through, with `rollouts.engine` `vllm` or `remote`.

    With `vllm`, `eef` starts one server per GPU (one in all without GPUs) and stops it. With
    `remote`, it uses yours.
    """

    urls: tuple[str, ...] = Field(default=(), strict=False)
    """`remote`: addresses of the servers, including `/v1`; all of them serve the same model."""

    model: str | None = None
    """`remote`: name under which the servers list the student's base model; by default the only one
    they list."""

    key: str = "EEF_SERVER_KEY"
    """`remote`: name of the environment variable that holds the servers' key. Servers on this
    machine need none."""

    python: str | None = None
    """`vllm`: Python interpreter that has vLLM, such as `/opt/vllm/bin/python`; by default the one
    that runs `eef`."""

    arguments: tuple[str, ...] = Field(default=(), strict=False)
    """`vllm`: further arguments of the server, such as `["--gpu-memory-utilization", "0.8"]`."""

    context: int | None = Field(default=None, ge=1)
    """`vllm`: longest conversation in tokens (`--max-model-len`); by default the model's context
    length, or `chat.max_length` if that is set."""

    port: int | None = Field(default=None, ge=1, le=65535)
    """`vllm`: port of the first server, on 127.0.0.1; further servers use the ports after it. By
    default, free ports."""

    start_timeout: float = Field(default=1800.0, gt=0)
    """`vllm`: seconds that a server may take to start."""

    placement: Literal["local", "ray"] = "local"
    """`vllm`: where servers run. `local`: on this machine. `ray`: on the nodes of a Ray cluster,
    one actor per server with a GPU of its own. Servers listen on the address of their node, all
    with one random key, so the cluster's network must be private. The run directory and vLLM must
    have the same paths on every node."""

    count: int | None = Field(default=None, ge=1)
    """`vllm` with `placement` `ray`: number of servers; by default one per free GPU of the
    cluster."""

    during_training: bool = False
    """`vllm`: keep the servers running while the student is trained. By default they are stopped to
    free their GPUs. New adapters are loaded into running servers; new full weights need a restart
    in any case."""

    timeout: float = Field(default=600.0, gt=0)
    """Seconds after which a request is abandoned and repeated."""

    retries: int = Field(default=5, ge=0)
    """Repetitions of a request (after 429, 5xx, a time-out or a lost connection) before its rollout
    fails."""

    backoff: float = Field(default=0.5, ge=0)
    """Seconds before the first repetition, doubled for each further one. A `Retry-After` header
    takes precedence."""

    probe: bool = True
    """Compare a server's log-probabilities of a greedy completion with those of the same weights on
    the CPU, before the first rollout of each checkpoint. The weights must fit into memory."""

    tolerance: float = Field(default=0.05, gt=0)
    """Largest mean difference of these log-probabilities per token."""

    @model_validator(mode="after")
    def _count_has_effect(self) -> ServerSettings:
        if self.count is not None and self.placement == "local":
            raise ValueError("`count` has no effect with `placement` 'local'")
        return self

    @model_validator(mode="after")
    def _holds_no_secret(self) -> ServerSettings:
        check_key_name(self.key)
        for url in self.urls:
            check_address("urls", url)
        return self


class SamplingSettings(Settings):
    """Sampling of the student's completions during exploration."""

    temperature: float = Field(default=0.7, ge=0)
    """Temperature during exploration; 0 is greedy."""

    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling: the smallest probability mass sampled from."""

    max_tokens: int = Field(default=256, ge=1)
    """Maximum tokens per completion."""

    @model_validator(mode="after")
    def _greedy_has_no_nucleus(self) -> SamplingSettings:
        if self.temperature == 0 and self.top_p != 1:
            raise ValueError("`top_p` has no effect at temperature 0; remove it")
        return self


class ExpertSamplingSettings(Settings):
    """Sampling of the experts' completions. Unset values are those of `sampling`."""

    temperature: float | None = Field(default=None, ge=0)
    """Temperature of the experts; that of `sampling` by default."""

    top_p: float | None = Field(default=None, gt=0, le=1)
    """Nucleus sampling of the experts; that of `sampling` by default."""

    max_tokens: int | None = Field(default=None, ge=1)
    """Maximum tokens per completion of the experts, reasoning included; that of `sampling` by
    default. Models that reason need some thousands."""
