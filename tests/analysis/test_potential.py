"""Potential: counts of what the first rollouts show."""

from __future__ import annotations

from eef.analysis.potential import measure_potential
from eef.trajectory import Author, StateRef, Step, Trajectory, TrajectorySet

STEP = Step(observation="", completion="Action: go", action="go")


def rollout(name, task, *, won, start=None, round=1, steps=2, status="terminated"):
    role = "expert" if round == 0 else "student"
    return Trajectory(
        id=name,
        task=task,
        author=Author(role, role),
        steps=(STEP,) * steps,
        final_observation="",
        status=status,
        reward=None if status == "error" else float(won),
        success=won,
        start=start,
        round=round,
        error="lost" if status == "error" else None,
        error_kind="policy" if status == "error" else None,
    )


def test_hard_tasks_are_taught_or_lost_and_some_of_the_lost_are_opened():
    """Four tasks: easy; hard and won by the expert; hard and opened; hard and never won."""
    experts = [
        rollout("e1", "t1", won=False, round=0, steps=4),
        rollout("e2", "t2", won=True, round=0, steps=3),
        rollout("e3", "t3", won=False, round=0, steps=6),
        rollout("e4", "t4", won=False, round=0, steps=3),
    ]
    starts = TrajectorySet(
        [
            *experts,
            *(
                rollout(f"s{task}{i}", f"t{task}", won=task == 1 and i == 0)
                for task in (1, 2, 3, 4)
                for i in range(6)
            ),
            rollout("late", "t3", won=True, round=2),
            rollout("failed", "t4", won=False, status="error"),
        ]
    )
    branches = TrajectorySet(
        [
            *experts,
            rollout("b1", "t1", won=True, start=StateRef("e1", 2)),
            rollout("b3", "t3", won=True, start=StateRef("e3", 5)),
            rollout("b3 too", "t3", won=False, start=StateRef("e3", 1)),
            rollout("b4", "t4", won=False, start=StateRef("e4", 1)),
        ]
    )
    found = measure_potential(starts, branches, ["t1", "t2", "t3", "t4", "never played"])
    assert (found.tasks, found.hard, found.taught, found.lost, found.opened) == (4, 3, 1, 2, 1)
    assert (found.expert_rate, found.student_rate, found.tries) == (0.25, 1 / 24, 6.0)
    assert (found.branch_rate, found.length, found.failure) == (0.5, 4.0, 13 / 3)
    assert found.share(found.opened) == 0.25
    assert found.missed == 0
    assert found.detour == 7 / 5 - 1, "t1: 2 + 2 steps instead of 2; t2: the expert's 3 in both"


def test_nothing_played_has_no_potential():
    found = measure_potential(TrajectorySet(), TrajectorySet(), ["t1"])
    assert (found.tasks, found.hard, found.student_rate, found.length) == (0, 0, 0.0, 0.0)
