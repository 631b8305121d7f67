"""RetroAct: try a task again with reflections on earlier failures; train agent and reflector.

Source: *RetroAct* (NAACL 2025), arXiv 2503.01490, and its code: Reflexion in which the agent and
the reflector are trained by off-policy policy gradient with an imitation term. The agent's loss is
−clip(π / π_b, 1 ± ε) · R · log π, in which the ratio is a constant in the gradient and R is the
final reward (`policy_gradient.clip`, 0.3 there; `policy_gradient.imitation`, 1 there).

Departures. Observations carry no loss; there they do. The reflector imitates the reflections that
raised the reward, weighted by the gain (`alpha`); there, it is trained by the same policy gradient,
which also lowers the probability of reflections that lowered the reward. The experts' wins replace
the few-shot data of a larger model. An evaluation tries each task once unless `test_attempts` is
raised. That assumes that success is known at test time; results then state the tasks won within
1, 2, … attempts beside those of the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, Literal

from pydantic import Field

from eef.methods.advantages import acts_of, select_acts
from eef.methods.attempts import REFLECTOR, attempts_at, plan_attempts
from eef.methods.base import Method, MethodOptions, Planned, RoleUse
from eef.methods.examples import count_steps, path_example
from eef.methods.queries import check_experts, distinct_by_actions, expert_wins, student_episodes
from eef.selection import Acts, Selection, TextExample
from eef.trajectory import Trajectory, TrajectorySet


class RetroactOptions(MethodOptions):
    """Options of `retroact`."""

    attempts: int = Field(default=3, ge=1)
    """Maximum number of attempts at each task per round; the first win ends them."""

    test_attempts: int = Field(default=1, ge=1)
    """Maximum number of attempts at each test task; the first win ends them. More than one assumes
    that success is known at test time; scores are still those of the first."""

    memory: int = Field(default=3, ge=1)
    """Maximum number of reflections in the prompt; the latest are kept."""

    alpha: float | None = Field(default=1.0, gt=0)
    """A reflection between attempts with rewards R and R' has the weight (R' - R) (R + alpha) /
    alpha (the published code), or R' - R with null (the paper). Those without a gain are not
    trained."""

    trained: bool = True
    """Train the reflector; set it to false for a frozen one, such as `openai/<model>`."""

    imitation: bool = True
    """Train on the won attempts and the experts' wins as well: beside the acts if
    `policy_gradient.imitation` is not 0, and before them otherwise."""


@dataclass(frozen=True, slots=True)
class Retroact(Method[RetroactOptions]):
    """Attempts with reflections.

    `plan`: a rollout from every task's start; after a failure a reflection, then a rollout with the
    latest reflections in its prompt. `select`: the acts of this round's rollouts with a reward
    above 0; reflections after which the next attempt had a higher reward; won paths.
    """

    Options: ClassVar[type[MethodOptions]] = RetroactOptions

    @property
    def roles(self) -> Mapping[str, RoleUse]:
        trained: Literal["last"] | None = "last" if self.options.trained else None
        return {REFLECTOR: RoleUse(trained=trained, at_test=self.options.test_attempts > 1)}

    @property
    def acts(self) -> bool:
        return True

    @property
    def turns(self) -> int:
        return self.options.attempts

    @property
    def attempts(self) -> int:
        return self.options.test_attempts

    def plan(
        self, trajectories: TrajectorySet, tasks: Sequence[str], round: int
    ) -> Sequence[Planned]:
        played = {task: _rollouts(trajectories, task, round) for task in tasks}
        return plan_attempts(trajectories, played, self.options.attempts, self.options.memory)

    def plan_evaluation(
        self, trajectories: TrajectorySet, tasks: Sequence[str]
    ) -> Sequence[Planned]:
        played = {task: _rollouts(trajectories, task, None) for task in tasks}
        return plan_attempts(trajectories, played, self.options.test_attempts, self.options.memory)

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        check_experts(trajectories, self.options.bc_experts)
        played = {task: _rollouts(trajectories, task, round) for task in tasks}
        acts = [_acts(item) for items in played.values() for item in items if item.reward]
        texts = [text for items in played.values() for text in self._texts(trajectories, items)]
        wins = [
            path_example(win) for task in tasks for win in self._wins(trajectories, task, round)
        ]
        groups = {f"{task}@0": items for task, items in played.items() if items}
        selection = select_acts(acts, groups, trajectories, tasks, round)
        return replace(
            selection,
            examples=tuple(wins),
            texts=tuple(texts),
            counts={
                **selection.counts,
                **count_steps(wins),
                "examples": len(wins),
                "texts": len(texts),
            },
        )

    def _texts(self, trajectories: TrajectorySet, items: Sequence[Trajectory]) -> list[TextExample]:
        memory = self.options.memory
        attempts = attempts_at(trajectories, items, memory) if self.options.trained else []
        return [
            TextExample(
                id=one.reflection.id,
                role=REFLECTOR,
                task=one.played.task,
                question=one.reflection.question,
                text=one.reflection.text,
                weight=weight,
                evidence=(one.played.id, other.played.id),
            )
            for one, other in pairwise(attempts)
            if one.reflection and (weight := self._gain(one.played, other.played)) > 0
        ]

    def _gain(self, one: Trajectory, other: Trajectory) -> float:
        before, after = one.reward or 0.0, other.reward or 0.0
        alpha = self.options.alpha
        return (after - before) * (1.0 if alpha is None else (before + alpha) / alpha)

    def _wins(self, trajectories: TrajectorySet, task: str, round: int) -> list[Trajectory]:
        if not self.options.imitation:
            return []
        own = student_episodes(trajectories, task, range(round + 1))
        wins = [item for item in own if item.success]
        wins += expert_wins(trajectories, task, self.options.bc_experts)
        return distinct_by_actions(trajectories, wins)


def _rollouts(trajectories: TrajectorySet, task: str, round: int | None) -> list[Trajectory]:
    """The student's rollouts of a task in a round (None: in any), in the order of their numbers."""
    found = [
        item
        for item in trajectories.of_task(task)
        if not item.by_expert and item.status != "error" and round in (None, item.round)
    ]
    return sorted(found, key=lambda item: (len(item.id), item.id))


def _acts(item: Trajectory) -> Acts:
    acts = acts_of(item, f"{item.task}@0", [item.reward or 0.0] * len(item.steps))
    return replace(acts, ratio="constant", prompt_suffix=item.prompt_suffix)


METHOD = Retroact
