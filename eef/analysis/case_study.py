"""Case study: the most instructive failed expert trajectory of a run.

It comes with the outcomes measured along the trajectory and the training examples made from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from eef.methods.eef import Eef
from eef.methods.labels import OutcomeGrid
from eef.pipeline.run_directory import RunData
from eef.pipeline.stages import Stage
from eef.selection import TrainingExample
from eef.trajectory import Trajectory, TrajectorySet

READABLE_LENGTH = 8
"""Number of steps that is easy to read in a report."""


@dataclass(frozen=True, slots=True)
class CaseStudy:
    """A failed expert trajectory, its outcome grid of one round, and the examples made from it.

    `trajectories` contains the rollouts that the grid names. `failures` is the number of failed
    expert trajectories of the run.
    """

    method: str
    round: int
    expert: Trajectory
    grid: OutcomeGrid
    examples: tuple[TrainingExample, ...]
    trajectories: TrajectorySet
    failures: int


def find_case_study(run: RunData) -> CaseStudy | None:
    """The most instructive failed trajectory of all rounds; None if no method explored one.

    The criteria, in order: both beneficial and harmful segments; a recovery state with a solution;
    any solution; a length that is easy to read. Ties go to the earliest round, then to the first
    id.
    """
    return max(_case_studies(run), key=_instructiveness, default=None)


def _case_studies(run: RunData) -> Iterator[CaseStudy]:
    for name, method in run.methods.items():
        if not isinstance(method, Eef):
            continue
        trajectories = run.trajectories(name)
        failed = sorted(
            (item for item in trajectories if _has_failed(item)), key=lambda item: item.id
        )
        for round in range(1, run.rounds_of(name) + 1):
            selection = (
                run.selection(name, round) if run.is_done(Stage(name, round, "select")) else None
            )
            if selection is None:
                continue
            for expert in failed:
                grid = method.measure(trajectories, expert, round)
                examples = tuple(
                    item for item in selection.examples if _comes_from(trajectories, item, expert)
                )
                yield CaseStudy(name, round, expert, grid, examples, trajectories, len(failed))


def _has_failed(item: Trajectory) -> bool:
    return item.by_expert and item.status != "error" and not item.success and item.length > 0


def _comes_from(trajectories: TrajectorySet, example: TrainingExample, expert: Trajectory) -> bool:
    """Whether an example's path begins with steps of the expert's trajectory."""
    start = trajectories[example.trajectory].start
    return start is not None and start.trajectory == expert.id


def _instructiveness(case: CaseStudy) -> tuple[int, bool, bool, int]:
    labels = {segment.label for segment in case.grid.segments()}
    return (
        len(labels & {"beneficial", "harmful"}),
        any(example.state > 0 for example in case.examples),
        bool(case.examples),
        -abs(case.expert.length - READABLE_LENGTH),
    )
