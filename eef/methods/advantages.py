"""Advantages of a student's rollouts: outcomes against their group, returns against equal anchors.

A *group* is the rollouts of a round from the same state (the task's start or a state inside a
trajectory). Failed rollouts (status "error") belong to none.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Mapping, Sequence
from math import sqrt
from typing import Literal

from pydantic import Field

from eef.methods.base import MethodOptions
from eef.methods.queries import rollouts_of_round
from eef.selection import Acts, Selection
from eef.tools import is_format_error
from eef.trajectory import Trajectory, TrajectorySet

Scale = Literal["deviation", "one"]
_EPSILON = 1e-6  # added to a standard deviation


class GroupOptions(MethodOptions):
    """Options of methods that compare the rollouts of a group."""

    group_size: int = Field(default=8, ge=2)
    """Rollouts from each state per round, which are compared with one another."""

    tasks_per_round: int | None = Field(default=16, ge=1)
    """Training tasks per round, in a new order after each pass over all of them; null for all."""

    outcome: Literal["success", "reward"] = "success"
    """The outcome of a rollout: 1 for a `success` and 0 otherwise, or the final `reward`."""

    scale: Scale = "deviation"
    """Divide advantages by the standard `deviation` of their group, or by `one`."""

    mean: Literal["rollouts", "steps"] = "rollouts"
    """A group's mean and deviation are over its `rollouts`, or over their `steps`, so that a longer
    rollout counts more often (as in verl-agent's code)."""

    invalid_action_penalty: float = Field(default=0.0, ge=0)
    """Subtracted from the reward of a step whose completion held no action."""


def tasks_of_round(tasks: Sequence[str], round: int, count: int | None) -> list[str]:
    """The tasks of a round: `count` per round, each once in every pass, in an order per pass.

    >>> tasks_of_round(["a", "b", "c"], 1, 2), tasks_of_round(["a", "b", "c"], 2, 2)
    (['c', 'a'], ['b', 'c'])
    """
    if count is None or count >= len(tasks):
        return list(tasks)
    chosen = []
    for position in range((round - 1) * count, round * count):
        order = random.Random(f"pass {position // len(tasks)}").sample(tasks, len(tasks))
        chosen.append(order[position % len(tasks)])
    return list(dict.fromkeys(chosen))


def groups_of_round(
    trajectories: TrajectorySet, tasks: Sequence[str], round: int
) -> dict[str, list[Trajectory]]:
    """The student's rollouts of a round by the state they start from, each group by id."""
    groups: dict[str, list[Trajectory]] = {}
    for item in rollouts_of_round(trajectories, tasks, round):
        start = str(item.start) if item.start else f"{item.task}@0"
        groups.setdefault(start, []).append(item)
    return groups


def step_rewards(item: Trajectory, options: GroupOptions) -> list[float]:
    """The reward of each own step: the outcome at the last one, minus penalties."""
    penalty = options.invalid_action_penalty
    rewards = [-penalty if is_format_error(step.action) else 0.0 for step in item.steps] or [0.0]
    rewards[-1] += float(item.success) if options.outcome == "success" else item.reward or 0.0
    return rewards


def outcome_advantages(group: Sequence[Trajectory], options: GroupOptions) -> dict[str, float]:
    """(R − mean) / F of each rollout of a group, by id; R is the sum of its step rewards.

    F is the sample standard deviation or 1. The only rollout of a group has the advantage 0; so
    does the only step if the mean is over steps.

    Worked example (rewards 1, 0, 0, 1; mean 0.5): the advantages are 0.5, −0.5, −0.5, 0.5 divided
    by 1, or by the deviation 0.577.
    """
    returns = {item.id: sum(step_rewards(item, options)) for item in group}
    counts = {item.id: len(item.steps) if options.mean == "steps" else 1 for item in group}
    values = [returns[name] for name in returns for _ in range(counts[name])]
    if len(values) < 2:
        return dict.fromkeys(returns, 0.0)
    mean, scale = _mean_and_scale(values, options.scale)
    return {name: (value - mean) / scale for name, value in returns.items()}


def anchor_advantages(
    anchors: Mapping[Hashable, Sequence[tuple[str, int]]],
    returns: Mapping[tuple[str, int], float],
    scale: Scale,
) -> dict[tuple[str, int], float]:
    """(R_t − mean) / F of each step among the steps with the same anchor.

    Steps are (trajectory id, index). A step that shares its anchor with no other has the advantage
    0.
    """
    found: dict[tuple[str, int], float] = {}
    for steps in anchors.values():
        if len(steps) < 2:
            found |= dict.fromkeys(steps, 0.0)
            continue
        mean, divisor = _mean_and_scale([returns[step] for step in steps], scale)
        found |= {step: (returns[step] - mean) / divisor for step in steps}
    return found


def discounted_returns(rewards: Sequence[float], discount: float) -> list[float]:
    """Σ_k discount^k r_{t+k} for each t.

    >>> discounted_returns([0.0, 0.0, 1.0], 0.5)
    [0.25, 0.5, 1.0]
    """
    returns: list[float] = []
    for reward in reversed(rewards):
        returns.append(reward + (discount * returns[-1] if returns else 0.0))
    return returns[::-1]


def group_acts(
    groups: Mapping[str, Sequence[Trajectory]],
    advantages_of: Callable[[Sequence[Trajectory]], Mapping[str, float]],
) -> list[Acts]:
    """The acts of all groups; every step of a rollout has its rollout's advantage."""
    return [
        acts_of(item, name, [advantages[item.id]] * len(item.steps))
        for name, group in groups.items()
        for advantages in [advantages_of(group)]
        for item in group
    ]


def acts_of(item: Trajectory, group: str, advantages: Sequence[float]) -> Acts:
    """The acts of a rollout with one advantage for each of its own steps."""
    return Acts(
        id=item.id,
        task=item.task,
        trajectory=item.id,
        group=group,
        advantages=(*(0.0,) * item.first, *advantages),
    )


def select_acts(
    acts: Sequence[Acts],
    groups: Mapping[str, Sequence[Trajectory]],
    trajectories: TrajectorySet,
    tasks: Sequence[str],
    round: int,
) -> Selection:
    """A selection of the acts that have an advantage other than 0, with counts for the report.

    `groups.mixed`, `groups.won` and `groups.lost` count groups with both outcomes, and those whose
    rollouts were all won or all lost. `tasks.unsolved` counts tasks that were never won from their
    start.
    """
    used = [each for each in acts if any(each.advantages)]
    outcomes = [{item.success for item in group} for group in groups.values()]
    solved = {
        item.task
        for item in trajectories
        if item.success and item.start is None and item.round <= round
    }
    counts = {
        "acts": len(used),
        "examples": 0,
        "groups.lost": outcomes.count({False}),
        "groups.mixed": outcomes.count({True, False}),
        "groups.won": outcomes.count({True}),
        "tasks.unsolved": len({*tasks} - solved),
    }
    return Selection((), counts, acts=tuple(used))


def _mean_and_scale(values: Sequence[float], scale: Scale) -> tuple[float, float]:
    if min(values) == max(values):  # their sum, divided, may differ from them in the last bit
        return values[0], 1.0
    mean = sum(values) / len(values)
    if scale == "one":
        return mean, 1.0
    deviation = sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return mean, deviation + _EPSILON
