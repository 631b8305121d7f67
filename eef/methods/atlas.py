"""ATLaS: train only on the critical steps of the experts' wins; the rest is context.

Source: Chen et al., *ATLaS: Agent Tuning via Learning Critical Steps*, arXiv 2503.02197. There, a
language model names the critical steps (`selector = "judge"`). With `"value"`, the student's
rollouts determine them, at more states than in the paper's control of that kind. `"random"` and
`"rest"` are controls that test whether the judge is worth its cost. Departure: `"rest"` trains all
steps that the judge did not name; the paper takes as many of them as the judge named.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from eef.methods.base import Method, MethodOptions, Planned, RoleUse
from eef.methods.examples import apply_step_weight, make_selection, plan_task, weighted_example
from eef.methods.judging import JUDGE, critical_steps, may_name, most_steps, win_note
from eef.methods.labels import count_wins, evenly_spaced_states, step_advantages
from eef.methods.queries import check_experts, expert_wins
from eef.selection import Selection, TrainingExample
from eef.trajectory import StateRef, Trajectory, TrajectorySet


class AtlasOptions(MethodOptions):
    """Options of `atlas`; `bc_experts` names the experts whose wins are measured and trained on."""

    selector: Literal["value", "judge", "random", "rest"] = "value"
    """How the critical steps are selected: by the rise of the student's win rate along a step
    (`value`), by the role `judge`, or at `random`. `rest` trains the steps that the judge did not
    name."""

    M: int = Field(default=5, ge=1)
    """`value`: number of evenly spaced states inside an expert's win to branch from."""

    rollouts_per_state: int = Field(default=1, ge=1)
    """`value`: rollouts per round from each state, including the task's start."""

    share: float = Field(default=0.3, gt=0, le=1)
    """Maximum share of an expert's steps that are trained (rounded up with `value`, and down
    otherwise)."""

    seed: int = 0
    """`random`: seed of the selection."""


@dataclass(frozen=True, slots=True)
class Atlas(Method[AtlasOptions]):
    """Training on critical steps.

    `plan`: with `value`, rollouts from the start and M states of each expert win; with `judge` and
    `rest`, a note of the judge about each. Tasks that no expert won are not explored. `select`:
    each expert win, with weight 1 on its critical steps, at most `share` of all. `value` takes
    those with the highest positive advantage (`step_advantages`), earlier ones first; steps that
    the judge names beyond the share are dropped and counted. Wins without a usable note are
    skipped, and so are those without a trained step (`judge.empty`); the judge is not asked about
    wins that are too short for the share to allow one.
    """

    Options: ClassVar[type[MethodOptions]] = AtlasOptions

    @property
    def branches(self) -> bool:
        return self.options.selector == "value"

    @property
    def roles(self) -> Mapping[str, RoleUse]:
        return {JUDGE: RoleUse()} if self.options.selector in ("judge", "rest") else {}

    def plan(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> list[Planned]:
        plan: list[Planned] = []
        for task in tasks:
            wins = expert_wins(trajectories, task, self.options.bc_experts)
            if self.options.selector == "value" and wins:
                states = [
                    StateRef(win.id, t)
                    for win in wins
                    if win.replayable
                    for t in evenly_spaced_states(win.length, self.options.M)
                ]
                plan += plan_task(task, states, self.options.rollouts_per_state)
            elif self.roles:
                asked = trajectories.notes
                new = [
                    win
                    for win in wins
                    if may_name(self.options.share, win.length)
                    and not asked.about(JUDGE, win.id, range(round))
                ]
                plan += [win_note(win.steps, task, win.id, self.options.share) for win in new]
        return plan

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        check_experts(trajectories, self.options.bc_experts)
        counts: Counter[str] = Counter()
        examples = []
        for task in tasks:
            for win in expert_wins(trajectories, task, self.options.bc_experts):
                critical = self._critical(trajectories, win, round, counts)
                if critical is None:
                    continue
                example = _example(win, critical)
                if any(example.weights):
                    examples.append(example)
                elif self.roles:
                    counts["judge.empty"] += 1
        return make_selection(self.name, examples, tasks, counts)

    def _critical(
        self, trajectories: TrajectorySet, win: Trajectory, round: int, counts: Counter[str]
    ) -> set[int] | None:
        """The indices of the steps to train; None for a win without a usable note."""
        if self.options.selector == "value":
            advantages = step_advantages(
                count_wins(trajectories, win, range(1, round + 1)), win.length
            )
            rising = [t for t in range(win.length) if advantages[t] > 0]
            rising.sort(key=lambda t: (-advantages[t], t))
            return set(rising[: math.ceil(self.options.share * win.length)])
        if self.options.selector == "random":
            chance = random.Random(f"{self.options.seed} {win.id}")
            most = most_steps(self.options.share, win.length)
            return set(chance.sample(range(win.length), most))
        named = critical_steps(
            trajectories.notes, win.id, range(round + 1), win.length, self.options.share, counts
        )
        if named is None or self.options.selector == "judge":
            return named
        return set(range(win.length)) - named


def _example(win: Trajectory, critical: set[int]) -> TrainingExample:
    steps = [
        apply_step_weight(1.0, "critical", step) if t in critical else (0.0, "context")
        for t, step in enumerate(win.steps)
    ]
    return weighted_example(win, 0, steps)


METHOD = Atlas
