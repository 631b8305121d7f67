"""Exploring Expert Failures (EEF, arXiv 2504.13145): explore from inside the experts' failures too.

`plan`: every task's start and M states of each failed expert trajectory. `select`: the important states are
every start and every state that needs recovery (`eef.labels`); each is given a *solution*, a win whose path
leads through it, of which the actions behind the state are trained. The expert's actions in a solution are
trained like the student's; those of harmful segments stay visible and are never trained.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from eef.config import parse_settings
from eef.labels import OkGrid, OkRule, branch_points, is_expert, measure_grid
from eef.methods.base import (
    MethodOptions,
    by_least_expert,
    check_experts,
    distinct,
    expert_part,
    expert_trajectories,
    make_selection,
    whole_wins,
    winning,
)
from eef.selection import PlannedState, Selection, TrainingExample
from eef.trajectory import StateRef, Trajectory, TrajectorySet


class EefOptions(MethodOptions):
    """Options of `eef`; the defaults are the paper's where it speaks, else the plainest reading."""

    M: int = Field(default=5, ge=0)
    """States inside an expert trajectory that are played on from."""

    rollouts_per_state: int = Field(default=1, ge=1)
    """Rollouts from each state, the task's start included, a round."""

    ok_rule: OkRule = "any"
    """The student wins from a state if `any` rollout does, or the `majority`: a win rate of 0.5 or more."""

    expert_states: Literal["failed", "all"] = "failed"
    """Which expert trajectories are played on from."""

    state_choice: Literal["even", "bisection", "uncertainty"] = "even"
    """How the M states are chosen: evenly spaced. The others are not available."""

    fill: Literal["none", "start"] = "none"
    """`start`: rollouts from a task's start make up for the states it lacks, so that every task gets
    rollouts_per_state × (1 + M × experts) rollouts a round: with one expert, those of RFT × (1 + M)."""

    grid: Literal["round", "all"] = "round"
    """Label the expert's actions by the rollouts of this round, or of all rounds up to it."""

    accumulate: Literal["all", "round"] = "all"
    """Take solutions from the student's wins of all rounds, or of this one; experts' wins always count."""

    solution: Literal["nearest", "newest", "all"] = "nearest"
    """Which solution when there are several: that with least of the expert, then shortest; one of the latest
    round; or all n, each with weight 1/n. Where the student won from the very state, only such wins count."""

    examples: Literal["one", "rft"] = "one"
    """For a task's start: one solution (`solution`), or all wins from the start, as `rft` trains on."""

    neutral: Literal["kept", "masked"] = "kept"
    """Whether an expert's neutral actions inside a solution are trained. Kept by default: the method weighs
    every action of a solution by 1, and without them the student does not get to where it can win."""

    weights: Literal["one", "value", "reward"] = "one"
    """Weight of a trained action. `one`: 1; `value`: an expert's action weighs what its segment adds to the
    win rate, others 1; `reward`: exp((r - 1) / reward_temperature), r the final reward of the win."""

    reward_temperature: float | None = Field(default=None, gt=0)
    """Temperature of `weights = "reward"`, 1 when left out."""

    @field_validator("state_choice")
    @classmethod
    def _available(cls, value: str) -> str:
        if value != "even":
            raise ValueError(f"`{value}` is not available; states are chosen evenly spaced (`even`)")
        return value

    @model_validator(mode="after")
    def _temperature_has_effect(self) -> EefOptions:
        if self.reward_temperature is not None and self.weights != "reward":
            raise ValueError('`reward_temperature` has no effect without `weights = "reward"`')
        return self


@dataclass(frozen=True, slots=True)
class _Evidence:
    """What is known of one task after a round: its wins (D+) and the grids of the trajectories explored."""

    trajectories: TrajectorySet
    wins: tuple[Trajectory, ...]
    grids: Mapping[str, OkGrid]

    def through(self, state: StateRef | None) -> list[Trajectory]:
        """The wins whose path leads through a state of an expert trajectory; None is the task's start.

        Through an expert's state lead the student's wins from it and from later states, and the expert's own.
        """
        if state is None:
            return list(self.wins)
        return [win for win in self.wins if _origin(win) == state.trajectory and expert_part(win) >= state.t]


@dataclass(frozen=True, slots=True)
class Eef:
    """See the module's head; `select` counts segments by label and states by recovery for the report."""

    name: str
    options: EefOptions

    Options: ClassVar[type[MethodOptions]] = EefOptions

    @classmethod
    def of(cls, name: str, options: Mapping[str, object]) -> Self:
        return cls(name, parse_settings(EefOptions, options, source=f"options.{name}"))

    def plan(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> list[PlannedState]:
        each = self.options.rollouts_per_state
        experts = max((len(expert_trajectories(trajectories, task)) for task in tasks), default=1)
        wanted = self.options.M * max(1, experts) if self.options.fill == "start" else 0
        plan = []
        for task in tasks:
            states = [
                StateRef(expert.id, t)
                for expert in self._explored(trajectories, task)
                for t in branch_points(expert, self.options.M)
            ]
            plan.append(PlannedState(task, None, each * (1 + max(0, wanted - len(states)))))
            plan += [PlannedState(task, state, each) for state in states]
        return plan

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        check_experts(trajectories, self.options.bc_experts)
        counts = Counter(dict.fromkeys(_COUNTS, 0))
        examples: list[TrainingExample] = []
        for task in tasks:
            evidence = self._evidence(trajectories, task, round)
            examples += self._solve_start(evidence)
            for grid in evidence.grids.values():
                counts.update(f"segments.{segment.label}" for segment in grid.segments())
                for t in grid.recovery_states():
                    solved = self._solve(evidence, StateRef(grid.trajectory, t))
                    counts.update({"states.recovery": 1, "states.recovered": int(bool(solved))})
                    examples += solved
        return make_selection(self.name, _unique(trajectories, examples), tasks, counts)

    def measure(self, trajectories: TrajectorySet, expert: Trajectory, round: int) -> OkGrid:
        """The grid along an expert trajectory from which `select` labels its actions in a round."""
        return measure_grid(
            trajectories, expert, branch_points(expert, self.options.M),
            rounds=_rounds(self.options.grid, round), rule=self.options.ok_rule,
        )

    def _explored(self, trajectories: TrajectorySet, task: str) -> list[Trajectory]:
        experts = expert_trajectories(trajectories, task)
        return [item for item in experts if self.options.expert_states == "all" or not item.success]

    def _evidence(self, trajectories: TrajectorySet, task: str, round: int) -> _Evidence:
        explored = self._explored(trajectories, task)
        grids = {expert.id: self.measure(trajectories, expert, round) for expert in explored}
        wins = winning(trajectories, task, _rounds(self.options.accumulate, round), self.options.bc_experts)
        return _Evidence(trajectories, tuple(wins), grids)

    def _solve_start(self, evidence: _Evidence) -> list[TrainingExample]:
        """The examples for a task's start; no win at all leaves the task for a later round."""
        whole = whole_wins(evidence.trajectories, evidence.wins) if self.options.examples == "rft" else []
        if whole:
            return [self._example(evidence, win, 0, 1.0) for win in whole]
        return self._solve(evidence, None)

    def _solve(self, evidence: _Evidence, state: StateRef | None) -> list[TrainingExample]:
        """The examples for one important state, empty where no win leads through it."""
        t = state.t if state else 0
        candidates = evidence.through(state)
        own = [win for win in candidates if expert_part(win) == t]
        wins = distinct(evidence.trajectories, sorted(own or candidates, key=self._preference))
        chosen = wins if self.options.solution == "all" else wins[:1]
        return [self._example(evidence, win, t, 1 / len(chosen)) for win in chosen]

    def _preference(self, win: Trajectory) -> tuple[int, tuple[int, int, str]]:
        return -win.round if self.options.solution == "newest" else 0, by_least_expert(win)

    def _example(self, evidence: _Evidence, win: Trajectory, state: int, share: float) -> TrainingExample:
        """A win's path with weight 0 before `state`; `share` scales the weights behind it."""
        grid = evidence.grids.get(_origin(win))
        steps = [self._weigh(grid, win, t) if t >= state else (0.0, "context") for t in range(win.length)]
        scale = share * self._reward_weight(win)
        proof = grid.rollouts_between(state, expert_part(win)) if grid else ()
        return TrainingExample(
            id=f"{win.id}@{state}", task=win.task, trajectory=win.id, state=state,
            weights=tuple(scale * weight for weight, _ in steps),
            reasons=tuple(reason for _, reason in steps),
            evidence=tuple(dict.fromkeys((win.id, *proof))),
        )

    def _weigh(self, grid: OkGrid | None, win: Trajectory, t: int) -> tuple[float, str]:
        """(weight, reason) of step `t` of a win: the student's is trained, the expert's goes by its segment.

        Where nothing was measured an expert's step is trained in the expert's own win alone.
        """
        if t >= expert_part(win):
            return 1.0, "student-win"
        segment = grid.segment_at(t) if grid else None
        if segment is None or segment.label == "unknown":
            return (1.0, "expert-win") if is_expert(win) else (0.0, "unknown")
        if segment.label == "harmful" or (segment.label == "neutral" and self.options.neutral == "masked"):
            return 0.0, segment.label
        return max(0.0, segment.gain) if self.options.weights == "value" else 1.0, segment.label

    def _reward_weight(self, win: Trajectory) -> float:
        if self.options.weights != "reward" or win.reward is None:
            return 1.0
        return math.exp((win.reward - 1.0) / (self.options.reward_temperature or 1.0))


_COUNTS = (
    "segments.beneficial", "segments.harmful", "segments.neutral", "segments.unknown",
    "states.recovery", "states.recovered",
)


def _rounds(which: Literal["all", "round"], round: int) -> range:
    return range(round if which == "round" else 0, round + 1)


def _origin(win: Trajectory) -> str:
    """The trajectory whose steps the expert's part of a win's path comes from."""
    return win.start.trajectory if win.start else win.id


def _unique(trajectories: TrajectorySet, examples: Sequence[TrainingExample]) -> list[TrainingExample]:
    """The examples that train something, each (task, actions, weights) once: experts may share a prefix."""
    first: dict[tuple[object, ...], TrainingExample] = {}
    for example in examples:
        actions = tuple(item.step.action for item in trajectories.path(example.trajectory))
        if any(example.weights):
            first.setdefault((example.task, actions, example.weights), example)
    return list(first.values())
