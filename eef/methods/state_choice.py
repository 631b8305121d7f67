"""Choice of the states inside a trajectory to branch from, given the outcomes of earlier rounds.

`Measured` maps a state to (wins, rollouts); the task's start (0) is among the states. See
`eef.methods.labels.count_wins`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Literal

from eef.methods.labels import evenly_spaced_states

StateChoice = Literal["even", "random", "bisection", "uncertainty"]
Measured = Mapping[int, tuple[int, int]]


def choose_states(
    choice: StateChoice, length: int, count: int, measured: Measured, key: str
) -> tuple[int, ...]:
    """At most `count` states of a path of `length` steps, in order, without its start and end.

    `measured` holds the outcomes of earlier rounds; without any, the states are evenly spaced
    (except for "random"). `key` seeds the random choice: equal keys give equal states.
    """
    if choice == "random":
        return random_states(length, count, key)
    if choice == "bisection":
        return bisect(length, count, measured)
    if choice == "uncertainty":
        return most_uncertain(length, count, measured)
    return evenly_spaced_states(length, count)


def random_states(length: int, count: int, key: str) -> tuple[int, ...]:
    """States drawn without replacement."""
    inside = range(1, length)
    return tuple(sorted(random.Random(key).sample(inside, min(count, len(inside)))))


def bisect(length: int, count: int, measured: Measured) -> tuple[int, ...]:
    """States between the last solvable state and the next one that is not.

    With `count` states per round, this bracket of the last solvable state shrinks to a
    (count + 1)-th. Once no state is left inside, its ends are measured again.

    >>> bisect(12, 2, {0: (1, 1), 4: (1, 1), 8: (0, 1)})
    (5, 6)
    """
    won = [t for t, (wins, _) in measured.items() if wins]
    if not won:
        return evenly_spaced_states(length, count)
    low = max(won)
    high = min(
        (t for t, (wins, rollouts) in measured.items() if t > low and rollouts and not wins),
        default=length,
    )
    inside = evenly_spaced_states(high - low, count)
    found = [low + t for t in inside] or [low, high][:count]
    return tuple(t for t in found if 0 < t < length)


def most_uncertain(length: int, count: int, measured: Measured) -> tuple[int, ...]:
    """The states with the highest p(1 - p), where p is the win rate; earlier states break ties.

    p is linearly interpolated between measured states, with add-one smoothing. The end counts as
    lost.

    >>> most_uncertain(9, 2, {0: (3, 3), 4: (3, 3), 6: (0, 3)})
    (1, 5)
    """
    known = {
        t: (wins + 1) / (rollouts + 2)
        for t, (wins, rollouts) in measured.items()
        if rollouts and t < length
    }
    if not known:
        return evenly_spaced_states(length, count)
    known = {0: known[min(known)], **known, length: 0.0}
    rates = {t: _interpolate(known, t) for t in range(1, length)}
    order = sorted(rates, key=lambda t: (-round(rates[t] * (1 - rates[t]), 9), t))
    return tuple(sorted(order[:count]))


def _interpolate(known: Mapping[int, float], t: int) -> float:
    low, high = max(at for at in known if at <= t), min(at for at in known if at >= t)
    if low == high:
        return known[low]
    return known[low] + (known[high] - known[low]) * (t - low) / (high - low)
