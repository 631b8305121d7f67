"""EEF+judge: the solutions of EEF, trained at the steps that a judge names.

EEF masks the actions that rollouts show to be harmful; the judge of ATLaS names the steps that the
outcome depends on. A step is trained only if it passes both tests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from pydantic import Field

from eef.errors import MethodError
from eef.methods.base import MethodOptions, Planned, RoleUse
from eef.methods.eef import Eef, EefOptions, label_counts
from eef.methods.examples import make_selection
from eef.methods.judging import JUDGE, critical_steps, may_name, win_note
from eef.selection import Selection, TrainingExample
from eef.trajectory import Step, TrajectorySet


class EefJudgeOptions(EefOptions):
    """Options of `eef+judge`: those of `eef`, and the judge's share."""

    share: float = Field(default=0.3, gt=0, le=1)
    """Maximum share of a solution's steps that the judge may name as critical (rounded down)."""


@dataclass(frozen=True, slots=True)
class EefJudge(Eef):
    """Exploring Expert Failures, with a judge.

    `plan`: that of `eef`; then a note of the judge about each solution that it has not read.
    `select`: the examples of `eef`, with weight 0 on steps that the judge did not name. Examples
    without a usable note, or without a step that remains, are dropped and counted (`judge.skipped`,
    `judge.empty`).
    """

    options: EefJudgeOptions

    Options: ClassVar[type[MethodOptions]] = EefJudgeOptions

    @property
    def roles(self) -> Mapping[str, RoleUse]:
        return {JUDGE: RoleUse()}

    def plan(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> list[Planned]:
        plan: list[Planned] = [*self.planned_states(trajectories, tasks, round)]
        if not any(item.by_student and item.round == round for item in trajectories):
            return plan  # the solutions are those after this round's rollouts
        tasks_of = {
            each.trajectory: each.task for each in self._examples(trajectories, tasks, round)
        }
        for name, task in tasks_of.items():
            steps = _steps(trajectories, name)
            asked = trajectories.notes.about(JUDGE, name, range(round))
            if not asked and may_name(self.options.share, len(steps)):
                plan.append(win_note(steps, task, name, self.options.share))
        return plan

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        selection = Eef.select(self, trajectories, tasks, round)
        counts = Counter(label_counts(selection))
        named = {
            name: critical_steps(
                trajectories.notes,
                name,
                range(round + 1),
                len(trajectories.path(name)),
                self.options.share,
                counts,
            )
            for name in dict.fromkeys(each.trajectory for each in selection.examples)
        }
        kept = []
        for example in selection.examples:
            critical = named[example.trajectory]
            if critical is None:
                continue
            restricted = _restrict(example, critical)
            counts["judge.empty"] += not any(restricted.weights)
            kept += [restricted] if any(restricted.weights) else []
        return make_selection(self.name, kept, tasks, counts)

    def _examples(
        self, trajectories: TrajectorySet, tasks: Sequence[str], round: int
    ) -> Sequence[TrainingExample]:
        try:
            return Eef.select(self, trajectories, tasks, round).examples
        except MethodError:  # there is none, which `select` reports
            return ()


def _steps(trajectories: TrajectorySet, name: str) -> list[Step]:
    return [item.step for item in trajectories.path(name)]


def _restrict(example: TrainingExample, critical: set[int]) -> TrainingExample:
    """An example without the steps that are not critical."""
    steps = [
        (weight, reason) if t in critical or not weight else (0.0, "not-critical")
        for t, (weight, reason) in enumerate(zip(example.weights, example.reasons, strict=True))
    ]
    return replace(
        example,
        weights=tuple(weight for weight, _ in steps),
        reasons=tuple(reason for _, reason in steps),
    )


METHOD = EefJudge
