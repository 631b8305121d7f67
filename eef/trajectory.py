"""Step, StateRef, Trajectory, TrajectorySet: what was played, by whom, from where.

A trajectory stores its own steps only. One which starts inside another (a *branch*) names that state in `start`;
its whole path from the task's start is derived by `TrajectorySet.path`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from eef.errors import StoreError

RECORD_VERSION = 2

Status = Literal["terminated", "truncated", "error"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One turn: what the agent saw, all that it wrote, what the environment executed, and the reward of it.

    `action` is empty where the completion held no action (a format error, which costs a step). `weight` is the loss
    weight that imported data gave this turn (1 where it gave none); methods scale theirs by it.
    """

    observation: str
    completion: str
    action: str
    reward: float = 0.0
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class StateRef:
    """The state in which step `t` of a trajectory's path is taken; `t` counts from the task's start.

    `t` equal to the path's length is the state after its last step. Written `trajectory@t`.
    """

    trajectory: str
    t: int

    def __str__(self) -> str:
        return f"{self.trajectory}@{self.t}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one rollout cost. Tokens count from the policy's side; `seconds` is its share of wall-clock time."""

    replayed_steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """One rollout as it was recorded.

    `author` made every step of it (`expert:strong`, `policy:eef@round2`). `reward` is the episode's final reward in
    [0, 1], None where `status` is "error" (then `error` says why, and the rollout says nothing about the policy).
    `success` is the environment's verdict on that reward. `round` 0 is expert data. `final_observation` is what
    followed the last step. `replayable` False is *text only*: imported, and never seen in the environment, so that it
    can be trained on but not played on from. `source` is the place it was imported from (`file:line`), None where it
    was played here.

    Worked example. An expert path of 12 steps has id `e`. A student that plays on from its state 4 and wins in three
    steps leaves `Trajectory(start=StateRef("e", 4), steps=(3 steps), …)`; its path has 4 + 3 = 7 steps, of which the
    first four were made by the expert.
    """

    id: str
    task: str
    author: str
    steps: tuple[Step, ...]
    final_observation: str
    status: Status
    reward: float | None
    success: bool
    start: StateRef | None = None
    round: int = 0
    seed: int = 0
    error: str | None = None
    usage: Usage = field(default_factory=Usage)
    replayable: bool = True
    source: str | None = None

    @property
    def first(self) -> int:
        """Index in the path of the first own step: the length of the prefix it started from."""
        return self.start.t if self.start else 0

    @property
    def length(self) -> int:
        """Steps of the whole path, prefix included."""
        return self.first + len(self.steps)

    def to_record(self) -> dict[str, Any]:
        return {"version": RECORD_VERSION, **asdict(self)}

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Trajectory:
        """The trajectory of a record of the current version (`eef.store` migrates older ones).

        Raises StoreError naming the field which is missing, unknown or of another version.
        """
        fields = dict(record)
        version = fields.pop("version", None)
        if version != RECORD_VERSION:
            raise StoreError(
                f"trajectory record has version {version!r}, this `eef` reads {RECORD_VERSION}"
            )
        try:
            start = fields.pop("start")
            steps = tuple(Step(**step) for step in fields.pop("steps"))
            usage = Usage(**fields.pop("usage"))
            return cls(
                start=StateRef(**start) if start else None, steps=steps, usage=usage, **fields
            )
        except (KeyError, TypeError) as error:
            raise StoreError(
                f"malformed trajectory record {record.get('id')!r}: {error}"
            ) from error


@dataclass(frozen=True, slots=True)
class PathStep:
    """A step of a path with its provenance: which trajectory holds it and who made it."""

    step: Step
    trajectory: str
    author: str


class TrajectorySet:
    """Trajectories by id, in the order they were added, with the paths between them."""

    def __init__(self, trajectories: Iterable[Trajectory] = ()) -> None:
        self._by_id: dict[str, Trajectory] = {}
        self._by_task: dict[str, list[str]] = {}
        for trajectory in trajectories:
            self.add(trajectory)

    def add(self, trajectory: Trajectory) -> None:
        """Add one; a branch's origin must be there before it, and an id only once (StoreError)."""
        self.check(trajectory)
        self._by_id[trajectory.id] = trajectory
        self._by_task.setdefault(trajectory.task, []).append(trajectory.id)

    def check(self, trajectory: Trajectory) -> None:
        """Raise the StoreError which `add` would raise, and add nothing."""
        if trajectory.id in self._by_id:
            raise StoreError(f"trajectory id {trajectory.id!r} occurs twice")
        if trajectory.start is not None:
            origin = self._by_id.get(trajectory.start.trajectory)
            if origin is None:
                raise StoreError(
                    f"trajectory {trajectory.id!r} starts in unknown {trajectory.start}"
                )
            if not 0 <= trajectory.start.t <= origin.length:
                raise StoreError(
                    f"trajectory {trajectory.id!r} starts outside its origin: {trajectory.start}"
                )

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Trajectory]:
        return iter(self._by_id.values())

    def __contains__(self, trajectory_id: object) -> bool:
        return trajectory_id in self._by_id

    def __getitem__(self, trajectory_id: str) -> Trajectory:
        try:
            return self._by_id[trajectory_id]
        except KeyError:
            raise StoreError(f"no trajectory {trajectory_id!r} in the store") from None

    def of_task(self, task: str) -> list[Trajectory]:
        return [self._by_id[trajectory_id] for trajectory_id in self._by_task.get(task, [])]

    def tasks(self) -> list[str]:
        """Ids of the tasks played, in the order of first appearance."""
        return list(self._by_task)

    def path(self, trajectory_id: str) -> tuple[PathStep, ...]:
        """All steps of a trajectory's path from the task's start, each with its provenance."""
        trajectory = self[trajectory_id]
        own = tuple(PathStep(step, trajectory.id, trajectory.author) for step in trajectory.steps)
        if trajectory.start is None:
            return own
        return self.path(trajectory.start.trajectory)[: trajectory.start.t] + own

    def path_to(self, state: StateRef) -> tuple[PathStep, ...]:
        """The `state.t` steps which lead from the task's start to a state (StoreError if it lies outside)."""
        path = self.path(state.trajectory)
        if not 0 <= state.t <= len(path):
            raise StoreError(f"state {state} lies outside a path of {len(path)} steps")
        return path[: state.t]

    def observation_at(self, state: StateRef) -> str:
        """What the agent sees in a state."""
        trajectory = self[state.trajectory]
        if trajectory.start is not None and state.t < trajectory.first:
            return self.observation_at(StateRef(trajectory.start.trajectory, state.t))
        own = state.t - trajectory.first
        if own == len(trajectory.steps):
            return trajectory.final_observation
        return trajectory.steps[own].observation
