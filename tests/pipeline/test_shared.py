"""Several processes share a run: its recipe is extended, and what all need is made once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from eef.config import parse_settings
from eef.errors import LockedError
from eef.pipeline import pipeline as pipeline_module
from eef.pipeline.pipeline import Pipeline
from eef.pipeline.recipe import Recipe
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import COLLECT
from eef.pipeline.status import LOCK_FILE
from eef.utils.jsonl import write_json
from eef.utils.locks import acquire_lock
from tests.fakes.scripted_run import start_run

METHODS = ("rft2", "rft3", "nat", "eef")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(pipeline_module, "_SECONDS_BETWEEN_TRIES", 0.05)


@pytest.fixture
def pipeline(tmp_path):
    pipeline = start_run(tmp_path / "run", tasks={"train": 5, "test": 3})
    pipeline.run.store("expert").mkdir(parents=True)
    return pipeline


def toy(method, **changes):
    settings = {"env": {"name": "toy"}, "methods": ["bc", method], **changes}
    return parse_settings(Recipe, settings, source="test")


def test_processes_that_create_a_run_at_once_add_their_methods(tmp_path):
    def create(method):
        return Pipeline.create(tmp_path / "run", toy(method), shared=True)

    with ThreadPoolExecutor(len(METHODS)) as threads:
        list(threads.map(create, METHODS))
    assert set(RunDirectory.open(tmp_path / "run").recipe.methods) == {"bc", *METHODS}
    other = Pipeline.create(tmp_path / "run", toy("eef", seed=7), shared=True)
    assert other.run.recipe.seed == 7, "nothing was played yet"


def test_a_stage_that_another_process_makes_is_waited_for(pipeline, caplog):
    run, played = pipeline.run, []
    lock = acquire_lock(run.store("expert") / LOCK_FILE)

    def finish():
        run.folder(COLLECT).mkdir(exist_ok=True)
        write_json(run.last_file(COLLECT), {})
        lock.close()

    threading.Timer(0.3, finish).start()
    pipeline.execute_or_wait(COLLECT, played.append)
    assert played == []
    [note] = caplog.messages
    assert "is being written by process" in note
    assert note.endswith("; waiting for `expert collect`")


def test_a_stage_whose_process_ends_is_executed_here(pipeline):
    lock = acquire_lock(pipeline.run.store("expert") / LOCK_FILE)
    with pytest.raises(LockedError):
        pipeline.execute(COLLECT)
    threading.Timer(0.3, lock.close).start()
    pipeline.execute_or_wait(COLLECT)
    assert pipeline.run.summary(COLLECT)["rollouts"] == 5
