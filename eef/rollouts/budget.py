"""Budget: a method's plan, cut or gone on with until a round is full. Between `Method.plan` and `eef.rollouts.explore`. Pure.

Methods plan different numbers of rollouts, and their rollouts differ in length. At equal budget each plays its plan in
turns of one rollout a task, so that a plan which is cut leaves no task out (but where there are fewer rollouts than
tasks), and begins anew when it is through. The states that were played least come first in the next round.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from types import MappingProxyType

from eef.errors import ConfigError
from eef.rollouts.settings import BudgetSettings
from eef.selection import PlannedState
from eef.trajectory import StateRef


def chunks(
    plan: Sequence[PlannedState],
    budget: BudgetSettings,
    batch_size: int,
    tokens_of: Callable[[int], int],
    played: Mapping[StateRef, int] = MappingProxyType({}),
) -> Iterator[list[PlannedState]]:
    """The rollouts of a round in portions to be played one after the other; the next one may depend on what they cost.

    `tokens_of(n)` are the tokens that the first n rollouts of the round have generated; all portions so far have been
    played when it is asked. By tokens the round ends with the portion that fills it; the first is `batch_size`
    rollouts, the last ones shrink to what is still to be had, so that little is played beyond. `played`: how often
    earlier rounds played on from each state. `budget` is that of a round (`BudgetSettings.of_round`). Raises
    ConfigError where rollouts generate no tokens.
    """
    assert budget.rollouts_per_task is None, "a budget of a round"
    if not plan:
        return
    if budget.rollouts is not None:
        yield list(islice(round_robin(plan, played), budget.rollouts))
    elif budget.tokens is not None:
        yield from _until(budget.tokens, round_robin(plan, played), batch_size, tokens_of)
    else:
        yield list(plan)


def round_robin(
    plan: Sequence[PlannedState], played: Mapping[StateRef, int] = MappingProxyType({})
) -> Iterator[PlannedState]:
    """The plan as single rollouts without end: one of each task, then the next one of each task, …

    A task's first is its first planned; then come its other states, those that earlier rounds `played` least first (a
    second rollout from the start with those they played most), else in an order that depends on the task alone, since
    a plan that is cut must not favour early states.

    >>> [item.task for item in islice(in_turns([PlannedState("a", None, 2), PlannedState("b", None, 1)]), 5)]
    ['a', 'b', 'a', 'b', 'a']
    """
    of_task: dict[str, list[PlannedState]] = {}
    for item in plan:
        of_task.setdefault(item.task, []).extend(
            [PlannedState(item.task, item.state, 1)] * item.count
        )
    orders = [_in_order(units, task, played) for task, units in of_task.items() if units]
    turn = 0
    while orders:
        yield from (order[turn % len(order)] for order in orders)
        turn += 1


def _in_order(
    units: list[PlannedState], task: str, played: Mapping[StateRef, int]
) -> list[PlannedState]:
    first, *others = units
    random.Random(task).shuffle(others)
    most = max((played.get(unit.state, 0) for unit in others if unit.state), default=0)
    start = max(1, most)
    return [
        first,
        *sorted(others, key=lambda unit: played.get(unit.state, 0) if unit.state else start),
    ]


def _until(
    wanted: int, stream: Iterator[PlannedState], batch_size: int, tokens_of: Callable[[int], int]
) -> Iterator[list[PlannedState]]:
    played, spent = 0, 0
    while spent < wanted:
        if played and not spent:
            raise ConfigError(
                f"`budget.tokens` is {wanted}, but the rollouts generate no tokens that could be counted",
                hint="take `budget.rollouts`",
            )
        size = (
            batch_size if not spent else min(batch_size, max(1, (wanted - spent) * played // spent))
        )
        yield list(islice(stream, size))
        played += size
        spent = tokens_of(played)
