"""Behaviors in WebShop that reports count: turning pages, going back, searching again."""

from __future__ import annotations

from eef.envs.spec import Behavior

_BUTTONS = r"search|buy now|description|features|reviews|attributes|back to search|next >|< prev"

BEHAVIORS = (
    Behavior("Next", r"click\[(next >)\]"),
    Behavior("Prev", r"click\[(< prev)\]"),
    Behavior("Back to Search", r"click\[(back to search)\]"),
    Behavior("Another search", r"search\[.+\]", free=1),
    Behavior("Options clicked", rf"click\[((?!(?:{_BUTTONS}|b[0-9a-z]{{9}})\]).+)\]"),
)
NOTE = "Searches count from the second on, clicks where the page offers them."
