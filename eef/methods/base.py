"""Method: plan() and select(), both pure; and what methods share: wins and failures, their order, examples, pairs.

`plan` says which states to play on from, and `eef.explore` plays them; `select` turns what was played into
training examples. Neither knows a file, a model or an environment.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, cast

from pydantic import Field

from eef.config import Settings, nearest, parse_settings
from eef.errors import MethodError
from eef.labels import is_expert, is_student
from eef.selection import PlannedState, PreferencePair, Selection, TrainingExample
from eef.trajectory import StateRef, Trajectory, TrajectorySet


class MethodOptions(Settings):
    """Options of every method."""

    bc_experts: tuple[str, ...] | None = Field(default=None, strict=False)
    """Experts (without `expert:`) whose wins are trained on; every expert's when left out."""


OptionsT = TypeVar("OptionsT", bound=MethodOptions)


class Method(Protocol):
    """What to play on from and what to train on, in rounds that count from 1 (round 0 is the expert data).

    `told` is what the policy is told beside the environment's prompt whenever it acts, mostly nothing. Both functions
    read the student's rollouts of rounds up to `round` only; what they return depends on the
    set of trajectories, not on its order.
    """

    Options: ClassVar[type[MethodOptions]]

    @property
    def name(self) -> str: ...

    @property
    def options(self) -> MethodOptions: ...

    @property
    def told(self) -> str: ...

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


@dataclass(frozen=True, slots=True)
class Configured(Generic[OptionsT]):
    """What every method is made of: a name and checked options. A method is a subclass with `plan` and `select`."""

    name: str
    options: OptionsT

    Options: ClassVar[type[MethodOptions]] = MethodOptions

    @classmethod
    def of(cls, name: str, options: Mapping[str, object]) -> Self:
        return cls(name, cast(OptionsT, parse_settings(cls.Options, options, source=f"options.{name}")))

    @property
    def told(self) -> str:
        return ""


def plan_states(task: str, states: Sequence[StateRef], each: int) -> list[PlannedState]:
    """`each` rollouts from a task's start and from each of its states."""
    return [PlannedState(task, state, each) for state in (None, *states)]


def expert_trajectories(
    trajectories: TrajectorySet, task: str, experts: Sequence[str] | None = None
) -> list[Trajectory]:
    """The experts' whole episodes of a task, won or failed, by id; broken ones (status "error") left out.

    `experts` (without `expert:`) are those whose episodes count; everyone's for None.
    """
    found = [item for item in trajectories.of_task(task) if is_expert(item) and item.start is None]
    return sorted(
        (item for item in found if item.status != "error" and (experts is None or _expert_name(item) in experts)),
        key=lambda item: item.id,
    )


def from_the_start(trajectories: TrajectorySet, task: str, rounds: range) -> list[Trajectory]:
    """The student's episodes of a task from its start, won or lost, by round and id; broken ones left out."""
    found = [
        item for item in trajectories.of_task(task)
        if is_student(item) and item.start is None and item.status != "error" and item.round in rounds
    ]
    return sorted(found, key=lambda item: (item.round, item.id))


def check_experts(
    trajectories: TrajectorySet, names: Sequence[str] | None, option: str = "bc_experts"
) -> None:
    """Refuse an option which names an expert that played nothing (MethodError)."""
    if names is None:
        return
    known = sorted({_expert_name(item) for item in trajectories if is_expert(item)})
    for name in names:
        if name not in known:
            like = nearest(name, known)
            hint = f"did you mean {like!r}?" if like else f"experts here: {', '.join(known) or 'none'}"
            raise MethodError(f"`{option}` names {name!r}, of whom there is no trajectory", hint=hint)


def winning(
    trajectories: TrajectorySet, task: str, rounds: range, bc_experts: Sequence[str] | None
) -> list[Trajectory]:
    """D+ of a task: the student's wins in `rounds`, from the start or inside a whole episode, and the experts'."""
    student = [
        item for item in trajectories.of_task(task)
        if is_student(item) and item.success and item.round in rounds
        and (item.start is None or trajectories[item.start.trajectory].start is None)
    ]
    return student + [item for item in expert_trajectories(trajectories, task, bc_experts) if item.success]


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


def whole_path(item: Trajectory, told: str = "") -> TrainingExample:
    """The example which trains every action of an episode that was played from the task's start, but for those that the
    data it was imported from masks."""
    return suffix(item, 0, told=told)


def suffix(
    item: Trajectory, state: int, *, end: int | None = None, reason: str | None = None, told: str = ""
) -> TrainingExample:
    """The example which shows a path up to `state`, trains the steps from there (up to `end`), and no other.

    `state` lies in the trajectory's own steps. They weigh 1, or what the data they were imported from gives them. The
    reason is who made the path and how it ended (`student-win`, `expert-failure` …) unless one is given.
    """
    who, how = "expert" if is_expert(item) else "student", "win" if item.success else "failure"
    end = item.length if end is None else end
    steps = [
        scaled(1.0, reason or f"{who}-{how}", item.steps[t - item.first].weight)
        if max(state, item.first) <= t < end else (0.0, "context")
        for t in range(item.length)
    ]
    return TrainingExample(
        id=f"{item.id}@{state}", task=item.task, trajectory=item.id, state=state, told=told,
        weights=tuple(weight for weight, _ in steps), reasons=tuple(reason for _, reason in steps),
        evidence=(item.id,),
    )


def scaled(weight: float, reason: str, given: float) -> tuple[float, str]:
    """(weight, reason) of a step, scaled by the weight it was imported with."""
    return weight * given, reason if given else "masked"


def make_pair(chosen: TrainingExample, rejected: TrainingExample) -> PreferencePair:
    """The pair of two examples from the same state."""
    return PreferencePair(id=f"{chosen.id} > {rejected.id}", task=chosen.task, chosen=chosen, rejected=rejected)


def select_whole(
    method: Configured[Any], trajectories: TrajectorySet, tasks: Sequence[str],
    episodes_of: Callable[[str], Iterable[Trajectory]],
) -> Selection:
    """The whole paths of each task's `episodes_of(task)`. MethodError for an unknown expert, or where there is none."""
    check_experts(trajectories, method.options.bc_experts)
    examples = [whole_path(episode) for task in tasks for episode in episodes_of(task)]
    return make_selection(method.name, examples, tasks)


def make_selection(
    method: str,
    examples: Sequence[TrainingExample],
    tasks: Sequence[str],
    counts: Mapping[str, int] | None = None,
    pairs: Sequence[PreferencePair] = (),
) -> Selection:
    """The examples and pairs, with counts for the report beside the method's own; MethodError where there are none.

    `tasks.unsolved` have no example (nor chosen way) from their start; `examples.<reason>` train at least one step
    for that reason; `steps.<reason>` is how many steps are trained for it.
    """
    if not examples and not pairs:
        raise MethodError(
            f"method `{method}` has nothing to train on: no win in {len(tasks)} tasks, or none that fits its options",
            hint="check the expert's trajectories, the method's options and the environment's success threshold",
        )
    total = Counter(counts or {})
    total["examples"] = len(examples)
    if pairs:
        total["pairs"] = len(pairs)
    ways = (*examples, *(pair.chosen for pair in pairs))
    total["tasks.unsolved"] = len(set(tasks) - {example.task for example in ways if example.state == 0})
    for example in examples:
        steps = zip(example.reasons, example.weights, strict=True)
        trained = [reason for reason, weight in steps if weight > 0]
        total.update(f"steps.{reason}" for reason in trained)
        total.update(f"examples.{reason}" for reason in set(trained))
    return Selection(tuple(examples), dict(sorted(total.items())), tuple(pairs))


def _expert_name(trajectory: Trajectory) -> str:
    return trajectory.author.removeprefix("expert:")
