"""Settings of policies: sampling, and the servers of API experts."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from eef.config import (
    Settings,
)


class ApiSettings(Settings):
    """How an OpenAI-compatible server is asked, and what that may cost."""

    base_url: str = "https://api.openai.com/v1"
    """Address of the server, up to and with its `/v1`."""

    key: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key. The key itself stands in no file; on this machine none is
    needed."""

    concurrency: int = Field(default=8, ge=1)
    """Requests under way at once."""

    requests_per_minute: int | None = Field(default=None, ge=1)
    """Requests a minute at most; as many as the server takes when left out."""

    timeout: float = Field(default=120.0, gt=0)
    """Seconds until an answer is given up and asked for again."""

    retries: int = Field(default=6, ge=0)
    """How often a request is sent again (429, 5xx, time-out, empty or malformed answer) before its rollout breaks."""

    backoff: float = Field(default=1.0, ge=0)
    """Seconds before the second attempt, doubled for each further one; what a server asks for (Retry-After) goes
    before."""

    max_requests: int | None = Field(default=None, ge=1)
    """Budget in requests, retries among them; without limit when left out."""

    max_tokens: int | None = Field(default=None, ge=1)
    """Budget in tokens, of prompts and completions together; without limit when left out."""

    max_cost: float | None = Field(default=None, gt=0)
    """Budget in money, in the currency of the prices; without limit when left out."""

    prompt_price: float = Field(default=0.0, ge=0)
    """Price of a million prompt tokens."""

    completion_price: float = Field(default=0.0, ge=0)
    """Price of a million completion tokens."""

    @model_validator(mode="after")
    def _holds_no_secret(self) -> ApiSettings:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key):
            raise ValueError("`key` is the name of an environment variable, never the key itself")
        address = urlsplit(self.base_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError("`base_url` is no address (`http://127.0.0.1:8000/v1`)")
        if address.username or address.password or address.query:
            raise ValueError(
                "`base_url` holds a user, a password or a query; keys come from the environment alone"
            )
        if self.max_cost is not None and not (self.prompt_price or self.completion_price):
            raise ValueError(
                "`max_cost` has no effect without `prompt_price` or `completion_price`"
            )
        return self


class SamplingSettings(Settings):
    """How the student draws its completions while it explores."""

    temperature: float = Field(default=0.7, ge=0)
    """Temperature of exploration; 0 is greedy."""

    top_p: float = Field(default=1.0, gt=0, le=1)
    """Least probability mass that is sampled from."""

    max_tokens: int = Field(default=256, ge=1)
    """Tokens of a completion at most."""

    @model_validator(mode="after")
    def _greedy_has_no_nucleus(self) -> SamplingSettings:
        if self.temperature == 0 and self.top_p != 1:
            raise ValueError("`top_p` has no effect at temperature 0; leave it out")
        return self
