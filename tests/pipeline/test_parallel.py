"""Parallel methods: the same numbers as in sequence, and no process that outlives its run."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from eef.envs.toy import ToyEnv
from eef.errors import ConfigError, EnvError, MethodError, ReplayMismatch, StoreError, WorkerError
from eef.pipeline import parallel
from eef.pipeline.context import RunContext
from eef.pipeline.parallel import execute_methods, gpus_of, threads_of
from eef.pipeline.pipeline import Pipeline
from eef.pipeline.stages import round_methods
from eef.utils.compute import available_cores, process_settings
from eef.utils.locks import acquire_lock
from eef.utils.processes import Failure
from eef.utils.progress import ignore_progress
from tests.fakes.scripted_run import start_run
from tests.fakes.small_run import (
    TIMEOUT,
    as_recipe,
    eef,
    lines_in,
    lives,
    losses,
    numbers,
    rollouts,
    small_recipe,
    start,
    stop_when,
    wait_until,
)


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    """A run whose methods were executed one after the other."""
    directory = tmp_path_factory.mktemp("runs") / "finished"
    assert eef("run", recipe, "--out", directory, "--quiet").exit_code == 0
    return directory


def same(directory, other):
    assert numbers(directory) == numbers(other)
    assert losses(directory, ("bc", "rft4", "eef")) == losses(other, ("bc", "rft4", "eef"))
    assert rollouts(directory, "eef") == rollouts(other, "eef")


def workers_of(process):
    """Ids of the workers that a process has started."""
    with open(f"/proc/{process.pid}/task/{process.pid}/children") as file:
        children = [int(child) for child in file.read().split()]
    return [
        child for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text()
    ]


def test_this_process_holds_nothing_while_its_workers_run(tmp_path, monkeypatch):
    pipeline = start_run(tmp_path / "run", rounds=1, tasks={"train": 5, "test": 3})
    for stage in pipeline.run.stages:
        if stage.method in ("expert", "bc"):
            pipeline.execute(stage)
    held = ["servers", "environment"]

    class Held(ToyEnv):
        def __init__(self, name):
            super().__init__()
            self.held = name

        def close(self):
            held.remove(self.held)

    context = pipeline.context = RunContext(pipeline.run)
    context.engines, context.env = Held("servers"), Held("environment")
    context.keep_loaded("checkpoint", None, None)
    started = []

    def work(run, methods, *rest):
        started.append((methods, list(held), context._trained, "env" in vars(context)))

    monkeypatch.setattr(parallel, "_side_by_side", work)
    execute_methods(pipeline, 2, ignore_progress)
    assert started == [(["rft2", "eef"], [], None, False)]
    assert context.env.name == "toy", "it is made again when it is needed"


def exploring(directory):
    """Whether both methods have started to explore."""
    return all(lines_in(directory / name / "trajectories.jsonl") >= 1 for name in ("rft4", "eef"))


def begin(recipe, directory):
    """A run with two workers, under way: its process and the workers' ids."""
    process = start("run", recipe, "--out", directory, "--jobs", "2")
    wait_until(lambda: exploring(directory) or process.poll() is not None)
    return process, workers_of(process)


@pytest.mark.parametrize(
    ("gpus", "visible", "jobs", "expected"),
    [
        (0, None, 2, []),
        (1, None, 2, ["0"]),
        (5, None, 2, ["0,2,4", "1,3"]),
        (2, "3,5", 2, ["3", "5"]),
    ],
)
def test_each_job_has_a_gpu_of_its_own(student, monkeypatch, caplog, gpus, visible, jobs, expected):
    monkeypatch.setattr("eef.models.loading.gpu_count", lambda: gpus)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    recipe = as_recipe(small_recipe(student))
    assert gpus_of(recipe, jobs) == expected
    assert ("1 of 2 jobs at a time" in caplog.text) == (gpus == 1)
    shared = as_recipe(small_recipe(student, model={"device": "cuda:0"}))
    assert gpus_of(shared, jobs) == []
    served = {"device": "cuda"}, {"engine": "vllm"}
    recipe = as_recipe(small_recipe(student, model=served[0], rollouts=served[1]))
    assert gpus_of(recipe, jobs) == expected, "each job starts servers on its own"


def test_a_job_has_as_many_gpus_as_ranks(student, tmp_path, monkeypatch):
    """Found before anything is played, not after hours, by a job's first training."""
    monkeypatch.setattr("eef.models.loading.gpu_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    recipe = as_recipe(small_recipe(student, train={"ranks": 4}))
    pipeline = Pipeline.create(tmp_path / "run", recipe)
    with pytest.raises(ConfigError, match="is 4; with 2 jobs at a time, each has 2 GPUs") as caught:
        execute_methods(pipeline, 2, ignore_progress)
    assert "`--ranks 2`" in caught.value.hint
    assert not (tmp_path / "run/expert/trajectories.jsonl").exists()


def test_two_jobs_give_what_one_gives(finished, student, tmp_path):
    reports = []
    pipeline = Pipeline.create(tmp_path / "run", as_recipe(small_recipe(student)))
    execute_methods(pipeline, 2, reports.append)
    done = [str(report.subject) for report in reports if report.finished]
    assert len(done) == 13
    assert done[:5] == ["expert collect", "expert evaluate", "bc select", "bc train", "bc evaluate"]
    assert eef("report", tmp_path / "run").exit_code == 0
    same(tmp_path / "run", finished)


def test_a_killed_worker_is_reported_and_ends_the_others(finished, recipe, tmp_path):
    process, workers = begin(recipe, tmp_path / "run")
    os.kill(workers[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 2
    lines = errors.splitlines()
    assert lines[-2].startswith("error: the process of `")
    assert lines[-2].endswith("was killed by SIGKILL")
    assert "ran out of memory" in lines[-1]
    wait_until(lambda: not any(lives(worker) for worker in workers))
    assert eef("run", tmp_path / "run", "--quiet").exit_code == 0
    same(tmp_path / "run", finished)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_run(number, recipe, tmp_path):
    """Runs that are continued after a kill are those of `tests/faults/test_kills.py`."""
    process, workers = begin(recipe, tmp_path / "run")
    assert len(workers) == 2
    status, errors = stop_when(process, lambda: True, number)
    assert status == (130 if number == signal.SIGINT else -number)
    assert "Traceback" not in errors
    wait_until(lambda: not any(lives(worker) for worker in workers))


def test_an_error_of_a_worker_is_raised_with_its_hint(finished, tmp_path):
    pipeline = Pipeline.open(finished)
    methods = round_methods(pipeline.run.recipe)
    for name in methods:
        (finished / name / "round1" / "evaluation.json").rename(
            finished / name / "round1" / "kept.json"
        )
    try:
        with (
            acquire_lock(finished / "eef/stage.lock"),
            pytest.raises(StoreError, match="is being written by") as raised,
        ):
            execute_methods(pipeline, 2, ignore_progress)
        assert raised.value.hint.startswith("wait until it ends")
    finally:
        for name in methods:
            (finished / name / "round1" / "kept.json").replace(
                finished / name / "round1" / "evaluation.json"
            )


def test_a_failure_keeps_its_kind():
    error = Failure.of(MethodError("nothing won", hint="more tasks")).error()
    assert (type(error), error.message, error.hint) == (MethodError, "nothing won", "more tasks")
    mismatch = Failure.of(ReplayMismatch("differs", step=1, expected="a", observed="b")).error()
    assert type(mismatch) is EnvError


def test_threads_are_shared_by_processes(monkeypatch, student):
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    recipe = as_recipe(small_recipe(student, train={"threads": None}))
    assert available_cores() == 8
    assert [threads_of(recipe, jobs) for jobs in (1, 2, 3, 16)] == [8, 4, 2, 1]
    assert threads_of(as_recipe(small_recipe(student, train={"threads": 3})), 4) == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    with process_settings(2):
        assert (os.environ["OMP_NUM_THREADS"], os.environ["TRANSFORMERS_VERBOSITY"]) == (
            "2",
            "info",
        )
        assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert "OMP_NUM_THREADS" not in os.environ
    assert 1 <= available_cores() <= (os.cpu_count() or 1)


def test_a_worker_error_is_a_user_error():
    assert WorkerError.exit_status == 2
