"""Label noise: how often a state's label is false, measured with many more rollouts from the state.

A label states whether the student wins from a state, and is based on a handful of rollouts. To
measure how reliable it is, the student that explored in a round plays, for example, 20 rollouts
from each state of some of the trajectories explored then. The majority of these is taken as the
true label, and compared with the label that n of them, drawn at random, would have given.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, NamedTuple

from eef.analysis.stats import chance_of_wins
from eef.errors import MethodError, StoreError
from eef.methods.labels import LabelRule, count_wins
from eef.pipeline.checks import check_tasks
from eef.pipeline.pipeline import Pipeline
from eef.pipeline.run_directory import RunData
from eef.pipeline.stages import Stage
from eef.rollouts.into_store import play_into_store
from eef.rollouts.specs import rollout_specs
from eef.rollouts.store import Store
from eef.selection import PlannedState
from eef.trajectory import StateRef, TrajectorySet
from eef.utils.jsonl import read_json, write_json
from eef.utils.progress import OnProgress, ignore_progress
from eef.utils.records import Record
from eef.utils.seeds import derive_seed

NOISE_FILE = "noise.json"


class StateCount(NamedTuple):
    """Rollouts from state `t` of a trajectory, and how many of them won."""

    trajectory: str
    t: int
    wins: int
    rollouts: int


class FalseRates(NamedTuple):
    """Shares of false labels, of all states and of all segments.

    `beneficial` and `harmful` are the false shares of these labels. None if there are no segments.
    """

    states: float
    segments: float | None
    beneficial: float | None
    harmful: float | None


@dataclass(frozen=True, slots=True)
class LabelNoise(Record):
    """The outcomes of many rollouts from the states of a round.

    The states of a trajectory are adjacent and in order.
    """

    KIND: ClassVar[str] = "label noise"

    round: int
    states: tuple[StateCount, ...]

    def false_rates(self, n: int, rule: LabelRule) -> FalseRates:
        """Expected shares of false labels if each state is labeled by `n` rollouts and `rule`.

        The true label of a state is that of the majority of all its rollouts: a win rate of 0.5 or
        more. The n rollouts are drawn from these without replacement, independently for each state.
        A segment's label is false if it differs from the label that the true labels of its two ends
        give, so two false ends of a neutral segment cancel out.

        Worked example. Two states have 20 rollouts each, with 20 and 10 wins. Both are truly
        solvable, and the segment between them is neutral. With one rollout, the first state's label
        is never false and the second's is false half of the time. The segment is then labeled
        harmful, falsely.

        >>> noise = LabelNoise(1, (StateCount("e", 0, 20, 20), StateCount("e", 3, 10, 20)))
        >>> noise.false_rates(1, "any")
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


def _part_false(labeled: Sequence[tuple[float, bool]]) -> float | None:
    """The false share of a label, given each segment's chance of getting it and its truth."""
    given = sum(chance for chance, _ in labeled)
    return sum(chance for chance, true in labeled if not true) / given if given > 0 else None


def _chance_ok(state: StateCount, n: int, rule: LabelRule) -> float:
    least = 1 if rule == "any" else (n + 1) // 2
    return chance_of_wins(state.wins, state.rollouts, n, least)


def _chance_false(before: float, after: float, truly_before: bool, truly_after: bool) -> float:
    """Chance of a false segment label, given its ends' chances of being solvable, and the truth."""
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
    """Measure the label noise of a method's round with rollouts of the student that explored in it.

    `rollouts` are played from the start and from each planned state of `trajectories` failed expert
    trajectories, drawn at random. They are stored, and not played again. The result is written to
    `<run>/<method>/round<r>/noise.json`. Raises MethodError if the method branches from no expert
    trajectory, StoreError if the environment has changed.
    """
    run, context = pipeline.run, pipeline.context
    stage = Stage(method, round, "explore")
    if context.acting(stage).kind != "alone" or run.methods[method].roles:
        raise MethodError(
            f"label noise cannot be measured with `{method}`: its rollouts depend on roles",
            hint="name a method without roles, such as `eef`",
        )
    check_tasks(context)
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
        play_into_store(
            specs,
            store,
            context.env,
            context.explorer(stage),
            context.parameters(stage),
            on_progress=on_progress,
        )
        counts = [_count(store.trajectories, of_task[0].trajectory, round) for _, of_task in chosen]
    noise = LabelNoise(round, tuple(count for of_one in counts for count in of_one))
    if not noise.states:
        raise StoreError(
            f"all {len(specs)} rollouts of the measurement failed",
            hint=f"`eef show {run.path}` states why; the same command plays them again",
        )
    write_json(run.folder(stage) / NOISE_FILE, noise.to_record())
    return noise


def read_noise(run: RunData, method: str) -> LabelNoise | None:
    """The measurement of the first round of a method that has one; None if no round has."""
    rounds = range(1, run.rounds_of(method) + 1)
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
        failures = [item for item in known if item.by_expert and not item.success]
        if not failures:
            hint = "the expert failed no task, so there are no labels to measure"
        elif not any(item.replayable for item in failures):
            hint = "none of the expert's failures can be replayed: import them with `--env`"
        else:
            hint = "name a method that does, such as `eef`"
        raise MethodError(
            f"`{stage.method}` branches from no expert trajectory in round {stage.round}", hint=hint
        )
    return found


def _draw(
    planned: dict[str, tuple[str, list[StateRef]]], count: int, seed: int
) -> Sequence[tuple[str, list[StateRef]]]:
    """Some of the trajectories, at most one per task, whose start is measured as well."""
    by_task = {
        task: (task, sorted(states, key=lambda state: state.t)) for task, states in planned.values()
    }
    return random.Random(seed).sample(sorted(by_task.values(), key=str), min(count, len(by_task)))


def _count(trajectories: TrajectorySet, expert: str, round: int) -> list[StateCount]:
    """The states of an expert trajectory with completed rollouts, the start first."""
    counts = count_wins(trajectories, trajectories[expert], [round])
    return [StateCount(expert, t, wins, played) for t, (wins, played) in counts.items() if played]
