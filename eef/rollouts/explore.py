"""Explore: play the rollouts which a method's plan asks for into the store, and go on where it stopped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

from eef.env import Env
from eef.errors import EnvError
from eef.policy import Policy, Sampling
from eef.rollouts.runner import RolloutRunner, RolloutSpec, batches, derive_seed, is_replay_mismatch
from eef.rollouts.store import Store
from eef.selection import PlannedState
from eef.task import Task
from eef.trajectory import Trajectory, TrajectorySet


@dataclass(frozen=True, slots=True, kw_only=True)
class Exploration:
    """What came of a list of launches.

    `played` rollouts were added to the store now (second tries included), `skipped` launches were in it
    before. `errors` counts the launches which broke twice, `replay_mismatches` the states which did not come
    back and cannot be played from. `seconds` is the wall-clock time of this call.
    """

    played: int
    skipped: int
    errors: int
    replay_mismatches: int
    seconds: float


def launches(
    states: Sequence[PlannedState], tasks: Mapping[str, Task], *, round: int, seed: int
) -> list[RolloutSpec]:
    """The launches of a plan, with ids and seeds that depend on `seed`, the round and the state alone.

    Worked example. `PlannedState("toy/3", StateRef("e", 4), 2)` in round 1 becomes the launches
    `round1/e@4#0` and `round1/e@4#1`; the task's start would be `round1/toy/3@0#0`. EnvError for a task that
    is not in `tasks`.
    """
    numbers: Counter[str] = Counter()
    planned = []
    for item in states:
        if item.task not in tasks:
            raise EnvError(
                f"the environment has no task {item.task!r}",
                hint="the trajectories were recorded with other tasks or another split",
            )
        place = str(item.state) if item.state is not None else f"{item.task}@0"
        for _ in range(item.count):
            name = f"round{round}/{place}#{numbers[place]}"
            numbers[place] += 1
            planned.append(
                RolloutSpec(name, tasks[item.task], item.state, derive_seed(seed, name), round)
            )
    return planned


def attempt_ids(launch: str) -> tuple[str, str]:
    """The ids of a launch's rollout and of its second try."""
    return launch, f"{launch}~1"


def explore(
    launches: Sequence[RolloutSpec],
    store: Store,
    env: Env,
    policy: Policy,
    *,
    sampling: Sampling,
    step_limit: int,
    batch_size: int,
    reset_step_limit: bool = False,
    prompt_suffix: str = "",
    progress: Callable[[Trajectory], None] | None = None,
) -> Exploration:
    """Play every launch which the store does not hold yet; broken rollouts get a second try (id suffix `~1`).

    Called again after an interruption it leaves the store an uninterrupted call would have left. To that end
    a batch of which something is missing is played as a whole again where completions depend on the batch
    (`Policy.batch_invariant` False), and only what is missing is appended. `progress` hears of each new
    trajectory once it is stored; its exceptions, like an interruption, lose nothing that is stored. EnvError where a
    launch starts inside a text-only trajectory.
    """
    started = perf_counter()
    _refuse_text_only(launches, store.trajectories)
    skipped = sum(launch.id in store.trajectories for launch in launches)
    player = RolloutRunner(
        env,
        policy,
        store.trajectories,
        sampling=sampling,
        step_limit=step_limit,
        reset_step_limit=reset_step_limit,
        prompt_suffix=prompt_suffix,
    )
    with player:
        played = _complete(launches, store, player, policy.batch_invariant, batch_size, progress)
        retries = [
            _second_try(launch) for launch in launches if _is_broken(store.trajectories[launch.id])
        ]
        played += _complete(retries, store, player, policy.batch_invariant, batch_size, progress)
    ends = [store.trajectories[launch.id] for launch in launches]
    return Exploration(
        played=played,
        skipped=skipped,
        errors=sum(_is_broken(store.trajectories[launch.id]) for launch in retries),
        replay_mismatches=len({end.start for end in ends if is_replay_mismatch(end)}),
        seconds=perf_counter() - started,
    )


def _complete(
    launches: Sequence[RolloutSpec],
    store: Store,
    player: RolloutRunner,
    batch_invariant: bool,
    batch_size: int,
    progress: Callable[[Trajectory], None] | None,
) -> int:
    """Play what is missing, batch by batch of the whole list; returns how many trajectories were added."""
    played = 0
    for batch in batches(launches, batch_size):
        missing = [launch for launch in batch if launch.id not in store.trajectories]
        if not missing:
            continue
        for trajectory in player.play(missing if batch_invariant else batch):
            if trajectory.id in store.trajectories:
                continue
            store.append(trajectory)
            played += 1
            if progress is not None:
                progress(trajectory)
    return played


def _refuse_text_only(launches: Sequence[RolloutSpec], trajectories: TrajectorySet) -> None:
    """EnvError for a launch from a state inside a text-only trajectory: nothing says that the state can be reached."""
    for launch in launches:
        if launch.state is not None and not trajectories[launch.state.trajectory].replayable:
            raise EnvError(
                f"cannot play on from {launch.state}: that trajectory is text only "
                f"({trajectories[launch.state.trajectory].source}), its states were never seen in this environment",
                hint="import it with the environment it was recorded in; for behaviour cloning it is good as it is",
            )


def _is_broken(trajectory: Trajectory) -> bool:
    """Whether a second try may help: the same recorded actions would not replay the second time either."""
    return trajectory.status == "error" and not is_replay_mismatch(trajectory)


def _second_try(launch: RolloutSpec) -> RolloutSpec:
    return replace(launch, id=attempt_ids(launch.id)[1], seed=derive_seed(launch.seed, 1))
