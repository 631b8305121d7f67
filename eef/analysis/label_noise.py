"""Label noise: how often a state's label is false, measured against many more rollouts from the same states.

A label says whether the student wins from a state, and rests on a handful of rollouts. Here the student of a round
plays, say, 20 from each state of some of the trajectories that round explored. What most of them say is taken as the
truth, and it is counted how often n of them, drawn at random, would have said something else.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, NamedTuple

from eef.analysis.stats import chance_of_wins
from eef.errors import MethodError
from eef.methods.labels import LabelRule, count_wins
from eef.pipeline.pipeline import Pipeline
from eef.pipeline.run_directory import RunData
from eef.pipeline.stages import Stage
from eef.rollouts.explore import explore, rollout_specs
from eef.rollouts.runner import derive_seed
from eef.rollouts.store import Store
from eef.selection import PlannedState
from eef.trajectory import StateRef, TrajectorySet
from eef.utils.jsonl import read_json, write_json
from eef.utils.progress import OnProgress, ignore_progress
from eef.utils.records import Record

NOISE_FILE = "noise.json"


class StateCount(NamedTuple):
    """Rollouts from state `t` of a trajectory, and how many of them won."""

    trajectory: str
    t: int
    wins: int
    rollouts: int


class FalseRates(NamedTuple):
    """Part of the states whose label is false, and part of the segments between two states; and, of all segments that
    are labelled beneficial (harmful), the part that is not. None where there are none."""

    states: float
    segments: float | None
    beneficial: float | None
    harmful: float | None


@dataclass(frozen=True, slots=True)
class LabelNoise(Record):
    """What many rollouts from the states of a round have shown; states of a trajectory stand together, in order."""

    KIND: ClassVar[str] = "label noise"

    round: int
    states: tuple[StateCount, ...]

    def false_rates(self, n: int, rule: LabelRule) -> FalseRates:
        """Expected part of false labels when each state gets `n` rollouts and `rule` decides.

        True is what the majority of all rollouts says (a win rate of 0.5 or more is `ok`). The n are drawn without
        replacement from all of them, independently for each state; a segment's label is false unless both its ends
        make it what the true ends make it, so that two false ends of a neutral segment cancel out.

        Worked example. Two states with 20 rollouts, 20 and 10 of which won: both are truly `ok`, the segment between
        them neutral. With one rollout the first is never false and the second in half of the cases: then the segment is
        labelled harmful, which it never is.

        >>> LabelNoise(1, (StateCount("e", 0, 20, 20), StateCount("e", 3, 10, 20))).false_rates(1, "any")
        FalseRates(states=0.25, segments=0.5, beneficial=None, harmful=1.0)
        """
        chances = [_chance_ok(state, n, rule) for state in self.states]
        truths = [2 * state.wins >= state.rollouts for state in self.states]
        wrong = [
            1 - chance if truth else chance for chance, truth in zip(chances, truths, strict=True)
        ]
        ends = [
            (left, right)
            for left, right in pairwise(range(len(self.states)))
            if self.states[left].trajectory == self.states[right].trajectory
        ]
        parts = [
            _chance_false(chances[left], chances[right], truths[left], truths[right])
            for left, right in ends
        ]
        rising = [
            ((1 - chances[left]) * chances[right], truths[right] > truths[left])
            for left, right in ends
        ]
        falling = [
            (chances[left] * (1 - chances[right]), truths[right] < truths[left])
            for left, right in ends
        ]
        return FalseRates(
            sum(wrong) / len(wrong),
            sum(parts) / len(parts) if parts else None,
            _part_false(rising),
            _part_false(falling),
        )


def _part_false(labelled: Sequence[tuple[float, bool]]) -> float | None:
    """Of segments that get a label with some chance, and are so in truth or not: the part of such labels that is
    false."""
    given = sum(chance for chance, _ in labelled)
    return sum(chance for chance, true in labelled if not true) / given if given > 0 else None


def _chance_ok(state: StateCount, n: int, rule: LabelRule) -> float:
    least = 1 if rule == "any" else (n + 1) // 2
    return chance_of_wins(state.wins, state.rollouts, n, least)


def _chance_false(before: float, after: float, truly_before: bool, truly_after: bool) -> float:
    """Chance that the labels of two ends, ok with these chances, do not make the segment what the true ones do."""
    if truly_before == truly_after:
        return before * (1 - after) + after * (1 - before)
    return 1 - (before * (1 - after) if truly_before else (1 - before) * after)


def measure_noise(
    pipeline: Pipeline,
    method: str,
    round: int,
    *,
    trajectories: int,
    rollouts: int,
    on_progress: OnProgress = ignore_progress,
) -> LabelNoise:
    """Play `rollouts` from the start and each planned state of `trajectories` experts' failures, drawn at random.

    The student is the one that explored in that round. What was played is kept and never played again; the result goes
    to `<run>/<method>/round<r>/noise.json`. MethodError where the method plays on from no expert's trajectory.
    """
    run, context = pipeline.run, pipeline.context
    stage = Stage(method, round, "explore")
    chosen = _draw(_planned(pipeline, stage), trajectories, run.recipe.seed)
    tasks = {task.id: task for task in context.train_tasks}
    states = [
        PlannedState(task, state, rollouts)
        for task, of_task in chosen
        for state in (None, *of_task)
    ]
    seed = derive_seed(run.recipe.seed, "noise")
    specs = rollout_specs(states, tasks, owner=f"{method}/label-noise", round=round, seed=seed)
    with Store.open(run.folder(stage) / "noise", base=run.trajectories("expert")) as store:
        explore(
            specs,
            store,
            context.env,
            context.explorer(stage),
            context.parameters(stage),
            on_progress=on_progress,
        )
        counts = [_count(store.trajectories, of_task[0].trajectory, round) for _, of_task in chosen]
    noise = LabelNoise(round, tuple(count for of_one in counts for count in of_one))
    write_json(run.folder(stage) / NOISE_FILE, noise.to_record())
    return noise


def read_noise(run: RunData, method: str) -> LabelNoise | None:
    """The measurement of a method's first round that has one."""
    rounds = range(1, run.recipe.rounds + 1)
    paths = (run.folder(Stage(method, round, "explore")) / NOISE_FILE for round in rounds)
    path = next((path for path in paths if path.is_file()), None)
    return LabelNoise.from_record(read_json(path)) if path else None


def _planned(pipeline: Pipeline, stage: Stage) -> dict[str, tuple[str, list[StateRef]]]:
    """(task, states) by expert trajectory, as the round plans them."""
    known = pipeline.run.trajectories(stage.method)
    found: dict[str, tuple[str, list[StateRef]]] = {}
    for item in pipeline.context.plan(stage, known):
        if item.state is not None and known[item.state.trajectory].by_expert:
            found.setdefault(item.state.trajectory, (item.task, []))[1].append(item.state)
    if not found:
        raise MethodError(
            f"`{stage.method}` plays on from no expert's trajectory in round {stage.round}",
            hint="labels are measured of a method like `eef`",
        )
    return found


def _draw(
    planned: dict[str, tuple[str, list[StateRef]]], count: int, seed: int
) -> Sequence[tuple[str, list[StateRef]]]:
    """Some of the trajectories; each task once, since its start is measured with them."""
    by_task = {
        task: (task, sorted(states, key=lambda state: state.t)) for task, states in planned.values()
    }
    return random.Random(seed).sample(sorted(by_task.values(), key=str), min(count, len(by_task)))


def _count(trajectories: TrajectorySet, expert: str, round: int) -> list[StateCount]:
    """The states of an expert's trajectory from which rollouts came to an end, the start first."""
    counts = count_wins(trajectories, trajectories[expert], [round])
    return [StateCount(expert, t, wins, played) for t, (wins, played) in counts.items() if played]
