"""Ledger: the cost of each stage of a run, by which budgets are compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

from eef.errors import DataError
from eef.note import Note, RoleUsage, add_usage
from eef.pipeline.stages import Stage
from eef.trajectory import Trajectory, Usage
from eef.utils.jsonl import append_jsonl, disk_errors, numbered_records, repair_tail
from eef.utils.records import STRICT_FIELDS

if TYPE_CHECKING:
    from eef.training.trainer import TrainResult

LEDGER_FILE = "ledger.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The cost of a stage, a rollout or a run.

    `env_steps` counts the rollouts' own steps; recorded steps that were played again to restore a
    state are counted in `replayed_steps` instead. `tolerated_steps` counts those of them that
    differ from the record only in what the environment ignores. `cached_tokens` is the part of
    `prompt_tokens` that was not recomputed. `drifted_turns` are those whose text does not give the
    token ids they were sampled as. `trained_tokens` carry loss; `processed_tokens` are all tokens
    that passed through the model during training. `updates` are optimizer steps. `completions` are
    what the agent wrote, `lookahead_steps` steps that were executed and undone. `roles` is what
    other models wrote; the tokens above do not include theirs.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT_FIELDS

    rollouts: int = 0
    env_steps: int = 0
    replayed_steps: int = 0
    tolerated_steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    drifted_turns: int = 0
    completions: int = 0
    lookahead_steps: int = 0
    updates: int = 0
    trained_tokens: int = 0
    processed_tokens: int = 0
    roles: tuple[RoleUsage, ...] = ()
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        sums = {name: getattr(self, name) + getattr(other, name) for name in COUNTS}
        return Cost(**sums, roles=add_usage(self.roles, other.roles))

    @property
    def role_tokens(self) -> int:
        """Tokens that all roles have generated."""
        return sum(usage.generated_tokens for usage in self.roles)


COUNTS = tuple(each.name for each in fields(Cost) if each.name != "roles")
"""Names of the counts of a cost, `seconds` among them."""


def usage_of(trajectories: Iterable[Trajectory], notes: Iterable[Note] = ()) -> Cost:
    """The total cost of rollouts, failed ones included, and of notes."""
    total = Cost(roles=add_usage(note.usage for note in notes))
    for trajectory in trajectories:
        usage = {each.name: getattr(trajectory.usage, each.name) for each in fields(Usage)}
        total += Cost(rollouts=1, env_steps=len(trajectory.steps), **usage)
    return total


def training_cost(result: TrainResult) -> Cost:
    """The cost of a training."""
    return Cost(
        updates=result.updates,
        trained_tokens=result.trained_tokens,
        processed_tokens=result.processed_tokens,
        seconds=result.seconds,
    )


def parse_cost(record: Mapping[str, Any]) -> Cost:
    """The cost in a JSON object."""
    return _COST.validate_python(record)


_STAGE, _COST = TypeAdapter(Stage), TypeAdapter(Cost)
_STAGE_FIELDS = [each.name for each in fields(Stage)]


class Ledger:
    """Costs by stage. Entering a stage again replaces its entry, so a resumed stage counts once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._costs: dict[Stage, Cost] = {}
        for number, record in numbered_records(path, torn_ok=True):
            try:
                names = (record.pop("method"), record.pop("round"), record.pop("stage"))
                stage = _STAGE.validate_python(dict(zip(_STAGE_FIELDS, names, strict=True)))
                self._costs[stage] = _COST.validate_python(record)
            except (KeyError, ValidationError) as error:
                reason = " ".join(str(error).split())
                raise DataError(
                    f"`{path}`, line {number}: malformed ledger entry ({reason})"
                ) from error

    @classmethod
    def open(cls, directory: Path) -> Ledger:
        """Open or create the ledger of a directory. DataError (file, line) for a malformed line."""
        path = directory / LEDGER_FILE
        with disk_errors(path):
            directory.mkdir(parents=True, exist_ok=True)
            path.touch()
            repair_tail(path)
        return cls(path)

    def record(self, stage: Stage, cost: Cost) -> None:
        """Enter the cost of a stage so far; entering the same cost again writes nothing."""
        if self._costs.get(stage) != cost:
            key = {"method": stage.method, "round": stage.round, "stage": stage.kind}
            append_jsonl(self.path, {**key, **asdict(cost)})
            self._costs[stage] = cost

    @property
    def entries(self) -> dict[Stage, Cost]:
        """Cost by stage, in the order of first entry."""
        return dict(self._costs)
