"""Exploring Expert Failures (EEF, arXiv 2504.13145): explore from inside the experts' failures too.

`plan`: every task's start and M states of each failed expert trajectory. `select`: the important states are
every start and every state that needs recovery (`eef.methods.labels`); each is given a *solution*, a win whose path
leads through it, of which the actions behind the state are trained. The expert's actions in a solution are
trained like the student's; those of harmful segments stay visible and are never trained.

The arms that tell what of this does the work are options: `expert_actions = "masked"` and `recovery = false` leave the
expert's states as launch pads alone; `branch_from = "student"` takes the student's own failures instead of the expert's.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from eef.errors import MethodError
from eef.methods.base import Configured, MethodOptions
from eef.methods.examples import apply_step_weight, make_selection, plan_task
from eef.methods.labels import (
    LabelRule,
    OutcomeGrid,
    count_wins,
    measure_grid,
)
from eef.methods.queries import (
    check_experts,
    distinct_by_actions,
    expert_episodes,
    expert_step_count,
    least_expert_first,
    student_episodes,
    winning_trajectories,
    wins_from_start,
)
from eef.methods.state_choice import StateChoice, choose_states
from eef.selection import PlannedState, Selection, TrainingExample
from eef.trajectory import StateRef, Trajectory, TrajectorySet


class EefOptions(MethodOptions):
    """Options of `eef`; the defaults are the paper's where it speaks, else the plainest reading."""

    M: int = Field(default=5, ge=0)
    """States inside an expert trajectory that are played on from."""

    rollouts_per_state: int = Field(default=1, ge=1)
    """Rollouts from each state, the task's start included, a round."""

    label_rule: LabelRule = "any"
    """The student wins from a state if `any` rollout does, or the `majority`: a win rate of 0.5 or more."""

    experts: tuple[str, ...] | None = Field(default=None, strict=False, min_length=1)
    """Experts (without `expert:`) whose trajectories are played on from, and whose wins are trained on unless
    `bc_experts` names others; every expert's when left out."""

    expert_filter: Literal["failed", "all"] = "failed"
    """Which expert trajectories are played on from."""

    branch_from: Literal["expert", "student"] = "expert"
    """Whose trajectories are played on from: the experts', or instead of them one of the student's own failures of
    an earlier round for each task (the latest)."""

    state_choice: StateChoice = "even"
    """How the M states are chosen: `even`ly spaced; at `random`; by `bisection` for the last state the student wins
    from; those whose outcome is most open (`uncertainty`, p(1 - p)). The last two go by earlier rounds and begin
    evenly spaced."""

    expert_actions: Literal["trained", "masked"] = "trained"
    """Whether the actions of the trajectory played on from are trained where they lead to the student's win, or are
    a launch pad alone. An expert's own win is trained in either case."""

    recovery: bool = True
    """Train on solutions of the states that need recovery."""

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

    @model_validator(mode="after")
    def _temperature_has_effect(self) -> EefOptions:
        if self.reward_temperature is not None and self.weights != "reward":
            raise ValueError('`reward_temperature` has no effect without `weights = "reward"`')
        return self

    @model_validator(mode="after")
    def _own_failures_are_no_experts(self) -> EefOptions:
        if self.branch_from == "student" and (self.expert_filter == "all"):
            raise ValueError(
                '`expert_filter` has no effect with `branch_from = "student"`: no expert is played on from'
            )
        return self


@dataclass(frozen=True, slots=True)
class _Evidence:
    """What is known of one task after a round: its wins (D+) and the grids of the trajectories explored."""

    trajectories: TrajectorySet
    wins: tuple[Trajectory, ...]
    grids: Mapping[str, OutcomeGrid]

    def through(self, state: StateRef | None) -> list[Trajectory]:
        """The wins whose path leads through a state of an expert trajectory; None is the task's start.

        Through an expert's state lead the student's wins from it and from later states, and the expert's own.
        """
        if state is None:
            return list(self.wins)
        return [
            win
            for win in self.wins
            if _origin(win) == state.trajectory and expert_step_count(win) >= state.t
        ]


@dataclass(frozen=True, slots=True)
class Eef(Configured[EefOptions]):
    """See the module's head; `select` counts segments by label and states by recovery for the report."""

    Options: ClassVar[type[MethodOptions]] = EefOptions

    def plan(
        self, trajectories: TrajectorySet, tasks: Sequence[str], round: int
    ) -> list[PlannedState]:
        if self.options.branch_from == "expert":
            _refuse_text_alone(trajectories, self.options.experts)
        plan = []
        for task in tasks:
            states = [
                StateRef(origin.id, t)
                for origin in self._explored(trajectories, task, round)
                for t in self._states(trajectories, origin, round)
            ]
            plan += plan_task(task, states, self.options.rollouts_per_state)
        return plan

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        check_experts(trajectories, self.options.experts, "experts")
        check_experts(trajectories, self.options.bc_experts)
        counts = Counter(dict.fromkeys(_COUNTS, 0))
        examples: list[TrainingExample] = []
        for task in tasks:
            evidence = self._evidence(trajectories, task, round)
            examples += self._solve_start(evidence)
            for grid in evidence.grids.values():
                counts.update(f"segments.{segment.label}" for segment in grid.segments())
                for t in grid.recovery_states():
                    solved = (
                        self._solve(evidence, StateRef(grid.trajectory, t))
                        if self.options.recovery
                        else []
                    )
                    counts.update({"states.recovery": 1, "states.recovered": int(bool(solved))})
                    examples += solved
        return make_selection(self.name, _unique(trajectories, examples), tasks, counts)

    def grids(self, trajectories: TrajectorySet, task: str, round: int) -> dict[str, OutcomeGrid]:
        """The grid along each trajectory that a round played on from in a task, by the trajectory's id."""
        explored = self._explored(trajectories, task, round)
        return {origin.id: self.measure(trajectories, origin, round) for origin in explored}

    def measure(self, trajectories: TrajectorySet, expert: Trajectory, round: int) -> OutcomeGrid:
        """The grid along an expert trajectory from which `select` labels its actions in a round."""
        rounds = _rounds(self.options.grid, round)
        chosen = {t for each in rounds if each for t in self._states(trajectories, expert, each)}
        begun = {
            item.start.t
            for item in trajectories.of_task(expert.task)
            if item.start and item.start.trajectory == expert.id and item.round in rounds
        }
        # a budget may leave planned states out: segments then reach from one that was played on from to the next
        return measure_grid(
            trajectories,
            expert,
            sorted(chosen & begun),
            rounds=rounds,
            rule=self.options.label_rule,
        )

    def _states(
        self, trajectories: TrajectorySet, origin: Trajectory, round: int
    ) -> tuple[int, ...]:
        """The states of a trajectory that a round plays on from; earlier rounds alone decide."""
        measured = count_wins(trajectories, origin, range(1, round))
        key = f"{origin.id} in round {round}"
        return choose_states(
            self.options.state_choice, origin.length, self.options.M, measured, key
        )

    def _explored(self, trajectories: TrajectorySet, task: str, round: int) -> list[Trajectory]:
        if self.options.branch_from == "student":
            own = student_episodes(trajectories, task, range(1, round))
            failed = sorted(
                (item for item in own if not item.success), key=lambda item: (-item.round, item.id)
            )
            return failed[:1]
        known = expert_episodes(trajectories, task, self.options.experts)
        experts = [item for item in known if item.replayable]
        return [item for item in experts if self.options.expert_filter == "all" or not item.success]

    def _evidence(self, trajectories: TrajectorySet, task: str, round: int) -> _Evidence:
        cloned = self.options.bc_experts or self.options.experts
        wins = winning_trajectories(
            trajectories, task, _rounds(self.options.accumulate, round), cloned
        )
        return _Evidence(trajectories, tuple(wins), self.grids(trajectories, task, round))

    def _solve_start(self, evidence: _Evidence) -> list[TrainingExample]:
        """The examples for a task's start; no win at all leaves the task for a later round."""
        whole = (
            wins_from_start(evidence.trajectories, evidence.wins)
            if self.options.examples == "rft"
            else []
        )
        if whole:
            return [self._example(evidence, win, 0, 1.0) for win in whole]
        return self._solve(evidence, None)

    def _solve(self, evidence: _Evidence, state: StateRef | None) -> list[TrainingExample]:
        """The examples for one important state, empty where no win leads through it."""
        t = state.t if state else 0
        candidates = evidence.through(state)
        own = [win for win in candidates if expert_step_count(win) == t]
        wins = distinct_by_actions(
            evidence.trajectories, sorted(own or candidates, key=self._preference)
        )
        chosen = wins if self.options.solution == "all" else wins[:1]
        return [self._example(evidence, win, t, 1 / len(chosen)) for win in chosen]

    def _preference(self, win: Trajectory) -> tuple[int, tuple[int, int, str]]:
        return -win.round if self.options.solution == "newest" else 0, least_expert_first(win)

    def _example(
        self, evidence: _Evidence, win: Trajectory, state: int, share: float
    ) -> TrainingExample:
        """A win's path with weight 0 before `state`; `share` scales the weights behind it."""
        grid = evidence.grids.get(_origin(win))
        given = [item.step.weight for item in evidence.trajectories.path(win.id)]
        steps = [
            (0.0, "context") if t < state else apply_step_weight(*self._weigh(grid, win, t), weight)
            for t, weight in enumerate(given)
        ]
        scale = share * self._reward_weight(win)
        proof = grid.rollouts_between(state, expert_step_count(win)) if grid else ()
        return TrainingExample(
            id=f"{win.id}@{state}",
            task=win.task,
            trajectory=win.id,
            state=state,
            weights=tuple(scale * weight for weight, _ in steps),
            reasons=tuple(reason for _, reason in steps),
            evidence=tuple(dict.fromkeys((win.id, *proof))),
        )

    def _weigh(self, grid: OutcomeGrid | None, win: Trajectory, t: int) -> tuple[float, str]:
        """(weight, reason) of step `t` of a win: the student's is trained, the expert's goes by its segment.

        Where nothing was measured an expert's step is trained in the expert's own win alone.
        """
        if t >= expert_step_count(win):
            return 1.0, "student-win"
        if self.options.expert_actions == "masked" and not win.by_expert:
            return 0.0, "context"
        segment = grid.segment_at(t) if grid else None
        if segment is None or segment.label == "unknown":
            return (1.0, "expert-win") if win.by_expert else (0.0, "unknown")
        if segment.label == "harmful" or (
            segment.label == "neutral" and self.options.neutral == "masked"
        ):
            return 0.0, segment.label
        return max(
            0.0, segment.advantage
        ) if self.options.weights == "value" else 1.0, segment.label

    def _reward_weight(self, win: Trajectory) -> float:
        if self.options.weights != "reward" or win.reward is None:
            return 1.0
        return math.exp((win.reward - 1.0) / (self.options.reward_temperature or 1.0))


_COUNTS = (
    "segments.beneficial",
    "segments.harmful",
    "segments.neutral",
    "segments.unknown",
    "states.recovery",
    "states.recovered",
)


def _rounds(which: Literal["all", "round"], round: int) -> range:
    return range(round if which == "round" else 0, round + 1)


def _refuse_text_alone(trajectories: TrajectorySet, experts: Sequence[str] | None) -> None:
    """MethodError where there are failures of these experts and none of them can be played on from."""
    episodes = (
        item
        for task in trajectories.tasks()
        for item in expert_episodes(trajectories, task, experts)
    )
    failures = [item for item in episodes if not item.success]
    text = [item for item in failures if not item.replayable]
    if text and len(text) == len(failures):
        raise MethodError(
            f"`eef` plays on from the experts' failures, and all {len(text)} of them are text only: imported, and not "
            "what this environment shows when they are replayed",
            hint='train on them with `methods = ["bc", "rft6"]`, or bring the environment they were recorded in',
        )


def _origin(win: Trajectory) -> str:
    """The trajectory whose steps the expert's part of a win's path comes from."""
    return win.start.trajectory if win.start else win.id


def _unique(
    trajectories: TrajectorySet, examples: Sequence[TrainingExample]
) -> list[TrainingExample]:
    """The examples that train something, each (task, actions, weights) once: experts may share a prefix."""
    first: dict[tuple[object, ...], TrainingExample] = {}
    for example in examples:
        actions = tuple(item.step.action for item in trajectories.path(example.trajectory))
        if any(example.weights):
            first.setdefault((example.task, actions, example.weights), example)
    return list(first.values())
