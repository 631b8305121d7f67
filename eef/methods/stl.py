"""STL (self-taught lookahead): a value model learns from its own one-step lookahead, not rewards.

Source: *Self-Taught Lookahead* (NeurIPS 2025), arXiv 2503.02878, and its code. A frozen agent
proposes actions, each is tried, and a value model describes and scores the state it leads to. The
target value of a state is `discount` times the best score of its successors, and the target text
names the best action and its outcome. No reward is read.

Departures from the paper ("there"). One value model serves all depths; there, each depth has an
adapter of its own. A state has one score; there, the mean of five samples. States are those on the
agent's path; there, those of a tree search. A score is discounted unless the best candidate ended
the episode. Only the text of the value carries loss; there, the prompt does too. The agent is the
student of behavior cloning; there, it is a larger model (as the role `agent` can be). The published
results are the best of three tries by true reward, which requires knowing success at test time.
Here, the score is that of the first try; with `tries` above 1, results also state the tasks won
within 1, 2, … tries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from eef.methods.base import AGENT, Method, MethodOptions, Planned, RoleUse
from eef.methods.queries import rollouts_of_round
from eef.note import Advice
from eef.roles import VALUE, Acting, reason_of, recorded_question
from eef.selection import PlannedState, Selection, TextExample
from eef.trajectory import Trajectory, TrajectorySet

VALUE_ROLE = "value"


class StlOptions(MethodOptions):
    """Options of `stl`; `bc_experts` has no effect."""

    k: int = Field(default=1, ge=1)
    """Rollouts from each task's start per round."""

    candidates: int = Field(default=5, ge=1)
    """Actions that the agent proposes per turn."""

    discount: float = Field(default=0.75, gt=0, le=1)
    """Discount from the best score of a state's successors to the state's own score."""

    trained: bool = True
    """Train the value model; set it to false for a frozen one, such as `openai/<model>`, with which
    nothing is explored."""

    tries: int = Field(default=1, ge=1)
    """Maximum number of tries at each test task; the first win ends them. More than one assumes
    that success is known at test time; scores are still those of the first."""


@dataclass(frozen=True, slots=True)
class Stl(Method[StlOptions]):
    """Self-taught lookahead.

    `plan`: k rollouts with lookahead from every task's start. `select`: no example for the agent;
    for the value role, each state of this round's rollouts after the first whose successors were
    scored.
    """

    Options: ClassVar[type[MethodOptions]] = StlOptions

    @property
    def roles(self) -> Mapping[str, RoleUse]:
        value = RoleUse(trained="base" if self.options.trained else None, at_test=True)
        return {VALUE_ROLE: value, AGENT: RoleUse(at_test=True, optional=True)}

    @property
    def attempts(self) -> int:
        return self.options.tries

    def acting(self, round: int, *, at_test: bool) -> Acting:
        return Acting("lookahead", VALUE_ROLE, candidates=self.options.candidates)

    def plan(
        self, trajectories: TrajectorySet, tasks: Sequence[str], round: int
    ) -> Sequence[Planned]:
        if not self.options.trained:
            return []
        return [PlannedState(task, None, self.options.k) for task in tasks]

    def plan_evaluation(
        self, trajectories: TrajectorySet, tasks: Sequence[str]
    ) -> Sequence[Planned]:
        planned = []
        for task in tasks:
            played = [item for item in trajectories.of_task(task) if item.status != "error"]
            again = not any(item.success for item in played)
            count = min(len(played) + again, self.options.tries)
            planned += [PlannedState(task, None, 1)] * count
        return planned

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        texts = [
            text
            for item in rollouts_of_round(trajectories, tasks, round)
            if self.options.trained
            for text in self._texts(item)
        ]
        taught = {text.task for text in texts}
        counts = {"examples": 0, "tasks.unsolved": len({*tasks} - taught), "texts": len(texts)}
        return Selection((), counts, texts=tuple(texts))

    def _texts(self, item: Trajectory) -> list[TextExample]:
        found = []
        for t in range(1, len(item.steps)):
            scored = [each for each in item.steps[t].advice if each.score is not None]
            if not scored:
                continue
            best = max(scored, key=lambda each: each.score or 0.0)
            ended = item.status == "terminated" and t == len(item.steps) - 1
            before, now = item.steps[t - 1], item.steps[t]
            question = recorded_question(
                item.steps, t - 1, VALUE, candidate=before.completion, seen=now.observation
            )
            text = target(best, 1.0 if ended else self.options.discount)
            found.append(
                TextExample(
                    id=f"{item.id}@{t}",
                    role=VALUE_ROLE,
                    task=item.task,
                    question=question,
                    text=text,
                    evidence=(item.id,),
                )
            )
        return found


def target(best: Advice, discount: float) -> str:
    """The text that the value model is trained to write about a state, given its best successor.

    >>> text = "It fits. Score: 8"
    >>> best = Advice(role="value", text=text, candidate="Action: buy", seen="Page 2", score=0.8)
    >>> print(target(best, 0.75))
    The best next turn is:
    Action: buy
    It leads to:
    Page 2
    It fits.
    Score: 6
    """
    reason = reason_of(best.text)
    score = round(10 * discount * (best.score or 0.0), 2)
    turn = f"The best next turn is:\n{best.candidate}\nIt leads to:\n{best.seen}"
    return "\n".join(part for part in (turn, reason, f"Score: {score:g}") if part)


METHOD = Stl
