"""CGI: a critic comments on the student's proposals; the student is trained to make use of it.

Source: Yang et al., *The Lighthouse of Language: Enhancing LLM Agents via Critique-Guided
Improvement*, arXiv 2503.16024. First a teacher criticizes, and the critic imitates its critiques in
won episodes. Then, in each round, the student plays with the critic's critiques and imitates its
won episodes: as whole paths, and turn by turn with the critiques it saw.

Departures: the teacher does not see an expert's path; there is no general data (ShareGPT) in the
mixture; paths and refined turns are weighted alike; a batch of critiques is the mean over texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from pydantic import Field

from eef.methods.base import Method, MethodOptions, Planned, RoleUse
from eef.methods.examples import (
    make_selection,
    path_example,
    select_texts,
    suffix_example,
)
from eef.methods.queries import check_experts, expert_wins, student_episodes
from eef.roles import CRITICIZE, Acting, recorded_question
from eef.selection import PlannedState, Selection, TextExample, TrainingExample
from eef.trajectory import Trajectory, TrajectorySet

TEACHER, CRITIC = "teacher", "critic"


class CgiOptions(MethodOptions):
    """Options of `cgi`; `bc_experts` names the experts whose wins the student imitates too."""

    k: int = Field(default=1, ge=1)
    """Rollouts from each task's start per round."""

    candidates: int = Field(default=5, ge=1)
    """Proposals per turn, each with a critique."""

    teacher_rounds: int = Field(default=1, ge=1)
    """Number of first rounds in which the teacher criticizes and only the critic is trained."""

    trained: bool = True
    """Train the critic; set it to false for a frozen one, such as `openai/<model>`, which then
    criticizes in all rounds."""


@dataclass(frozen=True, slots=True)
class Cgi(Method[CgiOptions]):
    """Critique-guided improvement.

    `plan`: k rollouts from every task's start, in the first rounds with the teacher's critiques and
    then with the critic's. `select`: in the first rounds, every critique in a won rollout as a text
    of the critic (none if the student wins none); then the experts' wins, the student's wins of
    the round, and each turn of these with its critiques.
    """

    Options: ClassVar[type[MethodOptions]] = CgiOptions

    @property
    def roles(self) -> Mapping[str, RoleUse]:
        if not self.options.trained:
            return {CRITIC: RoleUse(at_test=True)}
        return {TEACHER: RoleUse(), CRITIC: RoleUse(trained="base", at_test=True)}

    def acting(self, round: int, *, at_test: bool) -> Acting:
        role = TEACHER if self._taught(round) and not at_test else CRITIC
        return Acting("criticized", role, self.options.candidates)

    def plan(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> list[Planned]:
        return [PlannedState(task, None, self.options.k) for task in tasks]

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        check_experts(trajectories, self.options.bc_experts)
        first = self._taught(round)
        rounds = range(1, round + 1) if first else range(round, round + 1)
        wins = [
            item
            for task in tasks
            for item in student_episodes(trajectories, task, rounds)
            if item.success
        ]
        if first:
            texts = [text for win in wins for text in _critiques(win)]
            return select_texts(self.name, texts)
        examples = [
            path_example(win)
            for task in tasks
            for win in expert_wins(trajectories, task, self.options.bc_experts)
        ]
        examples += [path_example(win) for win in wins]
        refined = [example for win in wins for example in _refined(win)]
        return make_selection(self.name, [*examples, *refined], tasks)

    def _taught(self, round: int) -> bool:
        """Whether the teacher criticizes in a round."""
        return self.options.trained and round <= self.options.teacher_rounds


def _critiques(win: Trajectory) -> list[TextExample]:
    """The critiques of a win as texts of the critic."""
    return [
        TextExample(
            id=f"{win.id}@{t}#{number}",
            role=CRITIC,
            task=win.task,
            question=recorded_question(win.steps, t, CRITICIZE, candidate=advice.candidate),
            text=advice.text,
            evidence=(win.id,),
        )
        for t, step in enumerate(win.steps)
        for number, advice in enumerate(step.advice)
    ]


def _refined(win: Trajectory) -> list[TrainingExample]:
    """Each turn of a win that had critiques, in the conversation that the student acted on."""
    turns = [t for t, step in enumerate(win.steps) if step.advice]
    return [
        replace(
            suffix_example(win, t, end=t + 1, reason="refined"),
            id=f"{win.id}@{t}/refined",
            advice="last",
        )
        for t in turns
    ]


METHOD = Cgi
