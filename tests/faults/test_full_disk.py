"""A disk that is full at any write of a run: one error, and the same command finishes the run."""

from __future__ import annotations

import errno
import math
import os
import subprocess
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

from eef.cli.execution import write_report
from eef.errors import StoreError
from eef.utils.jsonl import WHEN_FULL
from tests.fakes.faults import differences, state_of
from tests.fakes.scripted_run import finish, start_run
from tests.fakes.small_run import eef

SMALL = {"rounds": 1, "methods": ["bc", "eef"], "tasks": {"train": 5, "test": 3}}
PAGE = 4096


class Disk:
    """Replaces `os.fsync`, which ends every write: full after `left` more of them."""

    def __init__(self) -> None:
        self.left = math.inf

    def fsync(self, file: int) -> None:
        if self.left <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.left -= 1


def run_and_report(directory):
    pipeline = finish(start_run(directory, **SMALL))
    write_report(pipeline.run.read())


def failure_of(directory):
    try:
        run_and_report(directory)
    except StoreError as error:
        return error
    return None


def test_every_write_of_a_run_may_find_the_disk_full(tmp_path, monkeypatch):
    disk = Disk()
    monkeypatch.setattr(os, "fsync", disk.fsync)
    run_and_report(tmp_path / "plain")
    directory = tmp_path / "full"
    failures, before, writes = Counter(), None, 0
    while True:
        disk.left = writes
        if (error := failure_of(directory)) is None:
            break
        assert "No space left on device" in error.message
        assert error.hint == WHEN_FULL
        failures[error.message.split("`")[1]] += 1
        # a stage that writes several files starts with the first one again
        now = state_of(directory)
        writes, before = (writes + 1 if now == before else 1), now
    names = {Path(name).name for name in failures}
    print(f"\n{failures.total()} full disks at {len(failures)} files")
    assert differences(directory, tmp_path / "plain") == []
    assert names >= {
        "fingerprint.json",
        "recipe.json",
        "trajectories.jsonl",
        "ledger.jsonl",
        "explored.json",
        "examples.jsonl",
        "selection.json",
        "training.json",
        "evaluation.json",
        "results.json",
    }


def used(directory: Path) -> int:
    """The bytes used in a file system."""
    about = os.statvfs(directory)
    return (about.f_blocks - about.f_bfree) * about.f_frsize


@contextmanager
def small_disk(directory: Path):
    """A file system in memory; yields a function that leaves so many bytes free in it."""
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={PAGE}", "tmpfs", str(directory)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a file system")
    try:
        yield lambda free: subprocess.run(
            ["mount", "-o", f"remount,size={used(directory) + free}", str(directory)], check=True
        )
    finally:
        # lazy, since this process still maps the weights
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


@pytest.mark.faults
def test_a_run_finishes_after_its_disk_was_full_again_and_again(recipe, tmp_path):
    """A page or 1.5 % are free after each failure; twice as much while the run gets no further.

    A run needs some pages for a while: for leases, and for a file that replaces another.
    """
    assert eef("run", recipe, "--out", tmp_path / "plain", "--quiet").exit_code == 0
    failures = Counter()
    with small_disk(tmp_path / "disk") as resize:
        directory, free, kept = tmp_path / "disk/run", PAGE, 0
        while (result := eef("run", recipe, "--out", directory, "--quiet")).exit_code:
            assert result.exit_code == 2
            error, hint = result.stderr.splitlines()
            assert error.startswith("error: cannot write `")
            assert hint.startswith("hint: ")
            assert WHEN_FULL in hint
            failures[error.split("`")[1]] += 1
            now = used(tmp_path / "disk")
            step = max(PAGE, now // 64 // PAGE * PAGE)
            free, kept = (step if now > kept else 2 * free), max(now, kept)
            resize(free)
        print(f"\n{failures.total()} full disks at {len(failures)} files")
        assert differences(directory, tmp_path / "plain") == []
