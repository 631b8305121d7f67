"""Story: the failed expert trajectory of a run that shows best what exploring it taught, with what it proves.

Between results and page: chooses a trajectory, its grid and the training examples made from it; `storyboard` draws
them.
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

EASY_TO_READ = 8  # steps


@dataclass(frozen=True, slots=True)
class Story:
    """A failed expert trajectory, what was measured along it in a round, and the examples that came of it.

    `trajectories` hold the rollouts which the grid names; `failures` is how many failed trajectories there were.
    """

    method: str
    round: int
    expert: Trajectory
    grid: OutcomeGrid
    examples: tuple[TrainingExample, ...]
    trajectories: TrajectorySet
    failures: int


def telling_story(run: RunData) -> Story | None:
    """The most telling failed trajectory of all rounds; None where no method explored one.

    Telling is, in this order: helpful and harmful segments both; a recovery state that was given a solution; a
    solution at all; a length that is easy to read. Among equals the earliest round, then the first by id.
    """
    return max(_stories(run), key=_how_telling, default=None)


def _stories(run: RunData) -> Iterator[Story]:
    for name, method in run.methods.items():
        if not isinstance(method, Eef):
            continue
        trajectories = run.trajectories(name)
        failed = sorted(
            (item for item in trajectories if _has_failed(item)), key=lambda item: item.id
        )
        for round in range(1, run.recipe.rounds + 1):
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
                yield Story(name, round, expert, grid, examples, trajectories, len(failed))


def _has_failed(item: Trajectory) -> bool:
    return item.by_expert and item.status != "error" and not item.success and item.length > 0


def _comes_from(trajectories: TrajectorySet, example: TrainingExample, expert: Trajectory) -> bool:
    """Whether an example's path begins with steps of the expert's trajectory."""
    start = trajectories[example.trajectory].start
    return start is not None and start.trajectory == expert.id


def _how_telling(story: Story) -> tuple[int, bool, bool, int]:
    labels = {segment.label for segment in story.grid.segments()}
    return (
        len(labels & {"beneficial", "harmful"}),
        any(example.state > 0 for example in story.examples),
        bool(story.examples),
        -abs(story.expert.length - EASY_TO_READ),
    )
