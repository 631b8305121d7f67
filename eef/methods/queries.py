"""Queries on trajectories that methods share: episodes, wins, distinct action sequences.

An *episode* is a trajectory that starts at its task's start. Failed rollouts (status "error") are
never returned.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from eef.config import unknown_name
from eef.errors import MethodError
from eef.trajectory import Trajectory, TrajectorySet


def expert_episodes(
    trajectories: TrajectorySet, task: str, experts: Sequence[str] | None = None
) -> list[Trajectory]:
    """The experts' episodes of a task, won or lost, by id.

    `experts` are the names of the experts to consider; None means all.
    """
    found = [
        item
        for item in trajectories.of_task(task)
        if item.by_expert
        and item.start is None
        and item.status != "error"
        and (experts is None or item.author.name in experts)
    ]
    return sorted(found, key=lambda item: item.id)


def student_episodes(trajectories: TrajectorySet, task: str, rounds: range) -> list[Trajectory]:
    """The student's episodes of a task, won or lost, by round and id."""
    found = [
        item
        for item in trajectories.of_task(task)
        if item.by_student
        and item.start is None
        and item.status != "error"
        and item.round in rounds
    ]
    return sorted(found, key=lambda item: (item.round, item.id))


def rollouts_of_round(
    trajectories: TrajectorySet, tasks: Sequence[str], round: int
) -> list[Trajectory]:
    """The rollouts of a round by any player and from any state, by task and id."""
    return [
        item
        for task in tasks
        for item in sorted(trajectories.of_task(task), key=lambda item: item.id)
        if not item.by_expert and item.round == round and item.status != "error"
    ]


def expert_wins(
    trajectories: TrajectorySet, task: str, experts: Sequence[str] | None
) -> list[Trajectory]:
    """The experts' won episodes of a task, each sequence of actions once."""
    episodes = expert_episodes(trajectories, task, experts)
    return distinct_by_actions(trajectories, [item for item in episodes if item.success])


def winning_trajectories(
    trajectories: TrajectorySet, task: str, rounds: range, experts: Sequence[str] | None
) -> list[Trajectory]:
    """The wins of a task: the student's wins in `rounds`, then the experts' wins.

    The student's wins include those that branch from an episode, but not those that branch from a
    branch.
    """
    student = [
        item
        for item in trajectories.of_task(task)
        if item.by_student
        and item.success
        and item.round in rounds
        and (item.start is None or trajectories[item.start.trajectory].start is None)
    ]
    return student + [item for item in expert_episodes(trajectories, task, experts) if item.success]


def expert_step_count(win: Trajectory) -> int:
    """The number of steps of a win's path that the student did not play in that rollout.

    0 for the student's own episode, the length of the prefix for a branch, and the whole length for
    an expert's win.
    """
    return win.length if win.by_expert else win.first


def least_expert_first(win: Trajectory) -> tuple[int, int, str]:
    """Sort key: fewest expert steps (the student's own wins lead), then shortest, then id."""
    return expert_step_count(win), win.length, win.id


def wins_from_start(trajectories: TrajectorySet, wins: Iterable[Trajectory]) -> list[Trajectory]:
    """The wins that are episodes, the student's own first, each sequence of actions once."""
    episodes = [win for win in wins if win.by_expert or win.first == 0]
    return distinct_by_actions(trajectories, sorted(episodes, key=least_expert_first))


def distinct_by_actions(
    trajectories: TrajectorySet, items: Iterable[Trajectory]
) -> list[Trajectory]:
    """The trajectories in their order, each sequence of actions once."""
    first: dict[tuple[str, ...], Trajectory] = {}
    for item in items:
        first.setdefault(actions_of(trajectories, item.id), item)
    return list(first.values())


def actions_of(trajectories: TrajectorySet, trajectory_id: str) -> tuple[str, ...]:
    """The actions along a trajectory's path."""
    return tuple(item.step.action for item in trajectories.path(trajectory_id))


def check_experts(
    trajectories: TrajectorySet, names: Sequence[str] | None, option: str = "bc_experts"
) -> None:
    """MethodError if an option names an expert that has played nothing."""
    known = sorted({item.author.name for item in trajectories if item.by_expert})
    for name in names or ():
        if name not in known:
            problem = unknown_name("expert", name, known)
            raise MethodError(f"`{option}`: {problem.message}", hint=problem.hint)
