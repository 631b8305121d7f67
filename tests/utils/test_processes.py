"""A process that this program starts: it never hears Ctrl-C, and none is left."""

import os
import subprocess
import sys
import time

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


def test_not_even_the_first_process_hears_ctrl_c():
    """The first one starts what multiprocessing keeps its resources with, which lets the signal through again."""
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED], capture_output=True, text=True, check=True
    )
    assert int(done.stdout, 16) & 0b10, "SIGINT is signal 2"


def test_one_that_does_not_heed_is_ended():
    process = start_process(time.sleep, (60,), name="sleeper", leaf=True)
    pid = process.pid
    end_process(process, 0.1)
    assert not os.path.exists(f"/proc/{pid}")


def test_a_mistake_comes_to_the_parent_as_it_was():
    error = Failure.of(ConfigError("`x` is 3", hint="take 4")).error()
    assert (type(error), error.message, error.hint) == (ConfigError, "`x` is 3", "take 4")
    mismatch = ReplayMismatch("other", step=1, expected="a", observed="b")
    assert Failure.of(mismatch).error().message == "other"
