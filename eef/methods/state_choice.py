"""Choice: which states inside a trajectory are played on from, by what was measured along it in earlier rounds. Pure.

A *measurement* is {state: (wins, rollouts)}, the task's start (0) among the states (`eef.methods.labels.count_wins`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Literal

from eef.methods.labels import evenly_spaced_states

StateChoice = Literal["even", "random", "bisection", "uncertainty"]
Measured = Mapping[int, tuple[int, int]]


def choose_states(
    how: StateChoice, length: int, count: int, measured: Measured, key: str
) -> tuple[int, ...]:
    """At most `count` states behind the start and before the end of a path of `length` steps, in order.

    `measured` are the earlier rounds; where they say nothing the states are evenly spaced. `key` names the draw of
    random states: equal keys, equal states.
    """
    if how == "random":
        return random_states(length, count, key)
    if how == "bisection":
        return bisect(length, count, measured)
    if how == "uncertainty":
        return most_uncertain(length, count, measured)
    return evenly_spaced_states(length, count)


def random_states(length: int, count: int, key: str) -> tuple[int, ...]:
    """States drawn without replacement."""
    inside = range(1, length)
    return tuple(sorted(random.Random(key).sample(inside, min(count, len(inside)))))


def bisect(length: int, count: int, measured: Measured) -> tuple[int, ...]:
    """States between the last one won from and the next one lost from: the last winnable state lies there.

    With `count` states a round the bracket shrinks to a (count + 1)-th; where nothing lies inside it any more its ends
    are measured again.

    >>> bisect(12, 2, {0: (1, 1), 4: (1, 1), 8: (0, 1)})
    (5, 6)
    """
    won = [t for t, (wins, _) in measured.items() if wins]
    if not won:
        return evenly_spaced_states(length, count)
    low = max(won)
    high = min(
        (t for t, (wins, played) in measured.items() if t > low and played and not wins),
        default=length,
    )
    inside = evenly_spaced_states(high - low, count)
    found = [low + t for t in inside] or [low, high][:count]
    return tuple(t for t in found if 0 < t < length)


def most_uncertain(length: int, count: int, measured: Measured) -> tuple[int, ...]:
    """The states whose outcome is most open, by p(1 - p) of the win rate p; the earlier ones among equals.

    Between states that were measured p is drawn straight, with one win and one loss more than were seen (few rollouts
    settle little); the end counts as lost.

    >>> most_uncertain(9, 2, {0: (3, 3), 4: (3, 3), 6: (0, 3)})
    (1, 5)
    """
    known = {
        t: (wins + 1) / (played + 2)
        for t, (wins, played) in measured.items()
        if played and t < length
    }
    if not known:
        return evenly_spaced_states(length, count)
    known = {0: known[min(known)], **known, length: 0.0}
    open_ = {t: _between(known, t) for t in range(1, length)}
    order = sorted(open_, key=lambda t: (-round(open_[t] * (1 - open_[t]), 9), t))
    return tuple(sorted(order[:count]))


def _between(known: Mapping[int, float], t: int) -> float:
    low, high = max(at for at in known if at <= t), min(at for at in known if at >= t)
    return (
        known[low]
        if low == high
        else known[low] + (known[high] - known[low]) * (t - low) / (high - low)
    )
