"""The rollouts of a plan: their specs, their ids, and those of their repetitions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eef.errors import EnvError
from eef.selection import PlannedState
from eef.task import Task
from eef.trajectory import StateRef, Trajectory, TrajectorySet
from eef.utils.seeds import derive_seed


@dataclass(frozen=True, slots=True)
class RolloutSpec:
    """One rollout to play from `state`, or from the task's start (None).

    `id` becomes the id of its trajectory. `prompt_suffix` is appended to the environment's prompt.
    """

    id: str
    task: Task
    state: StateRef | None
    seed: int
    round: int
    prompt_suffix: str = ""


def rollout_specs(
    states: Sequence[PlannedState],
    tasks: Mapping[str, Task],
    *,
    owner: str,
    round: int,
    seed: int,
    prompt_suffix: str = "",
) -> list[RolloutSpec]:
    """The rollouts of a plan. Ids start with `owner`, so that they are unique in a run.

    A state without a prompt suffix of its own has `prompt_suffix`.

    Seeds depend only on `seed`, the round and the state, not on the owner: two methods that play
    the same state in the same round draw the same random numbers.

    Worked example. `PlannedState("toy/3", StateRef("e", 4), 2)` of owner "eef" in round 1 becomes
    the specs `eef/round1/e@4#0` and `eef/round1/e@4#1`. From the task's start, the first id would
    be `eef/round1/toy/3@0#0`.

    EnvError for a task that is not in `tasks`.
    """
    numbers: Counter[str] = Counter()
    specs = []
    for item in states:
        if item.task not in tasks:
            raise EnvError(
                f"the environment has no task {item.task!r}",
                hint="the trajectories were recorded with other tasks or another split",
            )
        state = str(item.state) if item.state is not None else f"{item.task}@0"
        for _ in range(item.count):
            name = f"round{round}/{state}#{numbers[state]}"
            numbers[state] += 1
            spec = RolloutSpec(
                f"{owner}/{name}",
                tasks[item.task],
                item.state,
                derive_seed(seed, name),
                round,
                item.prompt_suffix or prompt_suffix,
            )
            specs.append(spec)
    return specs


def attempt_ids(spec: str) -> tuple[str, str]:
    """The ids of a spec's rollout and of its second attempt."""
    return spec, f"{spec}~1"


def is_first_attempt(id: str, task: str) -> bool:
    """Whether a rollout of an evaluation is the first attempt at its task, or the repetition of one
    that failed. Retries after a known loss have a number after the task in their ids."""
    return id.endswith(attempt_ids(task))


def last_attempt(trajectories: TrajectorySet, spec: str) -> Trajectory:
    """The rollout of a spec, or its second attempt if there was one."""
    first, second = attempt_ids(spec)
    return trajectories[second if second in trajectories else first]
