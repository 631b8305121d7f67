"""StateRestorer: bring an environment into a recorded state, by verified replay or by snapshot."""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

from eef.env import Env
from eef.errors import ReplayMismatch
from eef.replay import compare_observations, replay
from eef.task import Task
from eef.trajectory import PathStep, StateRef, TrajectorySet

CAPACITY = 256  # snapshots kept; plans list the rollouts of a state one after the other


class Restored(NamedTuple):
    """A state that an environment was brought into: the observation there, the number of replayed
    steps, and how many observations differ from the record in what the environment ignores."""

    observation: str
    replayed_steps: int = 0
    tolerated_steps: int = 0


class StateRestorer:
    """The states of recorded trajectories, as start states of rollouts.

    The first visit of a state replays the recorded actions and compares every observation,
    including the one in the state itself, except for what the environment ignores. If the
    environment supports snapshots, later visits, in any clone, restore the snapshot taken then.

    Safe to use from several threads, each with an environment of its own.
    """

    def __init__(self, trajectories: TrajectorySet) -> None:
        self._trajectories = trajectories
        self._snapshots: dict[StateRef, tuple[Any, str]] = {}  # with the observation there
        self._lock = threading.Lock()

    def prefix(self, state: StateRef | None) -> tuple[PathStep, ...]:
        """The steps that lead to a state; empty for a task's start (None)."""
        return self._trajectories.path_to(state) if state is not None else ()

    def restore(self, env: Env, task: Task, state: StateRef | None) -> Restored:
        """Bring `env` into a state. `task` has the seed of the state's episode.

        ReplayMismatch if an observation differs from the record, or if the episode has ended when
        that state is reached.
        """
        if state is None:
            return Restored(env.reset(task))
        with self._lock:
            kept = self._snapshots.get(state)
        if kept is not None:
            snapshot, observation = kept
            env.restore(snapshot)
            return Restored(observation)
        restored = self._replay(env, task, state)
        if env.supports_snapshot:
            self._keep(state, (env.snapshot(), restored.observation))
        return restored

    def _replay(self, env: Env, task: Task, state: StateRef) -> Restored:
        expected = self._trajectories.observation_at(state)
        now, tolerated, _ = replay(env, task, self.prefix(state))
        match = compare_observations(env.ignored, expected, now.observation)
        if now.terminated or match == "different":
            problem = (
                "the episode is over"
                if now.terminated
                else "the observation differs from the record"
            )
            raise ReplayMismatch(
                f"replay of {task.id}: in {state} {problem}",
                step=state.t,
                expected=expected,
                observed=now.observation,
            )
        return Restored(now.observation, state.t, tolerated + (match == "tolerated"))

    def _keep(self, state: StateRef, snapshot: tuple[Any, str]) -> None:
        with self._lock:
            self._snapshots[state] = snapshot
            if len(self._snapshots) > CAPACITY:
                del self._snapshots[next(iter(self._snapshots))]
