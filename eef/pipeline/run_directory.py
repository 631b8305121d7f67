"""RunDirectory: every path and every reader of a run. Needs neither torch nor an environment.

    DIR/recipe.json, fingerprint.json     what is run, and in which environment
    DIR/<method>/trajectories.jsonl       the rollouts of all rounds (`expert`: the expert data)
    DIR/<method>/notes.jsonl              what roles wrote when the method requested it
    DIR/<method>/ledger.jsonl             the cost of each stage
    DIR/<method>/round<r>/                explored.json, examples.jsonl (pairs.jsonl, acts.jsonl,
                                          texts.jsonl, text_pairs.jsonl), selection.json,
                                          training.json, checkpoint/ (optimizer/),
                                          training-<role>.json, checkpoint-<role>/,
                                          evaluation/, evaluation.json

Each stage writes one file last; a stage whose file exists is done and is never executed again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from eef.config import most_similar, parse_settings
from eef.envs.registry import remember_reference
from eef.errors import DataError, StoreError
from eef.methods.base import Method
from eef.methods.registry import make_method
from eef.models.manifest import was_removed
from eef.pipeline.evaluation import EvalResult
from eef.pipeline.ledger import LEDGER_FILE, Cost, Ledger
from eef.pipeline.recipe import Recipe
from eef.pipeline.stages import BC, EXPERT, Stage, StageKind, stages_of
from eef.rollouts.store import StoreReader, read_trajectories
from eef.selection import (
    Acts,
    PreferencePair,
    Selection,
    TextExample,
    TextPair,
    TrainingExample,
)
from eef.trajectory import TrajectorySet
from eef.utils.jsonl import read_jsonl, read_object
from eef.utils.records import Record

R = TypeVar("R", bound=Record)

RECIPE_FILE, FINGERPRINT_FILE = "recipe.json", "fingerprint.json"
_LAST_FILE: dict[StageKind, str] = {
    "collect": "explored.json",
    "explore": "explored.json",
    "select": "selection.json",
    "train": "checkpoint/manifest.json",
    "evaluate": "evaluation.json",
}


class _RolloutCounts(BaseModel, extra="allow"):
    """Counts of rollouts by name, and the reports of imported files and APIs."""

    __pydantic_extra__: dict[str, int] = Field(init=False)
    rollouts: int
    wins: int
    errors: int
    overflows: int
    sources: dict[str, dict[str, Any]] = {}


class _SelectionCounts(BaseModel, extra="allow"):
    """Counts of a selection by name."""

    __pydantic_extra__: dict[str, int] = Field(init=False)
    examples: int


class _TrainingSummary(BaseModel):
    """The fields that readers of a training's summary rely on."""

    updates: int
    examples: int = 0
    pairs: int = 0
    acts: int = 0
    roles: list[str] = []
    losses: list[float]
    too_long: list[Any]


_SUMMARIES: dict[StageKind, TypeAdapter[Any]] = {
    "collect": TypeAdapter(_RolloutCounts),
    "explore": TypeAdapter(_RolloutCounts),
    "select": TypeAdapter(_SelectionCounts),
    "train": TypeAdapter(_TrainingSummary),
    "evaluate": TypeAdapter(dict[str, Any]),
}


class _Fingerprint(BaseModel):
    """The fields that readers of every environment's fingerprint rely on."""

    env: str
    student: str
    train_tasks: int
    test_tasks: int
    test_split: str


_FINGERPRINT: TypeAdapter[Any] = TypeAdapter(_Fingerprint)


def _read_checked(path: Path, fields: TypeAdapter[Any]) -> dict[str, Any]:
    """The JSON object of a file as it is. DataError if it lacks fields or they are malformed."""
    record = read_object(path)
    try:
        fields.validate_python(record)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(map(str, problem["loc"]))
        raise DataError(f"`{path}` is malformed: `{key}`: {problem['msg']}") from error
    return record


def is_run(path: Path) -> bool:
    """Whether a directory is that of a run."""
    return (path / RECIPE_FILE).is_file()


def runs_of(path: Path) -> dict[int, Path]:
    """The runs of a comparison by seed, in the order of seeds; empty if it has none."""
    folders = [recipe.parent for recipe in path.glob(f"seed*/{RECIPE_FILE}")]
    numbers = {folder: folder.name.removeprefix("seed") for folder in folders}
    found = {int(number): folder for folder, number in numbers.items() if number.isdecimal()}
    return dict(sorted(found.items()))


def no_such_directory(path: Path) -> StoreError:
    """The error for the directory of a run or a study that does not exist."""
    names = [each.name for each in path.parent.glob("*") if each.is_dir()]
    similar = most_similar(path.name, names)
    hint = f"did you mean `{path.with_name(similar)}`?" if similar else ""
    return StoreError(
        f"no such directory `{path}`", hint=hint or "`eef run RECIPE --out DIR` creates a run"
    )


def _read_records(path: Path, kind: type[R]) -> tuple[R, ...]:
    """The records of a file; none if a selection did not write it."""
    if not path.is_file():
        return ()
    return tuple(kind.from_record(record) for record in read_jsonl(path))


_SELECTED: Mapping[str, type[Record]] = {
    "examples": TrainingExample,
    "pairs": PreferencePair,
    "acts": Acts,
    "texts": TextExample,
    "text_pairs": TextPair,
}
"""The record type of each field of a selection; each field has a file of its own."""


class RunDirectory:
    """The files of a run. Readers read the disk; `read` gives a snapshot read only once."""

    def __init__(self, path: Path, recipe: Recipe) -> None:
        self.path = path
        self.recipe = recipe
        self._readers: dict[str, StoreReader] = {}

    @classmethod
    def open(cls, path: Path | str) -> RunDirectory:
        """The run in a directory. StoreError if there is none."""
        path = Path(path)
        recipe = path / RECIPE_FILE
        if not path.exists():
            raise no_such_directory(path)
        if not recipe.is_file():
            raise StoreError(
                f"`{path}` is not a run directory: it has no `{RECIPE_FILE}`",
                hint="`eef run RECIPE --out DIR` creates one",
            )
        return cls(path, parse_settings(Recipe, read_object(recipe), source=str(recipe)))

    @cached_property
    def methods(self) -> dict[str, Method[Any]]:
        """The methods of the recipe by name, behavior cloning among them."""
        names = dict.fromkeys((*self.recipe.methods, BC))
        return {name: make_method(name, self.recipe.options.get(name)) for name in names}

    @cached_property
    def recipes(self) -> dict[str, Recipe]:
        """The recipe of each method: that of the run, with the method's `overrides`."""
        return {name: self.recipe.of_method(name) for name in self.methods}

    def roles_at_test(self, method: str) -> list[str]:
        """The names of the roles that take part in a method's evaluation."""
        given = self.recipes[method].roles
        uses = self.methods[method].roles.items()
        return [name for name, use in uses if use.at_test and name in given]

    def rounds_of(self, method: str) -> int:
        """The number of rounds of a method."""
        return self.recipes[method].rounds if method in self.recipes else self.recipe.rounds

    @cached_property
    def stages(self) -> list[Stage]:
        """All stages of the run, in order."""
        return stages_of(self.recipe)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """The environment and versions that the run was started with."""
        record = _read_checked(self.path / FINGERPRINT_FILE, _FINGERPRINT)
        remember_reference(record["env"], self.recipe.env.name)
        return record

    # paths

    def folder(self, stage: Stage) -> Path:
        return self.path / stage.method / f"round{stage.round}"

    def last_file(self, stage: Stage) -> Path:
        """The file that a stage writes last."""
        return self.folder(stage) / _LAST_FILE[stage.kind]

    def selection_files(self, stage: Stage) -> dict[str, Path]:
        """The file of each field of a selection. All but `examples` are missing if it is empty."""
        return {name: self.folder(stage) / f"{name}.jsonl" for name in _SELECTED}

    def role_training_file(self, stage: Stage, role: str) -> Path:
        """The summary of a role's training, which it writes last."""
        return self.folder(stage) / f"training-{role}.json"

    def role_checkpoint(self, stage: Stage, role: str) -> Path:
        """The model of a role that a round has trained."""
        return self.folder(stage) / f"checkpoint-{role}"

    def training_file(self, stage: Stage) -> Path:
        return self.folder(stage) / "training.json"

    def training_checkpoints(self, stage: Stage) -> Path:
        """The directory of the checkpoints that an interrupted training resumes from."""
        return self.folder(stage) / "training"

    def checkpoint(self, stage: Stage) -> Path:
        """The model that a round has trained."""
        return self.folder(stage) / "checkpoint"

    def optimizer(self, stage: Stage) -> Path:
        """The directory of the optimizer state that the next round continues with."""
        return self.folder(stage) / "optimizer"

    def evaluation_store(self, stage: Stage) -> Path:
        """The directory of an evaluation's rollouts, which are separate from training rollouts."""
        return self.folder(stage) / "evaluation"

    def store(self, method: str) -> Path:
        """The directory of a method's rollouts."""
        return self.path / method

    # what is done

    def is_done(self, stage: Stage) -> bool:
        if stage.kind == "train" and was_removed(self.checkpoint(stage)):
            return True
        return self.last_file(stage).is_file()

    def require(self, stage: Stage) -> None:
        """StoreError if a stage is not done."""
        if not self.is_done(stage):
            raise StoreError(
                f"`{stage}` is not done yet", hint=f"`eef run {self.path}` continues the run"
            )

    # readers

    def ledger(self, method: str) -> Ledger:
        """A method's ledger, open for writing."""
        return Ledger.open(self.path / method)

    def costs(self, method: str) -> Mapping[Stage, Cost]:
        """The cost of each stage of a method; empty if it has not started."""
        path = self.path / method / LEDGER_FILE
        return Ledger(path).entries if path.is_file() else {}

    def reader(self, method: str) -> StoreReader:
        """The reader of a method's store, which parses each trajectory once."""
        return self._readers.setdefault(method, StoreReader(self.store(method)))

    def trajectories(self, method: str) -> TrajectorySet:
        """The expert data, followed by a method's rollouts."""
        experts = self.reader(EXPERT).read()
        if method in (EXPERT, BC):
            return experts
        return self.reader(method).read(base=experts)

    def evaluation_rollouts(self, method: str, round: int) -> TrajectorySet:
        """The rollouts of an evaluation; empty if it has not started."""
        return read_trajectories(self.evaluation_store(Stage(method, round, "evaluate")))

    def evaluation(self, method: str, round: int) -> EvalResult | None:
        """The result of an evaluation, or None if it is not done."""
        path = self.last_file(Stage(method, round, "evaluate"))
        if not path.is_file():
            return None
        try:
            result = EvalResult.from_record(read_object(path))
        except StoreError as error:
            raise DataError(f"`{path}`: {error.message}", hint=error.hint) from error
        if not result.outcomes:
            raise DataError(f"`{path}` holds no outcome", hint="remove it to evaluate again")
        return result

    def selection(self, method: str, round: int) -> Selection | None:
        """The selection of a round, or None if it is not made yet."""
        stage = Stage(method, round, "select")
        if not self.is_done(stage):
            return None
        counts = self.summary(stage)
        assert counts is not None, "it is done"
        items: dict[str, Any] = {
            name: _read_records(file, _SELECTED[name])
            for name, file in self.selection_files(stage).items()
        }
        return Selection(counts=counts, **items)

    def summary(self, stage: Stage) -> dict[str, Any] | None:
        """A stage's summary record, or None if it has not finished: counts of rollouts or examples,
        the training's losses, the evaluation's record. DataError if it is malformed."""
        if not self.is_done(stage):
            return None
        path = self.training_file(stage) if stage.kind == "train" else self.last_file(stage)
        return _read_checked(path, _SUMMARIES[stage.kind])

    def read(self) -> RunData:
        """A snapshot of the run, finished or not."""
        return RunData(self)


class RunData:
    """A snapshot of a run that reads each file at most once; results, reports and studies share it.

    Its readers are those of `RunDirectory`. Files are read when they are first needed, so a caller
    that needs no trajectories reads none.
    """

    def __init__(self, run: RunDirectory) -> None:
        self.path = run.path
        self.recipe = run.recipe
        self.methods = run.methods
        self.recipes = run.recipes
        self.rounds_of = run.rounds_of
        self.roles_at_test = run.roles_at_test
        self.stages = run.stages
        self.done = frozenset(stage for stage in run.stages if run.is_done(stage))
        self.folder = run.folder
        self.costs = cache(run.costs)
        self.evaluation = cache(run.evaluation)
        self.evaluation_rollouts = cache(run.evaluation_rollouts)
        self.selection = cache(run.selection)
        self.summary = cache(run.summary)
        self._run = run
        self._trajectories: dict[str, TrajectorySet] = {}

    @cached_property
    def fingerprint(self) -> dict[str, Any]:
        return self._run.fingerprint

    def is_done(self, stage: Stage) -> bool:
        return stage in self.done

    def branches(self, method: str, round: int) -> tuple[int, int]:
        """(rollouts, wins) of the student in a round, from states inside other trajectories."""
        inside = [
            item
            for item in self.trajectories(method)
            if item.by_student and item.round == round and item.start
        ]
        return len(inside), sum(item.success for item in inside)

    def train_tasks_won(self, method: str, round: int) -> int:
        """Number of training tasks won by the expert or the student up to a round."""
        won = (item for item in self.trajectories(method) if item.success and item.round <= round)
        return len({item.task for item in won})

    def selected_examples(
        self, method: str | None, round: int | None
    ) -> Iterator[tuple[Stage, TrainingExample]]:
        """The selected examples of a method and of a round, with their selection; None: of all."""
        for stage in self.stages:
            if stage.kind == "select" and stage.is_of(method, round):
                selection = self.selection(stage.method, stage.round)
                for example in selection.examples if selection else ():
                    yield stage, example

    def trajectories(self, method: str) -> TrajectorySet:
        """The expert data, followed by a method's rollouts."""
        name = EXPERT if method == BC else method
        if name not in self._trajectories:
            base = () if name == EXPERT else self.trajectories(EXPERT)
            self._trajectories[name] = self._run.reader(name).read(base=base)
        return self._trajectories[name]
