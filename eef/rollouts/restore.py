"""StateRestorer: bring an environment into a recorded state, by verified replay or by snapshot."""

from __future__ import annotations

from typing import Any

from eef.env import Env, replay
from eef.errors import ReplayMismatch
from eef.task import Task
from eef.trajectory import PathStep, StateRef, TrajectorySet

CAPACITY = 256  # snapshots kept; plans list the rollouts of a state one after the other


class StateRestorer:
    """The states of recorded trajectories, as start states of rollouts.

    The first visit of a state replays the recorded actions and compares every observation,
    including the one in the state itself. If the environment supports snapshots, later visits, in
    any clone, restore the snapshot taken then.
    """

    def __init__(self, trajectories: TrajectorySet) -> None:
        self._trajectories = trajectories
        self._snapshots: dict[StateRef, Any] = {}

    def prefix(self, state: StateRef | None) -> tuple[PathStep, ...]:
        """The steps that lead to a state; empty for a task's start (None)."""
        return self._trajectories.path_to(state) if state is not None else ()

    def restore(self, env: Env, task: Task, state: StateRef | None) -> tuple[str, int]:
        """Bring `env` into a state. Returns the observation there and the number of replayed steps.

        ReplayMismatch if an observation differs from the record, or if the episode is over in that
        state.
        """
        if state is None:
            return env.reset(task), 0
        if state in self._snapshots:
            env.restore(self._snapshots[state])
            return self._trajectories.observation_at(state), 0
        observation = self._replay(env, task, state)
        if env.supports_snapshot:
            self._keep(state, env.snapshot())
        return observation, state.t

    def _replay(self, env: Env, task: Task, state: StateRef) -> str:
        expected = self._trajectories.observation_at(state)
        now = replay(env, task, self.prefix(state))
        if now.terminated or now.observation != expected:
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
        return expected

    def _keep(self, state: StateRef, snapshot: Any) -> None:
        self._snapshots[state] = snapshot
        if len(self._snapshots) > CAPACITY:
            del self._snapshots[next(iter(self._snapshots))]
