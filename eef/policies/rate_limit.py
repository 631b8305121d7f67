"""RateLimiter: waits between requests, and before retries."""

from __future__ import annotations

import random
import threading
import time
from email.utils import parsedate_to_datetime
from typing import Any

_LONGEST_WAIT = 120.0  # seconds, whatever `Retry-After` requests


class Stopped(Exception):
    """The call was stopped by the user or by another request's error."""


class RateLimiter:
    """Delays requests to `per_minute`, and to what the server requests by `Retry-After`."""

    def __init__(self, per_minute: int | None) -> None:
        self._lock = threading.Lock()
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._next = 0.0
        self._stopped = threading.Event()

    def resume(self) -> None:
        self._stopped.clear()

    def stop(self) -> None:
        """End all waits, now and until `resume`, by raising Stopped in them."""
        self._stopped.set()

    def _sleep(self, seconds: float) -> None:
        # a request that need not wait is sent: it has a place in the budget
        if seconds and self._stopped.wait(seconds):
            raise Stopped

    def acquire(self) -> None:
        """Wait until the next request may be sent."""
        with self._lock:
            now = time.monotonic()
            start = max(now, self._next)
            if self._gap:
                self._next = start + self._gap
        self._sleep(max(0.0, start - now))

    def wait(self, retry_after: float | None, attempt: int, backoff: float) -> None:
        """Wait before a retry. A `Retry-After` delays all threads, which share one rate limit."""
        if retry_after is not None:
            with self._lock:
                self._next = max(self._next, time.monotonic() + min(retry_after, _LONGEST_WAIT))
            return
        self._sleep(min(_LONGEST_WAIT, backoff * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0))


def retry_after(headers: Any) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        try:
            return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
        except ValueError:
            return None
