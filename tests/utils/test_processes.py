"""Child processes: they ignore Ctrl-C, and none is left running."""

import os
import signal
import subprocess
import sys
import time
from multiprocessing.context import SpawnProcess

import pytest

from eef.errors import ConfigError, ReplayMismatch
from eef.utils.processes import Failure, end_process, start_process

BLOCKED = """
import time
from eef.utils.processes import end_process, start_process
process = start_process(time.sleep, (60,), name="sleeper", leaf=True)
with open(f"/proc/{process.pid}/status") as file:
    print(next(line.split()[1] for line in file if line.startswith("SigBlk")))
end_process(process, 5.0)
"""


def test_the_first_process_ignores_ctrl_c():
    """The first one also starts multiprocessing's resource tracker, which unblocks the signal."""
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=True
    )
    assert int(done.stdout, 16) & 0b10, "SIGINT is signal 2"


def write_mask(path):
    path.write_text(" ".join(each.name for each in signal.pthread_sigmask(signal.SIG_BLOCK, ())))


def test_a_process_can_be_terminated(tmp_path):
    process = start_process(write_mask, (tmp_path / "mask",), name="mask", leaf=True)
    process.join()
    assert (tmp_path / "mask").read_text() == "SIGINT", "all that is blocked in it"


def test_an_interrupted_start_leaves_no_process(monkeypatch):
    start, started = SpawnProcess.start, []

    def interrupted(process):
        start(process)
        started.append(process.pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(SpawnProcess, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        start_process(time.sleep, (60,), name="sleeper", leaf=False)
    assert not os.path.exists(f"/proc/{started[0]}")


def test_a_process_that_does_not_end_is_killed():
    process = start_process(time.sleep, (60,), name="sleeper", leaf=True)
    pid = process.pid
    end_process(process, 0.1)
    assert not os.path.exists(f"/proc/{pid}")


class Terminated:
    """An object whose finalizer, in which Python ignores exceptions, is interrupted by SIGTERM."""

    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)


def be_terminated_in_a_finalizer():
    Terminated()
    time.sleep(60)


def test_a_process_that_is_terminated_in_a_finalizer_ends_without_a_traceback(capfd):
    process = start_process(be_terminated_in_a_finalizer, (), name="finalizer", leaf=True)
    process.join(30)
    assert process.exitcode == 128 + signal.SIGTERM
    assert capfd.readouterr().err == ""


def test_an_error_reaches_the_parent_unchanged():
    error = Failure.of(ConfigError("`x` is 3", hint="take 4")).error()
    assert (type(error), error.message, error.hint) == (ConfigError, "`x` is 3", "take 4")
    mismatch = ReplayMismatch("other", step=1, expected="a", observed="b")
    assert Failure.of(mismatch).error().message == "other"
