"""EPO: a reasoner writes a strategy before every turn; only the reasoner is trained, turn by turn.

Source: Liu et al., *EPO: Explicit Policy Optimization for Strategic Reasoning in LLMs via
Reinforcement Learning*, arXiv 2502.12486, and its code: REINFORCE on turns with discounted process
rewards, divided by the largest return of the episode; no ratio, baseline or KL.

Departures: advice is at the end of the observation, not at the start of the agent's message, since
chat servers cannot continue a message; each turn of the reasoner is a separate question that holds
the episode so far; turns with return 0 are excluded from the mean; the reasoner explores once per
round and continues from the previous round. The agent is the student of behavior cloning, or
`roles.agent`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from eef.methods.advantages import discounted_returns
from eef.methods.base import AGENT, Method, MethodOptions, Planned, RoleUse
from eef.methods.examples import select_texts
from eef.methods.judging import JUDGE, judge_note
from eef.methods.queries import rollouts_of_round
from eef.roles import ADVISE, Acting, read_step_numbers, recorded_question
from eef.selection import PlannedState, Selection, TextExample
from eef.trajectory import Trajectory, TrajectorySet

REASONER = "reasoner"
REQUEST = (
    "This episode ended with the score {score:g} of 1. Before each step, an adviser wrote the "
    "advice that is shown. Name the steps whose advice mattered for the outcome. End with one line "
    "of the form `Critical steps: 2, 5`, or `Critical steps: none`."
)


class EpoOptions(MethodOptions):
    """Options of `epo`; `bc_experts` has no effect, since only the reasoner is trained."""

    k: int = Field(default=1, ge=1)
    """Rollouts from each task's start per round."""

    discount: float = Field(default=0.99, gt=0, le=1)
    """Discount of rewards per turn."""

    trained: bool = True
    """Train the reasoner; set it to false for a frozen one, such as `openai/<model>`, with which
    nothing is explored."""


@dataclass(frozen=True, slots=True)
class Epo(Method[EpoOptions]):
    """Explicit policy optimization.

    `plan`: k rollouts from every task's start with advice before each turn; then a note of the
    judge about each. `select`: every piece of advice as a text, weighted by its return. A turn that
    the judge names has the reward 1; otherwise the last turn has the rollout's reward, and all
    others have 0. The student is not trained.
    """

    Options: ClassVar[type[MethodOptions]] = EpoOptions

    @property
    def roles(self) -> Mapping[str, RoleUse]:
        agent = {AGENT: RoleUse(at_test=True, optional=True)}
        if not self.options.trained:
            return {REASONER: RoleUse(at_test=True), **agent}
        return {REASONER: RoleUse(trained="last", at_test=True), JUDGE: RoleUse(), **agent}

    def acting(self, round: int, *, at_test: bool) -> Acting:
        return Acting("advised", REASONER)

    def plan(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> list[Planned]:
        if not self.options.trained:
            return []
        plan: list[Planned] = [PlannedState(task, None, self.options.k) for task in tasks]
        for item in _played(trajectories, tasks, round):
            request = REQUEST.format(score=item.reward or 0.0)
            plan.append(judge_note(item.steps, item.task, item.id, request))
        return plan

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        texts, counts = [], Counter[str]()
        for item in _played(trajectories, tasks, round):
            notes = trajectories.notes.usable(JUDGE, item.id, range(round, round + 1))
            counts["judge.skipped"] += not notes
            named = read_step_numbers(notes[0].text, item.length) if notes else []
            for t, weight in enumerate(self._weights(item, named)):
                texts += _texts(item, t, weight)
        return select_texts(self.name, texts, counts=counts)

    def _weights(self, item: Trajectory, named: Sequence[int]) -> list[float]:
        """The return of each turn, divided by the largest of the episode."""
        rewards = [float(t in named) for t in range(item.length)]
        if rewards and not rewards[-1]:
            rewards[-1] = item.reward or 0.0
        returns = discounted_returns(rewards, self.options.discount)
        largest = max(returns, default=0.0)
        return [each / largest for each in returns] if largest else returns


def _played(trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> list[Trajectory]:
    """The rollouts of a round that have a step."""
    return [item for item in rollouts_of_round(trajectories, tasks, round) if item.steps]


def _texts(item: Trajectory, t: int, weight: float) -> list[TextExample]:
    """The advice of a turn, if it has a weight."""
    return [
        TextExample(
            id=f"{item.id}@{t}",
            role=REASONER,
            task=item.task,
            question=recorded_question(item.steps, t, ADVISE, shown="all"),
            text=advice.text,
            weight=weight,
            evidence=(item.id,),
        )
        for advice in item.steps[t].advice
        if weight > 0
    ]


METHOD = Epo
