"""Potential: an estimate from a run's first rollouts of what EEF can gain on its tasks.

It is measured when only behavior cloning has been trained, from the expert's episodes, some tries
of the student from every task's start, and one round of rollouts from inside the expert's failures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from eef.methods.queries import (
    expert_episodes,
    least_expert_first,
    student_episodes,
    winning_trajectories,
)
from eef.trajectory import TrajectorySet


@dataclass(frozen=True, slots=True, kw_only=True)
class Potential:
    """Counts over `tasks` training tasks.

    A *hard* task is one that the student did not win in any of its tries from the start. `taught`
    are the hard tasks that an expert won: behavior cloning and every method train on them. `lost`
    are the hard tasks whose experts all failed; `opened` are those of them that the student won
    from a state inside a failure at least once. Only EEF has an example of these. `missed` are the
    opposite: tasks whose experts failed, won in the tries from the start, but in none of the
    rollouts that EEF played instead.

    `detour` is how much longer EEF's solutions are than those with one win per task, on the tasks
    that both solve: 0.1 is a tenth. Longer solutions hold more needless steps, which are trained.

    `expert_rate` is the share of tasks an expert won, `student_rate` the student's win rate from
    the start, `tries` the mean number of its rollouts per task, `branch_rate` its win rate from
    inside the failures, `length` the mean number of steps of an expert's episode, and `failure` of
    a failed one.
    """

    tasks: int
    expert_rate: float
    student_rate: float
    tries: float
    hard: int
    taught: int
    lost: int
    opened: int
    missed: int
    detour: float
    branch_rate: float
    length: float
    failure: float

    def share(self, count: int) -> float:
        """A count as a share of all tasks."""
        return count / self.tasks


def measure_potential(
    starts: TrajectorySet,
    branches: TrajectorySet,
    tasks: Sequence[str],
    *,
    round: int = 1,
    experts: Sequence[str] | None = None,
) -> Potential:
    """The potential of tasks, from two methods' rollouts of a round by the same student.

    `starts` holds the experts' episodes and tries from the start (those of RFT×k), `branches` the
    rollouts from inside the failures (those of EEF). Tasks that were not tried are not counted.
    """
    won_by_expert, missed, hard, opened = 0, 0, set[str](), set[str]()
    solutions: list[tuple[int, int]] = []
    lengths, failures = [], []
    wins = tries = branch_wins = branched = played = 0
    taught: set[str] = set()
    for task in tasks:
        own = student_episodes(starts, task, range(round, round + 1))
        if not own:
            continue
        played += 1
        wins, tries = wins + sum(item.success for item in own), tries + len(own)
        episodes = expert_episodes(starts, task, experts)
        lengths += [item.length for item in episodes]
        failures += [item.length for item in episodes if not item.success]
        won = any(item.success for item in episodes)
        won_by_expert += won
        from_inside = [
            item
            for item in branches.of_task(task)
            if item.by_student and item.start and item.round == round and item.status != "error"
        ]
        branched += len(from_inside)
        branch_wins += sum(item.success for item in from_inside)
        plain, other = (
            sorted(
                winning_trajectories(each, task, range(round, round + 1), experts),
                key=least_expert_first,
            )
            for each in (starts, branches)
        )
        if plain and other:
            solutions.append((plain[0].length, other[0].length))
        missed += bool(plain) and not other
        if not any(item.success for item in own):
            hard.add(task)
            if won:
                taught.add(task)
            elif any(item.success for item in from_inside):
                opened.add(task)
    return Potential(
        tasks=played,
        expert_rate=won_by_expert / max(1, played),
        student_rate=wins / max(1, tries),
        tries=tries / max(1, played),
        hard=len(hard),
        taught=len(taught),
        lost=len(hard - taught),
        opened=len(opened),
        missed=missed,
        detour=sum(other for _, other in solutions) / max(1, sum(one for one, _ in solutions)) - 1
        if solutions
        else 0.0,
        branch_rate=branch_wins / max(1, branched),
        length=fmean(lengths) if lengths else 0.0,
        failure=fmean(failures) if failures else 0.0,
    )
