"""Lock files: one holder, named in the error, and released when its process ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from eef.errors import StoreError
from eef.utils.locks import acquire_lock

HOLDER = """
import sys, time
from pathlib import Path
from eef.utils.locks import acquire_lock
lock = acquire_lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_holder_is_refused_with_the_name_of_the_first(tmp_path):
    path = tmp_path / "a.lock"
    with acquire_lock(path):
        for _ in range(2):  # a refused attempt does not erase the name
            with pytest.raises(StoreError, match=f"written by process {os.getpid()} on "):
                acquire_lock(path)
    acquire_lock(path).close()


def test_the_lock_of_a_killed_process_is_released(tmp_path):
    path = tmp_path / "a.lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match=f"process {holder.pid} on "):
            acquire_lock(path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with acquire_lock(path):
        assert f"process {os.getpid()} on " in path.read_text()
