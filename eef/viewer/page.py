"""Page: a template, its variables, and the pages around it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from eef.errors import StoreError
from eef.viewer.address import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Data of a template. `up`, `before` and `after` are the pages that keys and links lead to.

    `live` pages are loaded again when the run has changed.
    """

    template: str
    title: str
    variables: dict[str, Any] = field(default_factory=dict)
    up: Address | None = None
    before: Address | None = None
    after: Address | None = None
    live: bool = True


class NotFound(StoreError):
    """An address names something that does not exist."""
