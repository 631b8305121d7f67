"""Builders of training examples, preference pairs and selections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from eef.errors import MethodError
from eef.methods.base import Configured
from eef.methods.queries import (
    check_experts,
)
from eef.selection import PlannedState, PreferencePair, Selection, TrainingExample
from eef.trajectory import StateRef, Trajectory, TrajectorySet


def plan_task(task: str, states: Sequence[StateRef], each: int) -> list[PlannedState]:
    """`each` rollouts from a task's start and from each of its states."""
    return [PlannedState(task, state, each) for state in (None, *states)]


def path_example(item: Trajectory, prompt_suffix: str = "") -> TrainingExample:
    """The example which trains every action of an episode that was played from the task's start, but for those that the
    data it was imported from masks."""
    return suffix_example(item, 0, prompt_suffix=prompt_suffix)


def suffix_example(
    item: Trajectory,
    state: int,
    *,
    end: int | None = None,
    reason: str | None = None,
    prompt_suffix: str = "",
) -> TrainingExample:
    """The example which shows a path up to `state`, trains the steps from there (up to `end`), and no other.

    `state` lies in the trajectory's own steps. They weigh 1, or what the data they were imported from gives them. The
    reason is who made the path and how it ended (`student-win`, `expert-failure` …) unless one is given.
    """
    who, how = "expert" if item.by_expert else "student", "win" if item.success else "failure"
    end = item.length if end is None else end
    steps = [
        apply_step_weight(1.0, reason or f"{who}-{how}", item.steps[t - item.first].weight)
        if max(state, item.first) <= t < end
        else (0.0, "context")
        for t in range(item.length)
    ]
    return TrainingExample(
        id=f"{item.id}@{state}",
        task=item.task,
        trajectory=item.id,
        state=state,
        prompt_suffix=prompt_suffix,
        weights=tuple(weight for weight, _ in steps),
        reasons=tuple(reason for _, reason in steps),
        evidence=(item.id,),
    )


def apply_step_weight(weight: float, reason: str, given: float) -> tuple[float, str]:
    """(weight, reason) of a step, scaled by the weight it was imported with."""
    return weight * given, reason if given else "masked"


def make_pair(chosen: TrainingExample, rejected: TrainingExample) -> PreferencePair:
    """The pair of two examples from the same state."""
    return PreferencePair(
        id=f"{chosen.id} > {rejected.id}", task=chosen.task, chosen=chosen, rejected=rejected
    )


def select_episodes(
    method: Configured[Any],
    trajectories: TrajectorySet,
    tasks: Sequence[str],
    episodes_of: Callable[[str], Iterable[Trajectory]],
) -> Selection:
    """The whole paths of each task's `episodes_of(task)`. MethodError for an unknown expert, or where there is none."""
    check_experts(trajectories, method.options.bc_experts)
    examples = [path_example(episode) for task in tasks for episode in episodes_of(task)]
    return make_selection(method.name, examples, tasks)


def make_selection(
    method: str,
    examples: Sequence[TrainingExample],
    tasks: Sequence[str],
    counts: Mapping[str, int] | None = None,
    pairs: Sequence[PreferencePair] = (),
) -> Selection:
    """The examples and pairs, with counts for the report beside the method's own; MethodError where there are none.

    `tasks.unsolved` have no example (nor chosen way) from their start; `examples.<reason>` train at least one step
    for that reason; `steps.<reason>` is how many steps are trained for it.
    """
    if not examples and not pairs:
        raise MethodError(
            f"method `{method}` has nothing to train on: no win in {len(tasks)} tasks, or none that fits its options",
            hint="check the expert's trajectories, the method's options and the environment's success threshold",
        )
    total = Counter(counts or {})
    total["examples"] = len(examples)
    if pairs:
        total["pairs"] = len(pairs)
    ways = (*examples, *(pair.chosen for pair in pairs))
    total["tasks.unsolved"] = len(
        set(tasks) - {example.task for example in ways if example.state == 0}
    )
    for example in examples:
        steps = zip(example.reasons, example.weights, strict=True)
        trained = [reason for reason, weight in steps if weight > 0]
        total.update(f"steps.{reason}" for reason in trained)
        total.update(f"examples.{reason}" for reason in set(trained))
    return Selection(tuple(examples), dict(sorted(total.items())), tuple(pairs))
