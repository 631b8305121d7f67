"""Locks: one holder, named in the error; released when its process ends, here and elsewhere."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from eef.errors import StoreError
from eef.utils import locks
from eef.utils.locks import acquire_lock, current_holder, lease_of

HOLDER = """
import sys, time
from pathlib import Path
from eef.utils import locks
if sys.argv[2] != "here":
    locks.this_machine = lambda: sys.argv[2]
    locks.fcntl.flock = lambda *_: None  # which excludes no other machine
    locks.BEAT_SECONDS, locks.STALE_SECONDS, locks._POLL_SECONDS = 0.1, float(sys.argv[3]), 0.05
try:
    lock = locks.acquire_lock(Path(sys.argv[1]))
except locks.StoreError as error:
    print(error.message, flush=True)
    sys.exit(2)
print("held", flush=True)
sys.stdin.readline()
try:
    lock.confirm()
    print("still held", flush=True)
except locks.StoreError as error:
    print(error.message, flush=True)
lock.close()
"""


def hold(path, machine="here", stale=1.0):
    """A process that locks a file, on this machine or, so it seems, on another one."""
    command = [sys.executable, "-c", HOLDER, str(path), machine, str(stale)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def elsewhere(monkeypatch):
    """Locks that other machines hold: short times, and no `flock`."""
    monkeypatch.setattr(locks.fcntl, "flock", lambda *_: None)
    monkeypatch.setattr(locks, "STALE_SECONDS", 1.0)
    monkeypatch.setattr(locks, "_POLL_SECONDS", 0.05)


def leases(directory):
    return sorted(path.name for path in directory.glob("*.lease*"))


def test_a_second_holder_is_refused_with_the_name_of_the_first(tmp_path):
    path = tmp_path / "a.lock"
    with acquire_lock(path):
        for _ in range(2):  # a refused attempt does not erase the name
            with pytest.raises(StoreError, match=f"written by process {os.getpid()} on "):
                acquire_lock(path)
        holder, silent = current_holder(path)
        assert (holder.process, holder.is_here, holder.runs) == (os.getpid(), True, True)
        assert silent < 5
    assert current_holder(path) is None
    acquire_lock(path).close()
    assert leases(tmp_path) == []


def test_the_lock_of_a_killed_process_is_released(tmp_path):
    path = tmp_path / "a.lock"
    with hold(path) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match=f"process {holder.pid} on "):
            acquire_lock(path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert lease_of(path).exists()
    assert current_holder(path) is None
    with acquire_lock(path):
        assert f"process {os.getpid()} on " in path.read_text()
    assert leases(tmp_path) == []


def test_the_lease_of_a_living_process_of_this_machine_is_never_taken(tmp_path, elsewhere):
    """Even if it is stopped, was silent for long, and `flock` excludes nothing."""
    path = tmp_path / "a.lock"
    with hold(path) as holder:
        assert holder.stdout.readline() == "held\n"
        holder.send_signal(signal.SIGSTOP)
        os.utime(lease_of(path), (0, 0))
        with pytest.raises(StoreError, match=f"written by process {holder.pid} on "):
            acquire_lock(path)
        holder.send_signal(signal.SIGCONT)
        assert holder.communicate("\n")[0] == "still held\n"


def test_a_living_process_of_another_machine_is_not_disturbed(tmp_path, elsewhere):
    path = tmp_path / "a.lock"
    with hold(path, "other") as holder:
        assert holder.stdout.readline() == "held\n"
        for _ in range(2):
            with pytest.raises(StoreError, match=f"written by process {holder.pid} on ") as caught:
                acquire_lock(path)
        assert caught.value.hint.startswith("wait until it ends")
        assert holder.communicate("\n")[0] == "still held\n"


def test_a_stale_lease_of_another_machine_is_taken_and_its_holder_stops_writing(
    tmp_path, elsewhere
):
    path = tmp_path / "a.lock"
    with hold(path, "other") as holder:
        assert holder.stdout.readline() == "held\n"
        holder.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        with acquire_lock(path) as lock:
            assert 0.5 < time.monotonic() - started < 5
            lock.confirm()
            holder.send_signal(signal.SIGCONT)
            taken = f"`{tmp_path}` was taken over by process {os.getpid()} on "
            assert holder.communicate("\n")[0].startswith(taken)
            lock.beat()
            lock.confirm()
        assert leases(tmp_path) == []


def test_of_many_processes_that_find_a_stale_lease_one_takes_it(tmp_path, elsewhere):
    path = tmp_path / "a.lock"
    acquire_lock(path)._file.close()
    text = lease_of(path).read_text()
    lease_of(path).write_text(text.replace(locks.this_machine(), "dead"))
    os.utime(lease_of(path), (0, 0))
    takers = [hold(path, f"machine{number}", stale=20) for number in range(4)]
    answers = [taker.stdout.readline() for taker in takers]
    assert answers.count("held\n") == 1
    [winner] = [taker for taker, answer in zip(takers, answers, strict=True) if answer == "held\n"]
    others = [answer for answer in answers if answer != "held\n"]
    assert all(f"is being written by process {winner.pid} on " in answer for answer in others)
    for taker in takers:
        taker.communicate("\n")
    assert leases(tmp_path) == []


def test_threads_that_race_for_a_free_lease_get_it_one_at_a_time(tmp_path, elsewhere):
    """Without `flock`, leases alone exclude."""
    path, held, most = tmp_path / "a.lock", [], []

    def work():
        for _ in range(10):
            try:
                with acquire_lock(path):
                    held.append(1)
                    most.append(len(held))
                    held.pop()
            except StoreError:
                continue

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1}
    assert leases(tmp_path) == []


def test_a_lease_that_was_removed_by_hand_is_written_again(tmp_path):
    path = tmp_path / "a.lock"
    with acquire_lock(path) as lock:
        lease_of(path).unlink()
        lock.beat()
        assert current_holder(path)[0] == lock.holder
        lock.confirm()


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_disks_without_hard_links_and_without_flock(tmp_path, monkeypatch, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(locks.os, "link", refuse)
    monkeypatch.setattr(fcntl, "flock", lambda *_: refuse() if code != errno.EPERM else None)
    path = tmp_path / "a.lock"
    with acquire_lock(path), pytest.raises(StoreError, match="is being written by process"):
        acquire_lock(path)
    acquire_lock(path).close()
    assert leases(tmp_path) == []


def test_a_lease_that_is_still_empty_belongs_to_somebody(tmp_path, elsewhere):
    path = tmp_path / "a.lock"
    lease_of(path).touch()
    writer = threading.Timer(0.2, lambda: lease_of(path).write_text("{"))
    writer.start()
    with pytest.raises(StoreError, match="written by process 0 on another machine"):
        acquire_lock(path)
    writer.join()


@pytest.mark.parametrize("full", ["lease", "lock"])
def test_a_full_disk_leaves_no_lease_of_a_process_that_runs_on(tmp_path, monkeypatch, full):
    """The file that the disk cannot take is the lease, or the lock file after it."""
    no_space = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write_half(path, text, **_):
        path.touch()
        raise no_space

    def describe(file, holder):
        raise no_space

    path = tmp_path / "stage.lock"
    with monkeypatch.context() as disk:
        if full == "lease":
            disk.setattr(locks.Path, "write_text", write_half)
        else:
            disk.setattr(locks, "_describe", describe)
        with pytest.raises(StoreError, match="No space left"):
            acquire_lock(path)
    assert leases(tmp_path) == []
    with acquire_lock(path):
        assert leases(tmp_path) == ["stage.lock.lease"]
