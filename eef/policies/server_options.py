"""ServerOptions: the request options that a server accepts."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from typing import Any

from eef.policies.rejections import Rejection
from eef.policy import Sampling


class ServerOptions:
    """The request options that a server accepts. Each is sent until a response rejects it.

    `dropped` are those that it has rejected before. Each request asks for one completion, without
    `n` or `logprobs`.
    """

    def __init__(self, dropped: Collection[str], stop: Sequence[str]) -> None:
        self._lock = threading.Lock()
        self._dropped, self._stop = set(dropped), list(stop)

    def options(
        self, sampling: Sampling, seed: int, without: Collection[str] = ()
    ) -> dict[str, Any]:
        """The options of a request, without those of a trial."""
        length = "max_completion_tokens" if "max_tokens" in self._dropped else "max_tokens"
        wanted: dict[str, Any] = {
            "seed": seed,
            **({"stop": self._stop} if self._stop else {}),
            "top_p": sampling.top_p,
            "temperature": sampling.temperature,
            length: sampling.max_tokens,
        }
        skipped = {*self._dropped, *without}
        return {name: value for name, value in wanted.items() if name not in skipped}

    def drop(self, rejection: Rejection, sent: Collection[str]) -> tuple[str, ...] | None:
        """The options to drop after the rejection of `sent`; None if no retry can help.

        They are empty if one was dropped after the request was sent. Of several options that a text
        names, the first is dropped; of those in a field of their own, all are.
        """
        with self._lock:
            if self._dropped & set(sent):
                return ()
        named = tuple(name for name in rejection.options if name in sent)
        return (named if rejection.parameters else named[:1]) or None

    def never_send(self, options: Collection[str]) -> list[str]:
        """Drop options; returns those that were not dropped before."""
        with self._lock:
            new = [name for name in options if name not in self._dropped]
            self._dropped |= set(new)
            return new
