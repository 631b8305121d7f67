"""Step, StateRef, Author, Trajectory, TrajectorySet: what was played, by whom, and from where.

A trajectory stores its own steps only. One that starts inside another (a *branch*) names that state
in `start`; `TrajectorySet.path` derives its whole path from the task's start.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from pydantic import ConfigDict

from eef.errors import StoreError
from eef.note import Advice, NoteSet, RoleUsage
from eef.utils.records import STRICT_FIELDS, Json, Migration, Record

Status = Literal["terminated", "truncated", "error"]
ErrorKind = Literal["replay", "environment", "policy", "context_overflow", "policy_done"]
"""Why a rollout ended early.

`replay`: its start state could not be restored. `environment`, `policy`: that side raised an error.
`context_overflow`: the conversation no longer fits the model. `policy_done`: the policy declined to
act. The last two leave the status "truncated", the others "error".
"""


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """The token ids of a completion as they were sampled, without the one that ended the turn.

    `vocabulary` identifies the tokenizer (`Renderer.vocabulary`). For any other tokenizer, `ids`
    are meaningless.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT_FIELDS

    ids: tuple[int, ...]
    vocabulary: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One turn: the observation, the full completion, the action executed, and its reward.

    `action` is empty if the completion held no action (a format error, which costs a step).
    `weight` is the loss weight that imported data assigned to this turn (1 by default); methods
    scale their own weights by it. A turn without text is never trained.

    `tokens` are the sampled ids of a *drifted* turn: one whose text, tokenized, gives other ids.
    They are None if the text gives them, or if the policy does not state them (experts, imports).

    `cut` states that the turn reached the maximum of its tokens: the policy did not end it, so its
    end is not trained.

    `advice` is what roles wrote about this turn before it was taken (see `eef.note`).
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT_FIELDS

    observation: str
    completion: str
    action: str
    reward: float = 0.0
    weight: float = 1.0
    tokens: SampledTokens | None = None
    cut: bool = False
    advice: tuple[Advice, ...] = ()


@dataclass(frozen=True, slots=True)
class StateRef:
    """The state in which step `t` of a trajectory's path is taken, counted from the task's start.

    `t` equal to the path's length is the state after its last step. Written `trajectory@t`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT_FIELDS

    trajectory: str
    t: int

    def __str__(self) -> str:
        return f"{self.trajectory}@{self.t}"


AuthorRole = Literal["expert", "student", "agent"]


@dataclass(frozen=True, slots=True)
class Author:
    """Who played a trajectory: an expert, the student of a method and round, or an agent.

    An agent is a frozen model that plays in the student's place. Written `role:name`.

    >>> str(Author("student", "eef@round2"))
    'student:eef@round2'
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT_FIELDS

    role: AuthorRole
    name: str

    def __str__(self) -> str:
        return f"{self.role}:{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The cost of one rollout; `seconds` is its share of wall-clock time.

    Tokens are counted by the policy; candidates that it proposed are included. `drifted_turns` are
    those whose text does not give the token ids they were sampled as (see `Step.tokens`).
    `tolerated_steps` are the replayed steps whose observation differs from the record only in what
    the environment ignores (`Env.ignored`). `completions` counts what the policy wrote, more than
    one per turn if it proposed candidates, and `lookahead_steps` steps that were executed and
    undone. `roles` counts what roles wrote.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT_FIELDS

    replayed_steps: int = 0
    tolerated_steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    drifted_turns: int = 0
    completions: int = 0
    lookahead_steps: int = 0
    roles: tuple[RoleUsage, ...] = ()
    seconds: float = 0.0

    @property
    def all_generated_tokens(self) -> int:
        """Tokens that the policy and all roles have generated."""
        return self.generated_tokens + sum(each.generated_tokens for each in self.roles)


def _name_every_field(record: Json) -> Json:
    """0 → 1: `start`, `round`, `seed`, `error` and `usage` are always present."""
    return {"start": None, "round": 0, "seed": 0, "error": None, "usage": {}, **record}


def _add_origin(record: Json) -> Json:
    """1 → 2: `replayable`, `source`, and a loss weight per step."""
    steps = [{"weight": 1.0, **step} for step in record.get("steps", ())]
    return {
        "replayable": True,
        "source": None,
        **record,
        **({"steps": steps} if "steps" in record else {}),
    }


def _type_strings(record: Json) -> Json:
    """2 → 3: the author is an object (was `expert:name`, `policy:name`); errors have a kind."""
    role, _, name = str(record.get("author", "")).partition(":")
    author = {"role": "student" if role == "policy" else role, "name": name}
    return {**record, "author": author, "error_kind": _kind_of(record.get("error"))}


def _kind_of(error: str | None) -> ErrorKind | None:
    kinds: dict[str, ErrorKind] = {
        "replay: ": "replay",
        "env: ": "environment",
        "policy: ": "policy",
        "context overflow": "context_overflow",
        "the policy took no further turn": "policy_done",
    }
    return next((kind for start, kind in kinds.items() if (error or "").startswith(start)), None)


def _add_tokens(record: Json) -> Json:
    """3 → 4: a step may have the ids it was sampled as, and their turns are counted."""
    steps = [{"tokens": None, **step} for step in record.get("steps", ())]
    return {
        **record,
        **({"steps": steps} if "steps" in record else {}),
        "usage": {"drifted_turns": 0, **record.get("usage", {})},
    }


def _add_verified_steps(record: Json) -> Json:
    """4 → 5: a replay may have verified only the first steps."""
    return {"verified_steps": None, **record}


def _add_episode_seed(record: Json) -> Json:
    """5 → 6: an episode may have a seed, and a replay may tolerate differences."""
    usage = {"tolerated_steps": 0, **record.get("usage", {})}
    return {"episode_seed": None, **record, "usage": usage}


def _add_roles(record: Json) -> Json:
    """6 → 7: a rollout may have a prompt suffix, its steps advice, its usage roles."""
    steps = [{"advice": [], **step} for step in record.get("steps", ())]
    counts = {"completions": 0, "lookahead_steps": 0, "roles": []}
    return {
        "prompt_suffix": "",
        **record,
        **({"steps": steps} if "steps" in record else {}),
        "usage": {**counts, **record.get("usage", {})},
    }


def _add_cut(record: Json) -> Json:
    """7 → 8: a step states whether its turn was cut at the maximum of its tokens."""
    steps = [{"cut": False, **step} for step in record.get("steps", ())]
    return {**record, **({"steps": steps} if "steps" in record else {})}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory(Record):
    """One recorded rollout.

    `author` played all of its own steps. `reward` is the episode's final reward in [0, 1]; it is
    None if and only if `status` is "error", and such a rollout is not evidence about the policy.
    `error` is the reason in words and `error_kind` its kind; both are None for a rollout that ended
    normally. `success` is the environment's verdict on the reward. `round` is 0 for expert data.
    `final_observation` followed the last step. `replayable` is False for imported trajectories that
    could not be verified in the environment: they can be trained on, but not branched from.
    `verified_steps` is None if a replayable trajectory was verified as a whole; otherwise it is the
    number of verified steps: states up to it can be branched from.
    `episode_seed` is the seed of what chance decides in the environment, None if that is nothing.
    `source` is where a trajectory was imported from (`file:line`), or None if it was played here.
    `prompt_suffix` was appended to the environment's prompt while it was played (see `eef.chat`).

    Worked example. An expert path of 12 steps has id `e`. A student that branches from its state 4
    and wins in three steps leaves `Trajectory(start=StateRef("e", 4), steps=(3 steps), …)`. Its
    path has 4 + 3 = 7 steps, the first four of them played by the expert.
    """

    KIND: ClassVar[str] = "trajectory"
    VERSION: ClassVar[int] = 8
    MIGRATIONS: ClassVar[Mapping[int, Migration]] = {
        0: _name_every_field,
        1: _add_origin,
        2: _type_strings,
        3: _add_tokens,
        4: _add_verified_steps,
        5: _add_episode_seed,
        6: _add_roles,
        7: _add_cut,
    }

    id: str
    task: str
    author: Author
    steps: tuple[Step, ...]
    final_observation: str
    status: Status
    reward: float | None
    success: bool
    start: StateRef | None = None
    round: int = 0
    seed: int = 0
    episode_seed: int | None = None
    error: str | None = None
    error_kind: ErrorKind | None = None
    usage: Usage = field(default_factory=Usage)
    replayable: bool = True
    verified_steps: int | None = None
    source: str | None = None
    prompt_suffix: str = ""

    @property
    def first(self) -> int:
        """Index in the path of the first own step, which is the length of the prefix."""
        return self.start.t if self.start else 0

    @property
    def length(self) -> int:
        """Steps of the whole path, prefix included."""
        return self.first + len(self.steps)

    @property
    def by_expert(self) -> bool:
        return self.author.role == "expert"

    @property
    def by_student(self) -> bool:
        return self.author.role == "student"


@dataclass(frozen=True, slots=True)
class PathStep:
    """A step of a path with its provenance: the trajectory that holds it, and its author."""

    step: Step
    trajectory: str
    author: Author


class TrajectorySet:
    """Trajectories by id, in insertion order, with their paths, and notes."""

    def __init__(
        self, trajectories: Iterable[Trajectory] = (), notes: NoteSet | None = None
    ) -> None:
        self.notes = NoteSet() if notes is None else notes
        self._by_id: dict[str, Trajectory] = {}
        self._by_task: dict[str, list[str]] = {}
        for trajectory in trajectories:
            self.add(trajectory)

    def add(self, trajectory: Trajectory) -> None:
        """Add one trajectory. StoreError if its id is taken or its origin is not in the set yet."""
        self.check(trajectory)
        self._by_id[trajectory.id] = trajectory
        self._by_task.setdefault(trajectory.task, []).append(trajectory.id)

    def check(self, trajectory: Trajectory) -> None:
        """Raise the StoreError that `add` would raise, without adding anything."""
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
        """The steps from the task's start to a state. StoreError if it is outside the path."""
        path = self.path(state.trajectory)
        if not 0 <= state.t <= len(path):
            raise StoreError(f"state {state} is outside a path of {len(path)} steps")
        return path[: state.t]

    def observation_at(self, state: StateRef) -> str:
        """The observation of the agent in a state."""
        trajectory = self[state.trajectory]
        if trajectory.start is not None and state.t < trajectory.first:
            return self.observation_at(StateRef(trajectory.start.trajectory, state.t))
        own = state.t - trajectory.first
        if own == len(trajectory.steps):
            return trajectory.final_observation
        return trajectory.steps[own].observation
