"""Two processes on one run directory: the second is refused, and nothing is damaged."""

from __future__ import annotations

import json
import os
import signal
import socket
import time

import pytest

from tests.fakes.faults import differences
from tests.fakes.small_run import TIMEOUT, eef, lines_in, start, wait_until

RACES = int(os.environ.get("EEF_FAULTS_RACES", 5))


@pytest.fixture(scope="module")
def alone(recipe, tmp_path_factory):
    """A run that one process executed."""
    directory = tmp_path_factory.mktemp("runs") / "alone"
    assert eef("run", recipe, "--out", directory, "--quiet").exit_code == 0
    return directory


def test_the_second_process_is_refused_with_the_name_of_the_first(alone, recipe, tmp_path):
    directory = tmp_path / "run"
    first = start("run", recipe, "--out", directory, "--quiet")
    wait_until(lambda: lines_in(directory / "rft4/trajectories.jsonl") or first.poll() is not None)
    first.send_signal(signal.SIGSTOP)
    before = (directory / "rft4/trajectories.jsonl").read_bytes()
    second = eef("run", directory, "--quiet")
    assert second.exit_code == 2
    holder = f"process {first.pid} on {socket.gethostname()}"
    error, hint = second.stderr.splitlines()
    assert error == f"error: `{directory / 'rft4'}` is being written by {holder}"
    assert hint == "hint: wait until it ends, or use another directory"
    assert eef("show", directory).exit_code == 0  # readers take no lock
    status = json.loads(eef("status", directory, "--json").stdout)
    [stage] = status["active"]
    assert (status["state"], stage["method"], stage["kind"]) == ("running", "rft4", "explore")
    assert (stage["process"], stage["total"]) == (first.pid, 32)
    assert (directory / "rft4/trajectories.jsonl").read_bytes() == before
    first.send_signal(signal.SIGCONT)
    _, errors = first.communicate(timeout=2 * TIMEOUT)
    assert first.returncode == 0, errors
    assert differences(directory, alone) == []


@pytest.mark.faults
def test_two_processes_at_once(alone, recipe, tmp_path):
    """Each finishes or is refused in one line; one of them, or the next, finishes the run."""
    refused = 0
    for number in range(RACES):
        directory = tmp_path / f"run{number}"
        first = start("run", recipe, "--out", directory, "--quiet")
        time.sleep(0.1 * number)
        second = start("run", recipe, "--out", directory, "--quiet", "--jobs", "2")
        for process in (first, second):
            _, errors = process.communicate(timeout=2 * TIMEOUT)
            assert process.returncode in (0, 2), errors
            if process.returncode == 2:
                refused += 1
                error, hint = errors.splitlines()
                assert " is being written by " in error
                assert hint.startswith("hint: ")
        assert eef("run", directory, "--quiet").exit_code == 0
        assert differences(directory, alone) == []
    print(f"\n{refused} of {2 * RACES} processes were refused")


@pytest.mark.faults
def test_two_trials_of_one_seed_at_once(alone, recipe, tmp_path):
    """One makes what both need, the other waits for it."""
    options = ("--seeds", "1", "--out", tmp_path, "--quiet")
    trials = [
        start("compare", recipe, *options, "--trial", f"{name}@0") for name in ("rft4", "eef")
    ]
    for trial in trials:
        _, errors = trial.communicate(timeout=2 * TIMEOUT)
        assert trial.returncode == 0, errors
        assert "Traceback" not in errors
    assert differences(tmp_path / "seed0", alone) == []
    assert json.loads((tmp_path / "seeds.json").read_text())["pairs"]
