"""Method: plan() and select(), both pure; and what all methods share: wins, their order, whole-path examples.

`plan` says which states to play on from, and `eef.explore` plays them; `select` turns what was played into
training examples. Neither knows a file, a model or an environment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Protocol, Self

from pydantic import Field

from eef.config import Settings, nearest
from eef.errors import MethodError
from eef.labels import is_expert, is_student
from eef.selection import PlannedState, Selection, TrainingExample
from eef.trajectory import Trajectory, TrajectorySet


class MethodOptions(Settings):
    """Options of every method."""

    bc_experts: tuple[str, ...] | None = Field(default=None, strict=False)
    """Experts (without `expert:`) whose wins are trained on; every expert's when left out."""


class Method(Protocol):
    """What to play on from and what to train on, in rounds that count from 1 (round 0 is the expert data).

    Both functions read the student's rollouts of rounds up to `round` only; what they return depends on the
    set of trajectories, not on its order.
    """

    Options: ClassVar[type[MethodOptions]]

    @property
    def name(self) -> str: ...

    @classmethod
    def of(cls, name: str, options: Mapping[str, object]) -> Self:
        """The method under a name with checked options (ConfigError)."""
        ...

    def plan(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> list[PlannedState]:
        """The states to play on from in a round, the tasks in the order given."""
        ...

    def select(self, trajectories: TrajectorySet, tasks: Sequence[str], round: int) -> Selection:
        """What to train on after a round; MethodError where there is nothing."""
        ...


def expert_trajectories(trajectories: TrajectorySet, task: str) -> list[Trajectory]:
    """The experts' whole episodes of a task, won or failed, by id; broken ones (status "error") left out."""
    found = [item for item in trajectories.of_task(task) if is_expert(item) and item.start is None]
    return sorted((item for item in found if item.status != "error"), key=lambda item: item.id)


def check_experts(trajectories: TrajectorySet, names: Sequence[str] | None) -> None:
    """Refuse a `bc_experts` which names an expert that played nothing (MethodError)."""
    if names is None:
        return
    known = sorted({_expert_name(item) for item in trajectories if is_expert(item)})
    for name in names:
        if name not in known:
            like = nearest(name, known)
            hint = f"did you mean {like!r}?" if like else f"experts here: {', '.join(known) or 'none'}"
            raise MethodError(f"`bc_experts` names {name!r}, of whom there is no trajectory", hint=hint)


def winning(
    trajectories: TrajectorySet, task: str, rounds: range, bc_experts: Sequence[str] | None
) -> list[Trajectory]:
    """D+ of a task: the student's wins in `rounds`, from the start or an expert's state, and the experts'."""
    student = [
        item for item in trajectories.of_task(task)
        if is_student(item) and item.success and item.round in rounds
        and (item.start is None or is_expert(trajectories[item.start.trajectory]))
    ]
    experts = [
        item for item in expert_trajectories(trajectories, task)
        if item.success and (bc_experts is None or _expert_name(item) in bc_experts)
    ]
    return student + experts


def expert_part(win: Trajectory) -> int:
    """How many steps of a win's path an expert made: 0 from the task's start, all of an expert's own win."""
    return win.length if is_expert(win) else win.first


def by_least_expert(win: Trajectory) -> tuple[int, int, str]:
    """Sort key: least of the expert first (so the student's own wins lead), then shortest, then by id."""
    return expert_part(win), win.length, win.id


def whole_wins(trajectories: TrajectorySet, wins: Iterable[Trajectory]) -> list[Trajectory]:
    """The wins played from the task's start, the student's own first, each sequence of actions once."""
    whole = [win for win in wins if is_expert(win) or win.first == 0]
    return distinct(trajectories, sorted(whole, key=by_least_expert))


def actions_of(trajectories: TrajectorySet, win: Trajectory) -> tuple[str, ...]:
    return tuple(item.step.action for item in trajectories.path(win.id))


def distinct(trajectories: TrajectorySet, wins: Iterable[Trajectory]) -> list[Trajectory]:
    """The wins in their order, each sequence of actions once."""
    first: dict[tuple[str, ...], Trajectory] = {}
    for win in wins:
        first.setdefault(actions_of(trajectories, win), win)
    return list(first.values())


def whole_path(win: Trajectory) -> TrainingExample:
    """The example which trains every action of an episode that was won from the task's start, but for those that the
    data it was imported from masks."""
    reason = "expert-win" if is_expert(win) else "student-win"
    return TrainingExample(
        id=f"{win.id}@0", task=win.task, trajectory=win.id, state=0,
        weights=tuple(step.weight for step in win.steps),
        reasons=tuple(reason if step.weight else "masked" for step in win.steps), evidence=(win.id,),
    )


def make_selection(
    method: str,
    examples: Sequence[TrainingExample],
    tasks: Sequence[str],
    counts: Mapping[str, int] | None = None,
) -> Selection:
    """The examples, with counts for the report beside the method's own; MethodError where there are none.

    `tasks.unsolved` have no example from their start; `examples.<reason>` train at least one step for that
    reason; `steps.<reason>` is how many steps are trained for it.
    """
    if not examples:
        raise MethodError(
            f"method `{method}` has nothing to train on: no win in {len(tasks)} tasks",
            hint="check the expert's trajectories and the environment's success threshold",
        )
    total = Counter(counts or {})
    total["examples"] = len(examples)
    total["tasks.unsolved"] = len(set(tasks) - {example.task for example in examples if example.state == 0})
    for example in examples:
        steps = zip(example.reasons, example.weights, strict=True)
        trained = [reason for reason, weight in steps if weight > 0]
        total.update(f"steps.{reason}" for reason in trained)
        total.update(f"examples.{reason}" for reason in set(trained))
    return Selection(tuple(examples), dict(sorted(total.items())))


def _expert_name(trajectory: Trajectory) -> str:
    return trajectory.author.removeprefix("expert:")
