"""Rollouts in the toy environment: a scripted student, expert trajectories, launches from the start."""

from __future__ import annotations

from dataclasses import replace

from eef.envs.toy import ToyEnv, toy_player
from eef.errors import EnvError
from eef.policy import GREEDY
from eef.rollouts.runner import RolloutSpec, derive_seed, play
from eef.trajectory import Author, TrajectorySet

STUDENT = toy_player(Author("student", "student@round1"), 0.6)


class WithoutSnapshot(ToyEnv):
    supports_snapshot = False

    def snapshot(self):
        raise EnvError("no snapshots")

    def restore(self, snapshot):
        raise EnvError("no snapshots")


def from_starts(env, count=8, seed=0):
    tasks = env.tasks("train").head(count)
    return [
        RolloutSpec(f"r/{task.id}", task, None, derive_seed(seed, task.id), 1) for task in tasks
    ]


def run(
    launches, env=None, policy=STUDENT, trajectories=(), step_limit=10, batch_size=4, **options
):
    return list(
        play(
            launches,
            env=env or ToyEnv(),
            policy=policy,
            trajectories=TrajectorySet(trajectories),
            sampling=GREEDY,
            step_limit=step_limit,
            batch_size=batch_size,
            **options,
        )
    )


def expert_trajectories(count=6):
    env = ToyEnv()
    launches = [
        replace(each, id=f"e{number}")
        for number, each in enumerate(from_starts(env, count, seed=7))
    ]
    return run(launches, env, toy_player(Author("expert", "e"), 0.5))
