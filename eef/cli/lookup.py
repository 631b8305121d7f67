"""Lookup: what a name stands for in a run – a training example or a trajectory, and the place where it is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from eef.errors import ConfigError
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import EXPERT
from eef.selection import TrainingExample
from eef.trajectory import Trajectory, TrajectorySet


@dataclass(frozen=True, slots=True)
class Place:
    """Trajectories that stand together: those of a method (behind the experts'), or of one evaluation."""

    method: str
    round: int | None
    trajectories: TrajectorySet

    def __str__(self) -> str:
        return f"--method {self.method}" + ("" if self.round is None else f" --round {self.round}")


@dataclass(frozen=True, slots=True)
class Found:
    """What a name stands for in a place: a trajectory, and the training example made of it where that was asked for."""

    place: Place
    trajectory: Trajectory
    example: TrainingExample | None = None


def _methods(run: RunDirectory, method: str | None) -> list[str]:
    known = list(dict.fromkeys(stage.method for stage in run.stages))
    if method is not None and method not in known:
        raise ConfigError(f"this run has no method `{method}`", hint=f"it has: {', '.join(known)}")
    return known if method is None else [method]


def find_examples(
    run: RunDirectory, name: str, method: str | None, round: int | None
) -> Iterator[Found]:
    """The training examples with an id; methods and rounds may each have one."""
    wanted = _methods(run, method)
    for stage in run.stages:
        if stage.kind != "select" or stage.method not in wanted or round not in (None, stage.round):
            continue
        selection = run.selection(stage.method, stage.round)
        for example in selection.examples if selection else ():
            if example.id == name:
                place = Place(stage.method, stage.round, run.trajectories(stage.method))
                yield Found(place, place.trajectories[example.trajectory], example)


def find_trajectories(
    run: RunDirectory, name: str, method: str | None, round: int | None
) -> Iterator[Found]:
    """The trajectories with an id, each in the first place that holds it."""
    seen: set[tuple[str, int | None]] = set()
    for place in places(run, method, round):
        if name in place.trajectories:
            trajectory = place.trajectories[name]
            key = (
                EXPERT if trajectory.by_expert and place.round is None else place.method,
                place.round,
            )
            if key not in seen:
                seen.add(key)
                yield Found(place, trajectory)


def places(run: RunDirectory, method: str | None, round: int | None) -> Iterator[Place]:
    wanted = _methods(run, method)
    for name in wanted:
        yield Place(name, None, run.trajectories(name))
    for stage in run.stages:
        if stage.kind == "evaluate" and stage.method in wanted and round in (None, stage.round):
            yield Place(
                stage.method, stage.round, run.evaluation_rollouts(stage.method, stage.round)
            )


def examples_of(run: RunDirectory, item: Found) -> Iterator[TrainingExample]:
    """The training examples made of a trajectory, in all rounds of its method."""
    for stage in run.stages:
        selection = run.selection(stage.method, stage.round) if stage.kind == "select" else None
        for example in selection.examples if selection else ():
            if example.trajectory == item.trajectory.id and stage.method == item.place.method:
                yield example
