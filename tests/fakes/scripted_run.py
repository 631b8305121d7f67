"""A run without a model: scripted students in the toy; training only records its cost."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from eef.config import parse_settings
from eef.env import Env
from eef.envs.toy import ToyEnv, toy_player
from eef.pipeline.context import RunContext
from eef.pipeline.evaluation import EvalResult, Outcome
from eef.pipeline.ledger import Cost
from eef.pipeline.pipeline import Pipeline
from eef.pipeline.recipe import Recipe
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import Stage
from eef.policy import Policy
from eef.rollouts.store import Store
from eef.trajectory import Author, Trajectory
from eef.utils.jsonl import append_jsonl, write_json
from eef.utils.progress import OnProgress, ignore_progress
from tests.fakes.grids import expert, played

UGLY = "<script>alert('&')</script>"
SKILL = {"bc": 0.6, "rft2": 0.75, "eef": 0.85, "eef+grpo": 0.7}


class UglyToy(ToyEnv):
    """A toy whose observations contain markup."""

    def reset(self, task: Any) -> str:
        return f"{UGLY} {super().reset(task)}"


class ScriptedContext(RunContext):
    """A context with scripted students; a method wins more often after each round."""

    @property
    def env(self) -> Env:
        return UglyToy()

    def student(self, trained: Stage) -> Policy:
        skill = SKILL.get(trained.method, 0.7) + 0.04 * trained.round
        return toy_player(Author("student", f"{trained.method}@round{trained.round}"), skill)


class ScriptedPipeline(Pipeline):
    """A pipeline whose training only records its cost. All other stages are real."""

    def __init__(self, run: RunDirectory) -> None:
        super().__init__(run)
        self.context = ScriptedContext(run)

    def execute(self, stage: Stage, on_progress: OnProgress = ignore_progress) -> None:
        if stage.kind != "train":
            super().execute(stage, on_progress)
            return
        cost = Cost(updates=5, trained_tokens=70, processed_tokens=700, seconds=2.0)
        self.run.ledger(stage.method).record(stage, cost)
        self.run.checkpoint(stage).mkdir(exist_ok=True)
        write_json(self.run.training_file(stage), {"updates": 5, "losses": [], "too_long": []})
        write_json(self.run.last_file(stage), {})


def start_run(directory: Path, **changes: Any) -> ScriptedPipeline:
    """A run that has not played anything; `changes` replace settings of its recipe."""
    settings = {
        "name": "toys <b>",
        "seed": 3,
        "rounds": 2,
        "methods": ["bc", "rft2", "eef"],
        "env": {"name": "toy"},
        "options": {"eef": {"M": 3}},
        "expert": {"names": ["scripted/weak"]},
        "tasks": {"train": 20, "test": 25},
        **changes,
    }
    pipeline = ScriptedPipeline.create(directory, parse_settings(Recipe, settings, source="test"))
    assert isinstance(pipeline, ScriptedPipeline)
    return pipeline


def finish(pipeline: Pipeline) -> Pipeline:
    """Execute all stages."""
    for stage in pipeline.run.stages:
        pipeline.execute(stage)
    return pipeline


def write_result(
    run: RunDirectory,
    method: str,
    round: int,
    *,
    won: set[int],
    order: Iterable[int] = range(10),
    exist_ok: bool = False,
) -> EvalResult:
    """An evaluation written by hand."""
    outcomes = tuple(
        Outcome(
            task=f"toy/{task}",
            reward=float(task in won),
            success=task in won,
            finished=True,
            steps=3,
        )
        for task in order
    )
    result = EvalResult(
        policy=f"student:{method}",
        method=method,
        round=round,
        split="test",
        outcomes=outcomes,
        cost=Cost(),
    )
    folder = run.folder(Stage(method, round, "evaluate"))
    folder.mkdir(parents=True, exist_ok=exist_ok)
    write_json(folder / "evaluation.json", result.to_record())
    return result


def explored_run(
    directory: Path, outcomes: dict[str, list[str]], *, actions: str = "abcdefghijkl"
) -> RunDirectory:
    """A run with one failed expert trajectory per entry of `outcomes`.

    An entry holds the outcomes of the student's rollouts from the states 0, 2, 4, 6, 8 and 10.
    """
    run = start_run(directory, options={"eef": {"M": 5}}).run
    with Store.open(run.store("expert")) as store:
        for name in outcomes:
            store.append(expert(name, task=f"toy/{name}", actions=actions))
        store.append(expert("won", task="toy/won", win=True))
        experts = store.trajectories
    with Store.open(run.store("eef"), base=experts) as store:
        for name, ends in outcomes.items():
            for item in played((0, 2, 4, 6, 8, 10), ends, origin=name):
                store.append(retasked(item, f"toy/{name}"))
        stored = store.trajectories
    stage = Stage("eef", 1, "select")
    selection = run.methods["eef"].select(stored, [f"toy/{name}" for name in [*outcomes, "won"]], 1)
    run.folder(stage).mkdir(parents=True)
    for example in selection.examples:
        append_jsonl(run.folder(stage) / "examples.jsonl", example.to_record())
    write_json(run.folder(stage) / "selection.json", selection.counts)
    return run


def retasked(item: Trajectory, task: str) -> Trajectory:
    return Trajectory.from_record({**item.to_record(), "task": task})
