"""The status of a run: read from files while it is executed, and when its process is gone."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from eef.errors import StoreError
from eef.pipeline import status as status_module
from eef.pipeline.stages import COLLECT, Stage
from eef.pipeline.status import StatusWriter, read_statuses, wait_for_records
from eef.utils import locks
from eef.utils.locks import acquire_lock
from eef.utils.progress import Progress, ignore_progress
from tests.fakes.scripted_run import finish, start_run
from tests.fakes.small_run import eef

SMALL = {"rounds": 1, "methods": ["bc", "eef"], "tasks": {"train": 5, "test": 3}}
EXPLORE = Stage("eef", 1, "explore")


def status_of(run, stage):
    return next(each for each in read_statuses(run) if each.stage == stage)


@pytest.fixture
def run(tmp_path):
    run = start_run(tmp_path / "run", **SMALL).run
    run.store("eef").mkdir(parents=True)
    return run


@pytest.fixture
def lock(run):
    with acquire_lock(run.store("eef") / status_module.LOCK_FILE) as lock:
        yield lock


def test_a_stage_reports_progress_rate_and_time_left(run, lock, monkeypatch):
    clock = iter(range(1000, 2000, 10))
    with monkeypatch.context() as patch:
        patch.setattr(status_module, "SECONDS_BETWEEN", 0.0)
        patch.setattr(status_module.time, "time", lambda: float(next(clock)))
        with StatusWriter(run, EXPLORE, lock) as writer:
            report = writer.watch(ignore_progress)
            for done in (4, 6, 8):
                report(Progress(EXPLORE, done, 20, "3 won"))
            found = status_of(run, EXPLORE)
            record = found.record
            assert (found.state, found.progress) == ("running", "8 of 20, 3 won")
            assert record.rate == pytest.approx(6.0, rel=0.1), "4 rollouts in 40 seconds"
            assert found.seconds_left == pytest.approx(120, rel=0.1)
            assert (record.process, record.host) == (os.getpid(), lock.holder.host)
    assert status_of(run, EXPLORE).state == "waiting", "its last file decides whether it is done"


def test_a_stage_that_counts_notes_and_then_rollouts_has_the_rate_of_what_it_counts(
    run, lock, monkeypatch
):
    clock = iter(range(1000, 2000, 10))
    monkeypatch.setattr(status_module, "SECONDS_BETWEEN", 0.0)
    with monkeypatch.context() as patch, StatusWriter(run, EXPLORE, lock) as writer:
        patch.setattr(status_module.time, "time", lambda: float(next(clock)))
        report = writer.watch(ignore_progress)
        for done in (0, 4, 8):
            report(Progress(EXPLORE, done, 8, "notes of the planner"))
        for done in (0, 0, 2, 4):
            report(Progress(EXPLORE, done, 20))
        found = status_of(run, EXPLORE)
    assert found.record.rate == pytest.approx(4.0, rel=0.1), "4 rollouts in 60 seconds"
    assert found.seconds_left == pytest.approx(240, rel=0.1)


def test_it_is_written_every_few_seconds_and_on_each_beat(run, lock, monkeypatch):
    written = []
    write = status_module.write_json
    monkeypatch.setattr(
        status_module, "write_json", lambda *args, **how: written.append(write(*args, **how))
    )
    with StatusWriter(run, EXPLORE, lock) as writer:
        report = writer.watch(ignore_progress)
        for done in range(1, 100):
            report(Progress(EXPLORE, done, 100))
        assert len(written) == 2  # when the stage begins, and once its size is known
        lock.beat()
        assert status_of(run, EXPLORE).record.done == 99
        lock.beat()
        assert len(written) == 3, "nothing new"


def test_how_a_stage_ended_is_kept_with_its_error(run, lock):
    with pytest.raises(StoreError), StatusWriter(run, EXPLORE, lock):
        raise StoreError("the disk", hint="free some")
    failed = status_of(run, EXPLORE)
    assert (failed.state, failed.record.error, failed.record.hint) == (
        "failed",
        "the disk",
        "free some",
    )
    with pytest.raises(KeyboardInterrupt), StatusWriter(run, EXPLORE, lock):
        raise KeyboardInterrupt
    assert status_of(run, EXPLORE).state == "interrupted"


def test_a_process_elsewhere_runs_as_long_as_it_gives_signs_of_life(run, lock, monkeypatch):
    with StatusWriter(run, EXPLORE, lock):
        monkeypatch.setattr(locks, "this_machine", lambda: "another")
        lease = locks.lease_of(lock.path)
        assert status_of(run, EXPLORE).state == "running"
        silent = lease.stat().st_mtime - locks.STALE_SECONDS - 5
        os.utime(lease, (silent, silent))
        assert status_of(run, EXPLORE).state == "interrupted"


def test_a_full_disk_does_not_end_a_stage(run, lock, monkeypatch):
    def refuse(*args, **how):
        raise StoreError("full")

    monkeypatch.setattr(status_module, "write_json", refuse)
    with StatusWriter(run, EXPLORE, lock) as writer:
        writer.watch(ignore_progress)(Progress(EXPLORE, 1, 2))


def test_a_damaged_status_is_ignored(run):
    for text in ("", "[]", '{"round": "x"}'):
        (run.store("eef") / "status.json").write_text(text)
        assert status_of(run, EXPLORE).state == "waiting"


def test_a_killed_process_is_seen_at_once_on_its_machine(run, lock, monkeypatch):
    with StatusWriter(run, EXPLORE, lock):
        assert f"{os.getpid()} on {lock.holder.host}, silent" in eef("status", run.path).stdout
        monkeypatch.setattr(locks, "_birth", lambda process: None)
        assert status_of(run, EXPLORE).state == "interrupted"
        assert json.loads(eef("status", run.path, "--json").stdout)["state"] == "interrupted"


def test_a_finished_run(tmp_path):
    run = finish(start_run(tmp_path / "run", **SMALL)).run
    assert {each.state for each in read_statuses(run)} == {"done"}
    assert eef("status", run.path).stdout == f"{run.path}: finished, 9 of 9 stages done\n"


def test_a_comparison_gives_the_status_of_each_run(tmp_path):
    for seed in (2, 10):
        start_run(tmp_path / f"seed{seed}", **SMALL)
    lines = eef("status", tmp_path).stdout.splitlines()
    headers = [line for line in lines if line.endswith("stages done")]
    assert headers == [
        f"{tmp_path}/seed{seed}: not running, 0 of 9 stages done" for seed in (2, 10)
    ]
    assert len(json.loads(eef("status", tmp_path, "--json").stdout)["runs"]) == 2


# Records that a slow disk shows late


def test_records_that_appear_late_are_waited_for(tmp_path):
    run = finish(start_run(tmp_path / "run", **SMALL)).run
    store = run.store("expert") / "trajectories.jsonl"
    text = store.read_text()
    store.write_text(text[:-5])
    threading.Timer(0.3, lambda: store.write_text(text)).start()
    wait_for_records(run, COLLECT)
    assert store.read_text() == text


@pytest.mark.parametrize(
    ("kind", "file", "missing"),
    [
        ("explore", "trajectories.jsonl", "has 0 of"),
        ("select", "round1/examples.jsonl", "has 0 of"),
        ("explore", "notes.jsonl", "has 0 of 3"),
        ("select", "round1/pairs.jsonl", "has 0 of 3"),
        ("select", "round1/acts.jsonl", "has 0 of 3"),
        ("select", "round1/texts.jsonl", "has 0 of 3"),
        ("select", "round1/text_pairs.jsonl", "has 0 of 3"),
        ("train", "round1/checkpoint/model.safetensors", "is missing"),
        ("train", "round1/checkpoint-critic/manifest.json", "is missing"),
        ("train", "round1/training.json", "is missing"),
    ],
)
def test_records_that_never_appear_are_one_error(tmp_path, kind, file, missing):
    run = finish(start_run(tmp_path / "run", **SMALL)).run
    stage = replace(EXPLORE, kind=kind)
    if file == "round1/training.json":
        run.training_file(stage).unlink()
    elif kind == "train":
        weights = {"sha256": {"model.safetensors": "…"}} if "critic" not in file else {}
        run.last_file(stage).write_text(json.dumps(weights))
        record = json.loads(run.training_file(stage).read_text())
        run.training_file(stage).write_text(json.dumps({**record, "roles": ["critic"]}))
    elif missing == "has 0 of 3":
        record = json.loads(run.last_file(stage).read_text())
        run.last_file(stage).write_text(json.dumps({**record, Path(file).stem: 3}))
    else:
        (run.store("eef") / file).write_text("")
    with pytest.raises(StoreError, match=missing) as caught:
        wait_for_records(run, stage, seconds=0.1)
    assert file in caught.value.message
    assert "run the same command again" in caught.value.hint
