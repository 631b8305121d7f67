"""Ledger: what each stage of a run cost, written while it goes. The report compares at equal budget."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from eef.errors import DataError
from eef.pipeline.stages import Stage
from eef.trajectory import Trajectory
from eef.utils.jsonl import append_jsonl, disk_errors, numbered_records, repair_tail

LEDGER_FILE = "ledger.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """A budget, spent.

    `env_steps` counts the rollouts' own steps, `replayed_steps` (apart from these) the recorded ones played
    again to reach a state. `cached_tokens` are those of `prompt_tokens` which were not computed again.
    `trained_tokens` carry loss, `processed_tokens` are all that went through the model while training.
    `updates` are optimizer steps.
    """

    rollouts: int = 0
    env_steps: int = 0
    replayed_steps: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    updates: int = 0
    trained_tokens: int = 0
    processed_tokens: int = 0
    seconds: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        names = [each.name for each in fields(self)]
        return Cost(**{name: getattr(self, name) + getattr(other, name) for name in names})


def usage_of(trajectories: Iterable[Trajectory]) -> Cost:
    """What these rollouts cost together, broken ones included."""
    total = Cost()
    for trajectory in trajectories:
        total += Cost(rollouts=1, env_steps=len(trajectory.steps), **asdict(trajectory.usage))
    return total


class Ledger:
    """The costs of a run by stage. A stage entered again replaces its earlier entry: resuming counts once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._costs: dict[Stage, Cost] = {}
        for number, record in numbered_records(path, torn_ok=True):
            try:
                stage = Stage(record.pop("method"), record.pop("round"), record.pop("stage"))
                self._costs[stage] = Cost(**record)
            except (KeyError, TypeError) as error:
                raise DataError(
                    f"`{path}`, line {number}: malformed ledger entry ({error})"
                ) from error

    @classmethod
    def open(cls, directory: Path) -> Ledger:
        """Open or create the ledger of a directory. DataError (with file and line) for a malformed line."""
        path = directory / LEDGER_FILE
        with disk_errors(path):
            directory.mkdir(parents=True, exist_ok=True)
            path.touch()
            repair_tail(path)
        return cls(path)

    def record(self, method: str, round: int, stage: str, cost: Cost) -> None:
        """Enter what a stage has cost so far; entering the same again writes nothing."""
        key = Stage(method, round, stage)
        if self._costs.get(key) != cost:
            append_jsonl(self.path, {**asdict(key), **asdict(cost)})
            self._costs[key] = cost

    @property
    def entries(self) -> dict[Stage, Cost]:
        """Cost by stage, in the order in which the stages were first entered."""
        return dict(self._costs)

    def totals(self, method: str) -> Cost:
        """The sum over all stages and rounds of a method."""
        return sum((cost for stage, cost in self._costs.items() if stage.method == method), Cost())
