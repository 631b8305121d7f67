"""The process of an agent loop, without a framework: what it has started ends with it."""

from __future__ import annotations

import pytest

from eef.envs.loops import _Worker
from eef.errors import EnvDied
from tests.fakes.small_run import lives, wait_until

SCRIPT = """#!/bin/sh
sleep 60 &
echo $! > "$0.pid"
exec sleep 60
"""


@pytest.mark.parametrize("how", ["closed", "late"])
def test_processes_of_a_loop_end_with_it(how, tmp_path):
    script, file = tmp_path / "python", tmp_path / "python.pid"
    script.write_text(SCRIPT)
    script.chmod(0o700)
    worker = _Worker(str(script), "inspect", {}, 0.2)
    wait_until(lambda: file.is_file() and file.read_text().endswith("\n"))
    if how == "late":
        with pytest.raises(EnvDied, match="did nothing for"):
            worker.read()
    worker.close()
    wait_until(lambda: not lives(int(file.read_text())))
