"""A whole run through vLLM: its server killed, then `eef` itself, resumed, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time

import pytest

torch = pytest.importorskip("torch")

from eef.policies.vllm_servers import NAME  # noqa: E402
from eef.rollouts.store import read_trajectories  # noqa: E402
from tests.fakes.real import vllm_python  # noqa: E402
from tests.fakes.small_run import eef, lines_in, start, write_recipe  # noqa: E402

pytestmark = pytest.mark.vllm
MINUTES = 60.0


def recipe():
    return {
        "name": "vllm",
        "rounds": 1,
        "methods": ["eef"],
        "budget": {"rollouts": 40},
        "env": {
            "name": "webshop",
            "data": "synthetic",
            "goals": "human",
            "prompt": "none",
            "products_per_page": 4,
            "step_limit": 8,
            "synthetic": {"seed": 7, "products": 200},
        },
        "expert": {"names": ["scripted/strong"]},
        "model": {"name": "base", "lora": {"rank": 8}},
        "tasks": {"train": 24, "test": 6},
        "sampling": {"max_tokens": 64},
        "rollouts": {
            "engine": "vllm",
            "in_flight": 4,
            "server": {
                "python": vllm_python(),
                "arguments": ["--enforce-eager"],
                "context": 2048,
                "backoff": 0.1,
                "during_training": True,
            },
        },
        "train": {"updates": 8, "batch_size": 4, "learning_rate": 1e-3, "threads": 1},
    }


def servers():
    """The processes of vLLM servers that `eef` started, as `ps` lists them."""
    listed = subprocess.run(
        ["ps", "axww", "-o", "pid,pgid,stat,cmd"], capture_output=True, text=True
    )
    groups = {
        line.split()[1]
        for line in listed.stdout.splitlines()
        if NAME in line and "guard.py" not in line
    }
    return [
        line
        for line in listed.stdout.splitlines()
        if line.split()[1] in groups and line.split()[2][0] != "Z"
    ]


def wait(happened, process, limit=8 * MINUTES):
    deadline = time.monotonic() + limit
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_run_whose_server_and_program_are_killed_is_resumed(tmp_path):
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    assert servers() == []
    path, directory = write_recipe(tmp_path / "r.json", recipe()), tmp_path / "run"
    store = directory / "eef" / "trajectories.jsonl"
    process = start("run", path, "--out", directory)
    try:
        wait(lambda: lines_in(store) >= 4, process)
        before = servers()
        print("\nbefore the server is killed:", *before, sep="\n")
        assert len(before) >= 2
        os.killpg(int(before[0].split()[1]), signal.SIGKILL)
        stored = lines_in(store)
        wait(lambda: lines_in(store) >= stored + 6, process)
        assert lines_in(store) < 40
        print("after the server was started again:", *servers(), sep="\n")
    finally:
        process.kill()
        _, errors = process.communicate()
    assert "is started again" in errors
    kept = store.read_bytes()
    deadline = time.monotonic() + MINUTES
    while servers() and time.monotonic() < deadline:
        time.sleep(0.2)
    print("after `eef` was killed:", *servers(), sep="\n")
    assert servers() == []

    done = eef("run", directory, "--quiet")
    assert done.exit_code == 0, done.stderr
    assert servers() == []
    assert store.read_bytes().startswith(kept)
    experts = read_trajectories(directory / "expert")
    played = [
        each for each in read_trajectories(directory / "eef", base=experts) if each.by_student
    ]
    assert len({each.id.removesuffix("~1") for each in played}) == 40
    assert not any(each.status == "error" for each in played)
    assert any(each.success for each in played)
    fingerprint = json.loads((directory / "fingerprint.json").read_text())
    assert (fingerprint["inference"], fingerprint["inference_version"]) == ("vllm", "0.32.0")
    log = (directory / "servers" / "0.log").read_text()
    assert "eef@round1-" in log
    assert "VLLM_API_KEY" not in log
