"""Rollouts in the toy environment: a scripted student, expert trajectories, specs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from eef.env import Env
from eef.envs.toy import ToyEnv, toy_player
from eef.errors import EnvError
from eef.policy import GREEDY, Policy
from eef.rollouts.runner import RolloutParameters, play
from eef.rollouts.specs import RolloutSpec
from eef.trajectory import Author, Trajectory, TrajectorySet
from eef.utils.seeds import derive_seed

STUDENT = toy_player(Author("student", "student@round1"), 0.6)


class WithoutSnapshot(ToyEnv):
    supports_snapshot = False

    def snapshot(self) -> NoReturn:
        raise EnvError("no snapshots")

    def restore(self, snapshot: Any) -> NoReturn:
        raise EnvError("no snapshots")


def parameters(step_limit: int = 10, batch_size: int = 4, **options: Any) -> RolloutParameters:
    """Greedy rollouts."""
    return RolloutParameters(
        sampling=GREEDY, step_limit=step_limit, batch_size=batch_size, **options
    )


def specs_from_start(env: Env, count: int = 8, seed: int = 0) -> list[RolloutSpec]:
    """One rollout of each of the first training tasks, from its start."""
    tasks = env.tasks("train").head(count)
    return [
        RolloutSpec(f"r/{task.id}", task, None, derive_seed(seed, task.id), 1) for task in tasks
    ]


def run(
    specs: Sequence[RolloutSpec],
    env: Env | None = None,
    policy: Policy = STUDENT,
    trajectories: Iterable[Trajectory] = (),
    **options: Any,
) -> list[Trajectory]:
    """Play specs; `options` are those of `parameters`."""
    return list(
        play(
            specs,
            env=env or ToyEnv(),
            policy=policy,
            trajectories=TrajectorySet(trajectories),
            parameters=parameters(**options),
        )
    )


def expert_trajectories(count: int = 6) -> list[Trajectory]:
    """Episodes of a mediocre expert: some are won, some fail."""
    env = ToyEnv()
    specs = [
        replace(spec, id=f"e{number}")
        for number, spec in enumerate(specs_from_start(env, count, seed=7))
    ]
    return run(specs, env, toy_player(Author("expert", "e"), 0.5))
