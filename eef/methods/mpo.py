"""MPO: a planner writes a plan for a task; an agent that is never trained carries it out.

Source: Xiong et al., *MPO: Boosting LLM Agents with Meta Plan Optimization*, arXiv 2503.02682. The
planner imitates plans that the role `writer` makes of the experts' wins (round 1), and is then
trained on pairs of its own plans, compared by the agent's rewards with each (later rounds).

Departures: the plan is at the end of the system message, not after the task in the first user
message; no person checks the writer's plans; every round after the first compares plans again,
where the paper does so once. The agent is the student of behavior cloning, or `roles.agent`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import ClassVar

from pydantic import Field

from eef.methods.base import AGENT, Method, MethodOptions, Planned, RoleUse
from eef.methods.examples import select_texts
from eef.methods.planning import (
    FORM,
    PLAN,
    PLANNER,
    check_plan,
    evaluate_with_plans,
    plan_note,
    plan_suffix,
)
from eef.methods.queries import expert_wins, rollouts_of_round
from eef.note import Note
from eef.roles import number_steps, task_question
from eef.selection import PlannedNote, PlannedState, Selection, TextExample, TextPair
from eef.trajectory import TrajectorySet

WRITER = "writer"
WRITE = (
    "In this episode the agent completed the task:\n\n{steps}\n\nWrite the short, abstract plan "
    f"behind it. {FORM}"
)


class MpoOptions(MethodOptions):
    """Options of `mpo`; `bc_experts` names the experts whose wins the writer turns into plans."""

    plans: int = Field(default=5, ge=2)
    """Number of plans per task that are compared, from round 2 on."""

    rollouts_per_plan: int = Field(default=5, ge=1)
    """Rollouts with each plan; the value of a plan is their mean reward."""

    trained: bool = True
    """Train the planner; set it to false for a frozen one, such as `openai/<model>`, with which
    nothing is explored."""


@dataclass(frozen=True, slots=True)
class Mpo(Method[MpoOptions]):
    """Meta plan optimization.

    `plan`: in round 1, a note of the writer about each task's first expert win; later, `plans`
    notes of the planner about each task, and rollouts with each. `select`: the writer's plans as
    texts of the planner; later, for each task, its best plan and its worst as a pair, unless they
    are equal. The student is not trained.
    """

    Options: ClassVar[type[MethodOptions]] = MpoOptions

    @property
    def roles(self) -> Mapping[str, RoleUse]:
        agent = {AGENT: RoleUse(at_test=True, optional=True)}
        if not self.options.trained:
            return {PLANNER: RoleUse(at_test=True), **agent}
        return {WRITER: RoleUse(), PLANNER: RoleUse(trained="base", at_test=True), **agent}

    def plan(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> list[Planned]:
        plan: list[Planned] = []
        if not self.options.trained:
            return plan
        for task in tasks:
            if round > 1:
                plan.append(plan_note(task, self.options.plans))
                notes = trajectories.notes.usable(PLANNER, task, range(round, round + 1))
                per_plan = self.options.rollouts_per_plan
                plan += [PlannedState(task, None, per_plan, plan_suffix(note)) for note in notes]
                continue
            for win in expert_wins(trajectories, task, self.options.bc_experts)[:1]:
                question = WRITE.format(steps=number_steps(win.steps))
                plan.append(PlannedNote(WRITER, task, win.id, question, check=check_plan))
        return plan

    def plan_evaluation(self, trajectories: TrajectorySet, tasks: Sequence[str]) -> list[Planned]:
        return evaluate_with_plans(trajectories, tasks)

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        if not self.options.trained:
            return select_texts(self.name, [])
        if round > 1:
            return self._select_pairs(trajectories, tasks, round)
        texts = []
        for task in tasks:
            for win in expert_wins(trajectories, task, self.options.bc_experts)[:1]:
                notes = trajectories.notes.usable(WRITER, win.id, range(1, 2))
                texts += [_text(note, win.id) for note in notes]
        return select_texts(self.name, texts, required=True)

    def _select_pairs(
        self, trajectories: TrajectorySet, tasks: Sequence[str], round: int
    ) -> Selection:
        pairs, counts = [], Counter[str]()
        for task in tasks:
            rewards: dict[str, list[float]] = {}
            for item in rollouts_of_round(trajectories, [task], round):
                if item.reward is not None:
                    rewards.setdefault(item.prompt_suffix, []).append(item.reward)
            notes = trajectories.notes.usable(PLANNER, task, range(round, round + 1))
            played = [note for note in notes if plan_suffix(note) in rewards]
            if not played:
                counts["plans.unplayed"] += 1
                continue
            values = {note.id: fmean(rewards[plan_suffix(note)]) for note in played}
            best = max(played, key=lambda note: values[note.id])
            worst = min(played, key=lambda note: values[note.id])
            if values[best.id] == values[worst.id]:
                counts["plans.equal"] += 1
                continue
            name = f"{best.id} > {worst.id}"
            pairs.append(TextPair(id=name, chosen=_own(best), rejected=_own(worst)))
        return select_texts(self.name, [], pairs, counts)


def _text(note: Note, win: str) -> TextExample:
    """The writer's plan as an answer of the planner."""
    return TextExample(
        id=note.id,
        role=PLANNER,
        task=note.task,
        question=task_question(note.instruction, PLAN),
        text=note.text,
        evidence=(win, note.id),
    )


def _own(note: Note) -> TextExample:
    """A plan of the planner."""
    return TextExample(
        id=note.id, role=PLANNER, task=note.task, question=note.question, text=note.text
    )


METHOD = Mpo
