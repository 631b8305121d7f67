"""One trial of the laboratory: a method with one seed, through the real `plan` and `select`."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.laboratory.student import Actions, Student, chance_at
from benchmarks.laboratory.world import Place, Setting, World, action_of, advance, play
from eef.errors import MethodError
from eef.methods.base import Method
from eef.methods.eef import Eef
from eef.methods.registry import make_method
from eef.rollouts.budget import chunks
from eef.rollouts.settings import BudgetSettings
from eef.selection import PlannedState, Selection
from eef.trajectory import Author, StateRef, Trajectory, TrajectorySet
from eef.utils.seeds import derive_seed

METHODS: Mapping[str, Mapping[str, Any]] = {
    "rft6": {},
    "cap1": {"method": "rft6", "cap": 1},
    "eef": {},
    "no-recovery": {"method": "eef", "recovery": False},
    "suffix-only": {"method": "eef", "recovery": False, "expert_actions": "masked"},
    "own-failures": {"method": "eef", "branch_from": "student", "state_choice": "random"},
    "sft_all": {},
    "eef-rft": {"method": "eef", "examples": "rft"},
    "neutral-masked": {"method": "eef", "neutral": "masked"},
    "M1": {"method": "eef", "M": 1},
    "M2": {"method": "eef", "M": 2},
    "M8": {"method": "eef", "M": 8},
    "n3": {"method": "eef", "M": 1, "rollouts_per_state": 3, "label_rule": "majority"},
    "n2": {"method": "eef", "M": 2, "rollouts_per_state": 2},
    "pooled": {"method": "eef", "grid": "all"},
    "smoothed": {"method": "eef", "label_rule": "smoothed"},
    "smoothed-all": {"method": "eef", "label_rule": "smoothed", "grid": "all"},
    "stop-solved": {"method": "eef", "stop_branching": "solved"},
    "stop-hopeless": {"method": "eef", "stop_branching": "hopeless"},
    "stop-either": {"method": "eef", "stop_branching": "either"},
    "bisection": {"method": "eef", "state_choice": "bisection"},
    "uncertainty": {"method": "eef", "state_choice": "uncertainty"},
}
"""The methods and variants of the laboratory."""

_EXPERT, _STUDENT = Author("expert", "expert"), Author("student", "student")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of a trial. `won[task]` is the greedy outcome on a test task.

    `unsolved` counts training tasks without a solution after the last round, `steps` the student's
    own steps over all rounds, `rollouts` its rollouts. `labels` counts, over all rounds, segments
    by label, `<label>.false` those whose true label is another: a state is truly solvable if the
    student wins from it in half of all rollouts.
    """

    won: NDArray[np.bool_]
    unsolved: int
    rollouts: int
    steps: int
    labels: Counter[str]

    @property
    def win_rate(self) -> float:
        return float(self.won.mean())


@dataclass(frozen=True, slots=True)
class Start:
    """What all methods of a seed share: world, expert data, and the behavior-cloned student."""

    world: World
    tasks: tuple[str, ...]
    expert: tuple[Trajectory, ...]
    student: Student

    @classmethod
    def make(cls, setting: Setting, seed: int) -> Start:
        world = World.make(setting, seed)
        tasks = tuple(f"laboratory/{index}" for index in range(setting.tasks))
        expert = []
        for index, task in enumerate(tasks):
            steps, won, ended = world.expert_episode(index)
            expert.append(
                Trajectory(
                    id=f"expert/{index}",
                    task=task,
                    author=_EXPERT,
                    steps=tuple(steps),
                    final_observation="",
                    status="terminated" if ended else "truncated",
                    reward=float(won),
                    success=won,
                )
            )
        start = cls(world, tasks, tuple(expert), Student.untrained(world))
        trajectories = TrajectorySet(expert)
        try:
            selection = make_method("bc").select(trajectories, tasks, 0)
        except MethodError:  # the expert won nothing
            return start
        student = start.student.train(trained_actions(trajectories, selection), seed)
        return cls(world, tasks, tuple(expert), student)


def run_trial(
    start: Start,
    name: str,
    *,
    steps_per_round: int | None = None,
    options: Mapping[str, Any] | None = None,
    measure_labels: bool = False,
) -> Outcome:
    """A method from a shared start; a round's budget is in rollouts, or in the student's steps.

    `options` replace those of `METHODS`. Labels are compared with the truth if `measure_labels`.
    """
    setting = start.world.setting
    method = make_method(name, METHODS[name] if options is None else options)
    trajectories = TrajectorySet(start.expert)
    explorer = Explorer(start.world, trajectories)
    student, selection = start.student, None
    labels: Counter[str] = Counter()
    for round in range(1, setting.rounds + 1):
        explorer.explore(method, start.tasks, round, student, steps_per_round)
        if measure_labels and isinstance(method, Eef):
            labels += check_labels(explorer, method, start.tasks, round, student)
        try:
            selection = method.select(trajectories, start.tasks, round)
        except MethodError:  # nothing to train on yet
            continue
        seed = derive_seed(start.world.seed, round)
        student = student.train(trained_actions(trajectories, selection), seed)
    played = [item for item in trajectories if item.by_student]
    return Outcome(
        won=student.solved(),
        unsolved=selection.counts["tasks.unsolved"] if selection else setting.tasks,
        rollouts=len(played),
        steps=sum(len(item.steps) for item in played),
        labels=labels,
    )


class Explorer:
    """Plays planned states into a set of trajectories."""

    def __init__(self, world: World, trajectories: TrajectorySet) -> None:
        self.world, self.trajectories = world, trajectories
        self._places: dict[str, list[Place]] = {}

    def explore(
        self,
        method: Method[Any],
        tasks: Sequence[str],
        round: int,
        student: Student,
        steps_per_round: int | None,
    ) -> None:
        """Play a round of a method's plan, within its budget."""
        setting = self.world.setting
        budget = (
            BudgetSettings(tokens=steps_per_round)
            if steps_per_round
            else BudgetSettings(rollouts_per_task=setting.rollouts).of_round(setting.tasks)
        )
        branched = Counter(item.start for item in self.trajectories if item.start)
        costs = [0]
        plan = method.plan(self.trajectories, tasks, round)
        tables, numbers = student.tables(), Counter[str]()
        for chunk in chunks(plan, budget, 10, lambda count: costs[count], branched):
            for planned in chunk:
                for _ in range(planned.count):
                    rollout = self._play(planned, round, tables, numbers)
                    costs.append(costs[-1] + len(rollout.steps))

    def _play(
        self,
        planned: PlannedState,
        round: int,
        tables: Sequence[Sequence[Sequence[float]]],
        numbers: Counter[str],
    ) -> Trajectory:
        setting = self.world.setting
        state = str(planned.state) if planned.state else f"{planned.task}@0"
        name = f"round{round}/{state}#{numbers[state]}"
        numbers[state] += 1
        first = planned.state.t if planned.state else 0
        place = self.place(planned.state) if planned.state else Place()
        rows = tables[task_index(planned.task)]
        generator = random.Random(derive_seed(self.world.seed, name))
        steps, won, ended = play(
            lambda decision, _: rows[decision],  # the detour (-1) is the last row
            place,
            setting.step_limit - first,
            setting.length,
            setting.styles,
            generator,
        )
        if setting.label_flips and generator.random() < setting.label_flips:
            won = not won
        rollout = Trajectory(
            id=name,
            task=planned.task,
            author=_STUDENT,
            steps=tuple(steps),
            final_observation="",
            status="terminated" if ended else "truncated",
            reward=float(won),
            success=won,
            start=planned.state,
            round=round,
        )
        self.trajectories.add(rollout)
        return rollout

    def place(self, state: StateRef) -> Place:
        """The place of a state, by replaying the actions before it."""
        if state.trajectory not in self._places:
            places = [Place()]
            for item in self.trajectories.path(state.trajectory):
                places.append(advance(places[-1], action_of(item.step)))
            self._places[state.trajectory] = places
        return self._places[state.trajectory][state.t]


def task_index(task: str) -> int:
    return int(task.partition("/")[2])


def trained_actions(trajectories: TrajectorySet, selection: Selection) -> list[Actions]:
    """The actions with weight of each example."""
    found = []
    for example in selection.examples:
        path = zip(example.weights, trajectories.path(example.trajectory), strict=True)
        steps = [(weight, item.step) for weight, item in path if weight]
        if steps:
            decisions = [int(step.observation) for _, step in steps]
            actions = [action_of(step) for _, step in steps]
            found.append(
                Actions(
                    np.full(len(steps), task_index(example.task)),
                    np.array(decisions),
                    np.array(actions),
                    np.array([weight for weight, _ in steps]),
                )
            )
    return found


def check_labels(
    explorer: Explorer, method: Eef, tasks: Iterable[str], round: int, student: Student
) -> Counter[str]:
    """Segments by label, and the false ones, in the grids of a round."""
    found: Counter[str] = Counter()
    limit = explorer.world.setting.step_limit
    for task in tasks:
        grids = method.grids(explorer.trajectories, task, round)
        values = student.win_chances(task_index(task)) if grids else []
        for grid in grids.values():
            truth = [
                chance_at(values, explorer.place(StateRef(grid.trajectory, t)), limit - t) >= 0.5
                for t in grid.states
            ]
            for segment, before, after in zip(grid.segments(), truth, truth[1:], strict=False):
                label = "neutral" if before == after else "beneficial" if after else "harmful"
                found[segment.label] += 1
                found[f"{segment.label}.false"] += label != segment.label
    return found
