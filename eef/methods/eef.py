"""Exploring Expert Failures (EEF): explore from inside the experts' failures as well.

Source: *Exploring Expert Failures Improves LLM Agent Tuning*, arXiv 2504.13145. If the paper leaves
a choice open, it is an option whose default is the simplest reading.

Ablations are options as well. With `expert_actions = "masked"` and `recovery = false`, the student
branches from the experts' states but trains on none of their actions. With `branch_from =
"student"`, it branches from its own failures instead.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from eef.errors import MethodError
from eef.methods.base import Method, MethodOptions, Planned
from eef.methods.examples import apply_step_weight, make_selection, plan_task, weighted_example
from eef.methods.labels import GridRule, OutcomeGrid, count_wins, measure_grid
from eef.methods.queries import (
    actions_of,
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
    """Options of `eef`. The defaults are those of the paper, or its simplest reading."""

    M: int = Field(default=5, ge=0)
    """Number of states inside an expert trajectory to branch from."""

    rollouts_per_state: int = Field(default=1, ge=1)
    """Rollouts per round from each state, including the task's start."""

    label_rule: GridRule = "any"
    """A state is solvable if `any` rollout from it wins, if the `majority` does (a win rate of 0.5
    or more), or if its `smoothed` win rate is at least 0.5. The smoothed rate includes neighboring
    states and, with `grid = "all"`, earlier rounds, with decreasing weights."""

    experts: tuple[str, ...] | None = Field(default=None, strict=False, min_length=1)
    """Names of the experts whose trajectories are branched from and, unless `bc_experts` is set,
    whose wins are trained on; by default all experts."""

    expert_filter: Literal["failed", "all"] = "failed"
    """Branch from `failed` expert trajectories only, or from `all`."""

    branch_from: Literal["expert", "student"] = "expert"
    """Branch from trajectories of the `expert`, or from one failure of the `student` per task (its
    latest in earlier rounds)."""

    state_choice: StateChoice = "even"
    """How the M states are chosen: `even`ly spaced, at `random`, by `bisection` for the last state
    the student wins from, or by the highest `uncertainty` p(1 - p) of the win rate p. The last two
    use the outcomes of earlier rounds; without any, states are evenly spaced."""

    stop_branching: Literal["never", "solved", "hopeless", "either"] = "never"
    """When to stop branching from a trajectory: once its task is `solved` (the student has won it
    from the start in an earlier round), once it is `hopeless` (an earlier round branched from it,
    and no rollout from inside it won), or if `either` holds. A budget's rollouts are then played
    from the task's start."""

    expert_actions: Literal["trained", "masked"] = "trained"
    """Whether actions of the trajectory branched from are `trained` if they lead to the student's
    win, or `masked`. An expert's own win is trained in either case."""

    recovery: bool = True
    """Train on solutions of recovery states."""

    grid: Literal["round", "all"] = "round"
    """Label the expert's actions by the rollouts of this `round`, or of `all` rounds so far."""

    accumulate: Literal["all", "round"] = "all"
    """Take solutions from the student's wins of `all` rounds so far, or of this `round`. The
    experts' wins always count."""

    solution: Literal["nearest", "newest", "all"] = "nearest"
    """Which solution of a state to train on if there are several: the `nearest` (fewest expert
    steps, then shortest), the `newest` (latest round), or `all` n, each with weight 1/n. If the
    student won from the state itself, only those wins count."""

    examples: Literal["one", "rft"] = "one"
    """For a task's start, train on `one` solution (see `solution`), or on all wins from the start,
    as `rft` does."""

    neutral: Literal["kept", "masked"] = "kept"
    """Whether the expert's neutral actions inside a solution are trained. The paper gives weight 1
    to every action of a solution, and the student needs them to reach the state it can win from."""

    weights: Literal["one", "value", "reward"] = "one"
    """Weight of a trained action. `one`: 1. `value`: for an expert's action, the rise of the win
    rate over its segment; 1 for the student's. `reward`: exp((r - 1) / reward_temperature), where r
    is the final reward of the win."""

    reward_temperature: float | None = Field(default=None, gt=0)
    """Temperature of `weights = "reward"`; 1 by default."""

    @model_validator(mode="after")
    def _temperature_has_effect(self) -> EefOptions:
        if self.reward_temperature is not None and self.weights != "reward":
            raise ValueError('`reward_temperature` has no effect without `weights = "reward"`')
        return self

    @model_validator(mode="after")
    def _options_of_experts_have_effect(self) -> EefOptions:
        if self.branch_from == "student" and self.expert_filter == "all":
            raise ValueError(
                '`expert_filter` has no effect with `branch_from = "student"`, which does not '
                "branch from expert trajectories"
            )
        if self.branch_from == "student" and self.stop_branching != "never":
            raise ValueError(
                '`stop_branching` has no effect with `branch_from = "student"`, which branches '
                "from another trajectory in each round"
            )
        return self


@dataclass(frozen=True, slots=True)
class _Evidence:
    """A task after a round: its wins, and a grid for each explored trajectory."""

    trajectories: TrajectorySet
    wins: tuple[Trajectory, ...]
    grids: Mapping[str, OutcomeGrid]

    def wins_through(self, state: StateRef | None) -> list[Trajectory]:
        """The wins whose path leads through a state; all wins for the task's start (None).

        For a state of an expert trajectory, these are the student's wins from that state and from
        later ones, and the expert's own win.
        """
        if state is None:
            return list(self.wins)
        return [
            win
            for win in self.wins
            if _origin(win) == state.trajectory and expert_step_count(win) >= state.t
        ]


@dataclass(frozen=True, slots=True)
class Eef(Method[EefOptions]):
    """Exploring Expert Failures.

    `plan`: every task's start, and M states of each failed expert trajectory.

    `select`: the important states of a task are its start and the recovery states of its grids (see
    `eef.methods.labels`). Each is solved by a *solution*: a win whose path leads through it. The
    example trains the solution's actions after the state: the student's actions, and the expert's
    beneficial and neutral ones. Harmful actions remain visible and are never trained. A state
    without a solution is left for a later round.

    Counts for the report: `segments.<label>`, `states.recovery` (recovery states) and
    `states.recovered` (those that were solved).
    """

    Options: ClassVar[type[MethodOptions]] = EefOptions

    @property
    def branches(self) -> bool:
        return self.options.M > 0

    def plan(
        self, trajectories: TrajectorySet, tasks: Sequence[str], round: int
    ) -> Sequence[Planned]:
        return self.planned_states(trajectories, tasks, round)

    def planned_states(
        self, trajectories: TrajectorySet, tasks: Sequence[str], round: int
    ) -> list[PlannedState]:
        """The states of `plan`, which has nothing else unless a method adds notes."""
        if self.options.branch_from == "expert":
            check_failures_replayable(trajectories, self.options.experts)
        plan = []
        for task in tasks:
            states = [
                StateRef(origin.id, t)
                for origin in self._branched(trajectories, task, round)
                for t in self._branch_states(trajectories, origin, round)
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
                    state = StateRef(grid.trajectory, t)
                    solved = self._solve(evidence, state) if self.options.recovery else []
                    counts.update({"states.recovery": 1, "states.recovered": int(bool(solved))})
                    examples += solved
        return make_selection(self.name, _distinct(trajectories, examples), tasks, counts)

    def grids(self, trajectories: TrajectorySet, task: str, round: int) -> dict[str, OutcomeGrid]:
        """The grids of the trajectories of a task that are branched from, by trajectory id.

        One whose branching has stopped keeps the labels of the rounds that `grid` counts.
        """
        origins = self._origins(trajectories, task, round)
        return {origin.id: self.measure(trajectories, origin, round) for origin in origins}

    def measure(self, trajectories: TrajectorySet, origin: Trajectory, round: int) -> OutcomeGrid:
        """The grid by which `select` labels the actions of a trajectory in a round."""
        rounds = _rounds(self.options.grid, round)
        planned = {
            t for each in rounds if each for t in self._branch_states(trajectories, origin, each)
        }
        played = {
            item.start.t
            for item in trajectories.of_task(origin.task)
            if item.start and item.start.trajectory == origin.id and item.round in rounds
        }
        # a budget may skip planned states; segments then extend over them
        return measure_grid(
            trajectories,
            origin,
            sorted(planned & played),
            rounds=rounds,
            rule=self.options.label_rule,
        )

    def solutions(
        self, trajectories: TrajectorySet, task: str, state: StateRef | None, round: int
    ) -> list[Trajectory]:
        """The wins that could solve an important state in a round, the preferred one first.

        `state` is None for the task's start. Which of them are trained on is the option `solution`.
        """
        return self._ranked(self._evidence(trajectories, task, round), state)

    def _branch_states(
        self, trajectories: TrajectorySet, origin: Trajectory, round: int
    ) -> tuple[int, ...]:
        """The states of a trajectory that a round branches from; earlier rounds decide."""
        measured = count_wins(trajectories, origin, range(1, round))
        key = f"{origin.id} in round {round}"
        return choose_states(
            self.options.state_choice, origin.length, self.options.M, measured, key
        )

    def _branched(self, trajectories: TrajectorySet, task: str, round: int) -> list[Trajectory]:
        """The trajectories of a task that a round branches from."""
        origins = self._origins(trajectories, task, round)
        return [item for item in origins if not self._stopped(trajectories, item, round)]

    def _origins(self, trajectories: TrajectorySet, task: str, round: int) -> list[Trajectory]:
        """The trajectories of a task that are branched from, unless that has stopped."""
        if self.options.branch_from == "student":
            episodes = student_episodes(trajectories, task, range(1, round))
            failures = [item for item in episodes if not item.success]
            return sorted(failures, key=lambda item: (-item.round, item.id))[:1]
        episodes = expert_episodes(trajectories, task, self.options.experts)
        return [
            item
            for item in episodes
            if item.replayable and (self.options.expert_filter == "all" or not item.success)
        ]

    def _stopped(self, trajectories: TrajectorySet, origin: Trajectory, round: int) -> bool:
        """Whether earlier rounds have ended the branching from a trajectory."""
        stop = self.options.stop_branching
        if stop == "never" or self.options.branch_from == "student":
            return False
        measured = count_wins(trajectories, origin, range(1, round))
        solved = measured[0][0] > 0
        inside = [counts for state, counts in measured.items() if state > 0]
        hopeless = any(played for _, played in inside) and not any(won for won, _ in inside)
        return (solved and stop in ("solved", "either")) or (
            hopeless and stop in ("hopeless", "either")
        )

    def _evidence(self, trajectories: TrajectorySet, task: str, round: int) -> _Evidence:
        experts = self.options.bc_experts or self.options.experts
        rounds = _rounds(self.options.accumulate, round)
        wins = winning_trajectories(trajectories, task, rounds, experts)
        return _Evidence(trajectories, tuple(wins), self.grids(trajectories, task, round))

    def _solve_start(self, evidence: _Evidence) -> list[TrainingExample]:
        """The examples for a task's start."""
        if self.options.examples == "rft":
            wins = wins_from_start(evidence.trajectories, evidence.wins)
            if wins:
                return [self._example(evidence, win, 0, 1.0) for win in wins]
        return self._solve(evidence, None)

    def _solve(self, evidence: _Evidence, state: StateRef | None) -> list[TrainingExample]:
        """The examples for one important state; empty if no win leads through it."""
        wins = self._ranked(evidence, state)
        chosen = wins if self.options.solution == "all" else wins[:1]
        t = state.t if state else 0
        return [self._example(evidence, win, t, 1 / len(chosen)) for win in chosen]

    def _ranked(self, evidence: _Evidence, state: StateRef | None) -> list[Trajectory]:
        """The solutions of an important state, the preferred one first.

        If the student won from the state itself, only those wins count.
        """
        candidates = evidence.wins_through(state)
        own = [win for win in candidates if expert_step_count(win) == (state.t if state else 0)]
        return distinct_by_actions(
            evidence.trajectories, sorted(own or candidates, key=self._solution_order)
        )

    def _solution_order(self, win: Trajectory) -> tuple[int, tuple[int, int, str]]:
        return -win.round if self.options.solution == "newest" else 0, least_expert_first(win)

    def _example(
        self, evidence: _Evidence, win: Trajectory, state: int, share: float
    ) -> TrainingExample:
        """A solution's path, with weight 0 before `state`; `share` scales the weights after it."""
        grid = evidence.grids.get(_origin(win))
        path = evidence.trajectories.path(win.id)
        steps = [
            (0.0, "context")
            if t < state
            else apply_step_weight(*self._weigh(grid, win, t), item.step)
            for t, item in enumerate(path)
        ]
        scale = share * self._reward_weight(win)
        return weighted_example(
            win,
            state,
            [(scale * weight, reason) for weight, reason in steps],
            evidence=grid.rollouts_between(state, expert_step_count(win)) if grid else (),
        )

    def _weigh(self, grid: OutcomeGrid | None, win: Trajectory, t: int) -> tuple[float, str]:
        """(weight, reason) of step `t` of a win, by its segment if it is an expert's.

        An expert's step outside all known segments is trained only in the expert's own win.
        """
        if t >= expert_step_count(win):
            return 1.0, "student-win"
        if self.options.expert_actions == "masked" and not win.by_expert:
            return 0.0, "context"
        segment = grid.segment_at(t) if grid else None
        if segment is None or segment.label == "unknown":
            return (1.0, "expert-win") if win.by_expert else (0.0, "unknown")
        masked = ("harmful", "neutral") if self.options.neutral == "masked" else ("harmful",)
        if segment.label in masked:
            return 0.0, segment.label
        value = self.options.weights == "value"
        return max(0.0, segment.advantage) if value else 1.0, segment.label

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


def grids_of(
    method: Method[Any] | None, trajectories: TrajectorySet, task: str, round: int
) -> dict[str, OutcomeGrid]:
    """The outcome grids of a task in a round; empty for methods that measure none."""
    return method.grids(trajectories, task, round) if isinstance(method, Eef) and round else {}


def label_counts(selection: Selection) -> dict[str, int]:
    """The counts of labels in a selection of `eef`; `make_selection` recounts all others."""
    labels = ("segments.", "states.")
    return {name: count for name, count in selection.counts.items() if name.startswith(labels)}


def check_failures_replayable(trajectories: TrajectorySet, experts: Sequence[str] | None) -> None:
    """MethodError if these experts have failures, but none that can be branched from."""
    failures = [
        item
        for task in trajectories.tasks()
        for item in expert_episodes(trajectories, task, experts)
        if not item.success
    ]
    if failures and not any(item.replayable for item in failures):
        raise MethodError(
            f"`eef` cannot branch from the experts' failures: all {len(failures)} are unverified "
            "(imported, and different from what this environment shows)",
            hint='train on them with `methods = ["bc", "rft6"]`, or use the environment they were '
            "recorded in",
        )


def _origin(win: Trajectory) -> str:
    """Id of the trajectory that a win branches from, or its own id."""
    return win.start.trajectory if win.start else win.id


def _distinct(
    trajectories: TrajectorySet, examples: Sequence[TrainingExample]
) -> list[TrainingExample]:
    """The examples that train any step, each (task, actions, weights) once.

    Experts may share a prefix, so the same solution can be found twice.
    """
    first: dict[tuple[object, ...], TrainingExample] = {}
    for example in examples:
        if any(example.weights):
            actions = actions_of(trajectories, example.trajectory)
            first.setdefault((example.task, actions, example.weights), example)
    return list(first.values())


METHOD = Eef
