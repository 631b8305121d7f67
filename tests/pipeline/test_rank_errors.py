"""The error of ranks that ended without a result, from what they and torchrun wrote."""

import json
import threading

import pytest

from eef.errors import ConfigError, DataError, WorkerError
from eef.pipeline.ranks import _failure, train_in_ranks, train_rank
from eef.pipeline.stages import COLLECT, Stage
from eef.selection import TextExample
from eef.utils.jsonl import write_json, write_jsonl
from eef.utils.progress import ignore_progress
from tests.fakes.scripted_run import start_run

ROOT_CAUSE = """
E1126 11:37:02.314000 77 torch/distributed/elastic/multiprocessing/api.py:984] failed (exitcode: -9)
Traceback (most recent call last):
  File "torch/distributed/run.py", line 1000, in <module>
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
eef.pipeline.ranks FAILED
Failures:
[1]:
  time      : 2026-11-26_11:37:02
  rank      : 0 (local_rank: 0)
  exitcode  : {first} (pid: 80)
Root Cause (first observed failure):
[0]:
  time      : 2026-11-26_11:37:02
  rank      : 3 (local_rank: 1)
  exitcode  : {second} (pid: 81)
"""


@pytest.mark.parametrize(("first", "second"), [(-15, -9), (1, -9), (-15, -11)])
def test_a_rank_that_was_killed(tmp_path, first, second):
    log = ROOT_CAUSE.format(first=first, second=second)
    (tmp_path / "ranks.log").write_text(log)
    error = _failure(tmp_path, 4, 1)
    assert isinstance(error, WorkerError)
    name = {-9: "SIGKILL", -11: "SIGSEGV"}[second]
    assert error.message == f"rank 3 of 4 was killed by {name}"


def test_an_error_that_a_rank_reports_comes_first(tmp_path):
    (tmp_path / "ranks.log").write_text(ROOT_CAUSE.format(first=1, second=-9))
    record = {"kind": "DataError", "message": "different examples", "hint": "again"}
    (tmp_path / "error-1.json").write_text(json.dumps(record))
    error = _failure(tmp_path, 4, 1)
    assert isinstance(error, DataError)
    assert (error.message, error.hint) == ("different examples", "again")


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("[rank0]: RuntimeError: NCCL error: no route\nsome noise\n", ": RuntimeError: NCCL error"),
        ("[Errno 2] No such file or directory: 'srun'\n", ": [Errno 2] No such file"),
        ("", ""),
    ],
)
def test_any_other_end_names_the_reason_in_the_log(tmp_path, log, reason):
    (tmp_path / "ranks.log").write_text(log)
    error = _failure(tmp_path, 4, 1)
    assert error.message.startswith(f"the 4 ranks ended without a result{reason}")
    assert "ranks.log" in error.hint


def test_a_launcher_that_was_killed_before_it_wrote_anything(tmp_path):
    error = _failure(tmp_path, 4, 137)
    assert error.message == (
        "the 4 ranks ended without a result: their launcher was killed by SIGKILL"
    )


def test_a_result_that_a_shared_disk_shows_late_is_waited_for(tmp_path):
    train = {"launcher": ["true"], "ranks": 2}
    pipeline = start_run(tmp_path / "run", methods=["bc"], options={}, train=train)
    run, stage = pipeline.run, Stage("bc", 0, "train")
    run.checkpoint(stage).mkdir(parents=True)
    threading.Timer(0.7, write_json, (run.last_file(stage), {})).start()
    train_in_ranks(pipeline.context, stage, ignore_progress)
    assert run.is_done(stage)


@pytest.mark.torch
def test_ranks_started_by_hand_do_not_leave_out_a_role(tmp_path):
    pytest.importorskip("torch")
    run = start_run(
        tmp_path / "run", methods=["bc", "stl"], options={}, roles={"value": {"model": "base"}}
    ).run
    stage = Stage("stl", 1, "select")
    text = TextExample(id="a", role="value", task="toy/1", question="?", text="!", evidence=("b",))
    run.folder(stage).mkdir(parents=True)
    run.folder(COLLECT).mkdir(parents=True)
    write_json(run.last_file(COLLECT), {})
    files = run.selection_files(stage)
    write_jsonl(files["examples"], ())
    write_jsonl(files["texts"], [text.to_record()])
    write_json(run.last_file(stage), {"examples": 0, "texts": 1})
    with pytest.raises(ConfigError, match="also trains the role `value`") as caught:
        train_rank(run.path, "stl", 1)
    assert f"`eef stage train {run.path} --method stl --round 1 --ranks N`" in caught.value.hint
