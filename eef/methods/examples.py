"""Builders of plans, training examples, preference pairs and selections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from eef.errors import MethodError
from eef.methods.base import Method
from eef.methods.queries import check_experts
from eef.selection import (
    PlannedState,
    PreferencePair,
    Selection,
    TextExample,
    TextPair,
    TrainingExample,
)
from eef.thoughts import is_blank
from eef.trajectory import StateRef, Step, Trajectory, TrajectorySet


def plan_task(task: str, states: Sequence[StateRef], count: int) -> list[PlannedState]:
    """`count` rollouts from a task's start, and `count` from each of `states`."""
    return [PlannedState(task, state, count) for state in (None, *states)]


def path_example(item: Trajectory, prompt_suffix: str | None = None) -> TrainingExample:
    """The example that trains every action of an episode; see `suffix_example`."""
    return suffix_example(item, 0, prompt_suffix=prompt_suffix)


def suffix_example(
    item: Trajectory,
    state: int,
    *,
    end: int | None = None,
    reason: str | None = None,
    prompt_suffix: str | None = None,
) -> TrainingExample:
    """The example that trains the steps of a path from `state` to before `end` (default: all).

    Only the trajectory's own steps are trained, with weight 1 times their imported weight. The
    default reason is the author's role and the outcome: `student-win`, `expert-failure`, … The
    default prompt suffix is the one that the student played with; an expert's prompt of its own is
    not trained on.

    Worked example. For an expert's win of 4 steps, `suffix_example(win, 2)` has the weights
    (0, 0, 1, 1) and the reasons (context, context, expert-win, expert-win).
    """
    role, outcome = "expert" if item.by_expert else "student", "win" if item.success else "failure"
    end = item.length if end is None else end
    steps = [
        apply_step_weight(1.0, reason or f"{role}-{outcome}", item.steps[t - item.first])
        if max(state, item.first) <= t < end
        else (0.0, "context")
        for t in range(item.length)
    ]
    own = "" if item.by_expert else item.prompt_suffix
    suffix = own if prompt_suffix is None else prompt_suffix
    return weighted_example(item, state, steps, prompt_suffix=suffix)


def weighted_example(
    item: Trajectory,
    state: int,
    steps: Sequence[tuple[float, str]],
    *,
    evidence: Sequence[str] = (),
    prompt_suffix: str = "",
) -> TrainingExample:
    """The example of a path with the (weight, reason) of each of its steps.

    The path itself proves it, and so do the rollouts in `evidence`.
    """
    return TrainingExample(
        id=f"{item.id}@{state}",
        task=item.task,
        trajectory=item.id,
        state=state,
        prompt_suffix=prompt_suffix,
        weights=tuple(weight for weight, _ in steps),
        reasons=tuple(reason for _, reason in steps),
        evidence=tuple(dict.fromkeys((item.id, *evidence))),
    )


def apply_step_weight(weight: float, reason: str, step: Step) -> tuple[float, str]:
    """(weight, reason) of a trained step, scaled by the step's imported weight.

    A step of weight 0, or without text outside thought blocks, is `masked`.
    """
    if step.weight == 0 or is_blank(step.completion):
        return 0.0, "masked"
    return weight * step.weight, reason


def make_pair(chosen: TrainingExample, rejected: TrainingExample) -> PreferencePair:
    """The preference pair of two examples from the same state."""
    return PreferencePair(
        id=f"{chosen.id} > {rejected.id}", task=chosen.task, chosen=chosen, rejected=rejected
    )


def select_episodes(
    method: Method[Any],
    trajectories: TrajectorySet,
    tasks: Sequence[str],
    episodes_of: Callable[[str], Iterable[Trajectory]],
) -> Selection:
    """A selection that trains every action of each task's `episodes_of(task)`.

    MethodError if there is no episode, or if `bc_experts` names an unknown expert.
    """
    check_experts(trajectories, method.options.bc_experts)
    examples = [path_example(episode) for task in tasks for episode in episodes_of(task)]
    return make_selection(method.name, examples, tasks)


def make_selection(
    method: str,
    examples: Sequence[TrainingExample],
    tasks: Sequence[str],
    counts: Mapping[str, int] | None = None,
    pairs: Sequence[PreferencePair] = (),
) -> Selection:
    """The examples and pairs, with counts for the report in addition to the method's own.

    `tasks.unsolved` counts tasks without an example or chosen response from their start,
    `examples.<reason>` the examples that train at least one step for that reason, and
    `steps.<reason>` the steps trained for it.

    MethodError if there are neither examples nor pairs.
    """
    if not examples and not pairs:
        raise MethodError(
            f"method {method!r} has nothing to train on: no win in {len(tasks)} tasks, or none "
            "that fits its options",
            hint="check the experts' trajectories, the method's options and the environment's "
            "success threshold",
        )
    total = Counter(counts or {})
    total["examples"] = len(examples)
    if pairs:
        total["pairs"] = len(pairs)
    solutions = (*examples, *(pair.chosen for pair in pairs))
    solved = {example.task for example in solutions if example.state == 0}
    total["tasks.unsolved"] = len(set(tasks) - solved)
    total.update(count_steps(examples))
    return Selection(tuple(examples), dict(sorted(total.items())), tuple(pairs))


def count_steps(examples: Iterable[TrainingExample]) -> Counter[str]:
    """The trained steps and the examples with any, by reason; see `make_selection`."""
    total: Counter[str] = Counter()
    for example in examples:
        steps = zip(example.reasons, example.weights, strict=True)
        trained = [reason for reason, weight in steps if weight > 0]
        total.update(f"steps.{reason}" for reason in trained)
        total.update(f"examples.{reason}" for reason in set(trained))
    return total


def select_texts(
    method: str,
    texts: Sequence[TextExample],
    pairs: Sequence[TextPair] = (),
    counts: Mapping[str, int] | None = None,
    *,
    required: bool = False,
) -> Selection:
    """A selection that trains roles and leaves the student as it is, with counts for the report.

    `texts.<role>` and `text_pairs.<role>` count what each role is trained on. MethodError if there
    is nothing and `required` is set.
    """
    if required and not texts and not pairs:
        raise MethodError(
            f"method {method!r} has no text to train its roles on",
            hint="check the skipped notes (`notes.jsonl`) and the wins of the run",
        )
    total = Counter({"examples": 0, **(counts or {})})
    total.update(f"texts.{text.role}" for text in texts)
    total.update(f"text_pairs.{pair.chosen.role}" for pair in pairs)
    return Selection((), dict(sorted(total.items())), texts=tuple(texts), text_pairs=tuple(pairs))
