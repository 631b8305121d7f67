"""The numbers of a task, computed from its rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eef.methods.base import Method
from eef.methods.eef import Eef
from eef.pipeline.stages import BC
from eef.rollouts.specs import is_first_attempt
from eef.viewer.index.rows import Row
from eef.viewer.index.trajectories import light_set


def summarize_task(
    rows: Sequence[Row], last: Mapping[str, int], methods: Mapping[str, Method[Any]]
) -> dict[str, Any]:
    """The columns of a task from its rollouts; `last` is the last evaluated round by method.

    A test task is won by a method if it is won by the first attempt in the method's last evaluated
    round, a training task if any of its rollouts wins it. It is newly solved if a student wins it
    and neither the expert nor behavior cloning does.
    """
    test = any(row.phase == "evaluate" for row in rows)
    every = rows
    rows = [row for row in rows if row.phase != "evaluate" or is_first_attempt(row.name, row.task)]
    experts = [row for row in rows if row.role == "expert" and row.status != "error"]
    students = [row for row in rows if row.role == "student" and row.status != "error"]
    winners = {
        row.method
        for row in students
        if row.success and (row.phase != "evaluate" or row.round == last.get(row.method))
    }
    expert = any(row.success for row in experts) if experts else None
    rewards = [row.reward for row in experts if row.reward is not None]
    explorers = winners - {BC}
    wins = sum(row.success for row in students)
    return {
        "split": "test" if test else "train",
        "rollouts": len(every),
        "students": len(students),
        "wins": wins,
        "rate": wins / len(students) if students else None,
        "expert": expert,
        "expert_reward": max(rewards, default=None),
        "recovery": sum(count_recovery_states(rows, methods).values()),
        "errors": sum(row.status == "error" for row in every),
        "overflows": sum(row.error_kind == "context_overflow" for row in every),
        "unverified": sum(not row.replayable for row in every),
        "never": not any(row.success for row in rows),
        "newly": bool(explorers) and not expert and BC not in winners,
        "only_by": next(iter(explorers)) if len(explorers) == 1 else "",
    }


def count_recovery_states(
    rows: Sequence[Row], methods: Mapping[str, Method[Any]]
) -> dict[tuple[str, int], int]:
    """Number of recovery states by (method, round), for the last round that explored the task."""
    counts = {}
    for name, method in methods.items():
        rounds = [row.round for row in rows if (row.method, row.phase) == (name, "explore")]
        if isinstance(method, Eef) and rounds:
            kept = [row for row in rows if row.phase == "collect" or row.method == name]
            trajectories = light_set(row for row in kept if row.phase != "evaluate")
            grids = method.grids(trajectories, rows[0].task, max(rounds))
            counts[name, max(rounds)] = sum(len(grid.recovery_states()) for grid in grids.values())
    return counts
