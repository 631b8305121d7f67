"""Scripted experts: `scripted/careful` obeys the policies, `scripted/hasty` often forgets dates."""

from __future__ import annotations

import json
import random
import re
from typing import Any

from eef.config import unknown_name
from eef.errors import EnvError
from eef.policy import Conversation, ScriptedPolicy
from eef.react import format_completion, parse_completion
from eef.trajectory import Author

PRESETS = {"careful": 0.0, "strong": 0.15, "hasty": 0.9}
"""Preset → how often it does not look at the state of an order."""

_EMAIL = re.compile(r"[a-z]+\d+@example\.org")
_ORDER = re.compile(r"(o-\d+): (\w+), (\d+) euros, (\w+)(?: (\d+) days ago)?")


def make_expert(env: Any, preset: str) -> ScriptedPolicy:
    """An expert that sees the conversation alone, as any agent does."""
    if preset not in PRESETS:
        raise unknown_name("scripted expert", preset, PRESETS, error=EnvError)

    def write(conversation: Conversation, seed: int) -> str:
        hasty = random.Random(seed).random() < PRESETS[preset]
        thought, action = _next(conversation, hasty)
        return format_completion(thought, action)

    return ScriptedPolicy(Author("expert", preset), write)


def _next(conversation: Conversation, hasty: bool) -> tuple[str, str]:
    """The next thought and action."""
    heard = [each["content"] for each in conversation if each["role"] == "user"]
    done = [
        (parse_completion(each["content"])[1] or "").partition("[")[0]
        for each in conversation
        if each["role"] == "assistant"
    ]
    if {"refund", "cancel"} & set(done) or "say" in done[_asked(done) :]:
        return "That is all.", "close[]"
    email = next((found[0] for text in heard if (found := _EMAIL.search(text))), None)
    if email is None:
        return "I need the address.", "say[What is your e-mail address?]"
    orders = [order for text in heard for order in _ORDER.findall(text)]
    if not orders:
        return "I look at the orders.", f"look_up[{email}]"
    words = heard[0].lower()
    order = next(each for each in orders if each[1] in words)
    id, item, price, state, days = order
    if "money back" in words or "refund" in words:
        if state == "delivered" and (hasty or int(days) <= 30):
            arguments = json.dumps({"order": id, "amount": int(price)})
            return f"The {item} came {days} days ago.", f"refund[{arguments}]"
    elif state == "open" or hasty:
        return f"The {item} is {state}.", f"cancel[{id}]"
    return (
        f"The {item} is {state} {days}.",
        f"say[I am sorry, this is not possible for the {item}.]",
    )


def _asked(done: list[str]) -> int:
    """The number of turns up to the look-up: words before it asked for the address."""
    return done.index("look_up") + 1 if "look_up" in done else len(done)
