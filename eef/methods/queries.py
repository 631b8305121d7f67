"""Queries on trajectories shared by all methods: wins, failures, distinct action sequences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from eef.config import nearest
from eef.errors import MethodError
from eef.trajectory import Trajectory, TrajectorySet


def expert_episodes(
    trajectories: TrajectorySet, task: str, experts: Sequence[str] | None = None
) -> list[Trajectory]:
    """The experts' whole episodes of a task, won or failed, by id; broken ones (status "error") left out.

    `experts` (without `expert:`) are those whose episodes count; everyone's for None.
    """
    found = [item for item in trajectories.of_task(task) if item.by_expert and item.start is None]
    return sorted(
        (
            item
            for item in found
            if item.status != "error" and (experts is None or _expert_name(item) in experts)
        ),
        key=lambda item: item.id,
    )


def student_episodes(trajectories: TrajectorySet, task: str, rounds: range) -> list[Trajectory]:
    """The student's episodes of a task from its start, won or lost, by round and id; broken ones left out."""
    found = [
        item
        for item in trajectories.of_task(task)
        if item.by_student
        and item.start is None
        and item.status != "error"
        and item.round in rounds
    ]
    return sorted(found, key=lambda item: (item.round, item.id))


def check_experts(
    trajectories: TrajectorySet, names: Sequence[str] | None, option: str = "bc_experts"
) -> None:
    """Refuse an option which names an expert that played nothing (MethodError)."""
    if names is None:
        return
    known = sorted({_expert_name(item) for item in trajectories if item.by_expert})
    for name in names:
        if name not in known:
            like = nearest(name, known)
            hint = (
                f"did you mean {like!r}?" if like else f"experts here: {', '.join(known) or 'none'}"
            )
            raise MethodError(
                f"`{option}` names {name!r}, of whom there is no trajectory", hint=hint
            )


def winning_trajectories(
    trajectories: TrajectorySet, task: str, rounds: range, bc_experts: Sequence[str] | None
) -> list[Trajectory]:
    """D+ of a task: the student's wins in `rounds`, from the start or inside a whole episode, and the experts'."""
    student = [
        item
        for item in trajectories.of_task(task)
        if item.by_student
        and item.success
        and item.round in rounds
        and (item.start is None or trajectories[item.start.trajectory].start is None)
    ]
    return student + [
        item for item in expert_episodes(trajectories, task, bc_experts) if item.success
    ]


def expert_step_count(win: Trajectory) -> int:
    """How many steps of a win's path an expert made: 0 from the task's start, all of an expert's own win."""
    return win.length if win.by_expert else win.first


def least_expert_first(win: Trajectory) -> tuple[int, int, str]:
    """Sort key: least of the expert first (so the student's own wins lead), then shortest, then by id."""
    return expert_step_count(win), win.length, win.id


def wins_from_start(trajectories: TrajectorySet, wins: Iterable[Trajectory]) -> list[Trajectory]:
    """The wins played from the task's start, the student's own first, each sequence of actions once."""
    whole = [win for win in wins if win.by_expert or win.first == 0]
    return distinct_by_actions(trajectories, sorted(whole, key=least_expert_first))


def actions_of(trajectories: TrajectorySet, win: Trajectory) -> tuple[str, ...]:
    return tuple(item.step.action for item in trajectories.path(win.id))


def distinct_by_actions(
    trajectories: TrajectorySet, wins: Iterable[Trajectory]
) -> list[Trajectory]:
    """The wins in their order, each sequence of actions once."""
    first: dict[tuple[str, ...], Trajectory] = {}
    for win in wins:
        first.setdefault(actions_of(trajectories, win), win)
    return list(first.values())


def _expert_name(trajectory: Trajectory) -> str:
    return trajectory.author.name
