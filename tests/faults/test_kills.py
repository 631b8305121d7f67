"""A run killed by SIGKILL at random moments equals one that nothing interrupted."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from eef.pipeline.run_directory import RunDirectory
from tests.fakes.faults import differences, sizes, state_of
from tests.fakes.small_run import TIMEOUT, eef, lines_in, start

MOST_CHANGES = 25  # of a directory before a kill; a run makes about 180
LONGEST_DELAY = 0.05  # seconds
REFUSED = "was killed by SIGKILL"


@pytest.fixture(scope="module")
def uninterrupted(recipe, tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "uninterrupted"
    assert eef("run", recipe, "--out", directory, "--quiet").exit_code == 0
    return directory


@sizes(2, 100, "kills")
def test_a_killed_run_equals_an_uninterrupted_one(kills, uninterrupted, recipe, tmp_path):
    """Kills the program, one of its workers, or all at once, after a random number of changes.

    The first kill of each run comes with the first rollout of the expert: collecting is too short
    to be met at random.
    """
    chance = random.Random(kills)
    during, victims = Counter(), Counter()
    runs = 0
    while victims.total() < kills:
        runs += 1
        directory = tmp_path / f"run{runs}"
        ended = False
        while not ended:
            process = start("run", recipe, "--out", directory, "--jobs", "2", "--quiet")
            victim = ""
            reached = changed if (directory / "expert").exists() else collecting
            if victims.total() < kills and reached(process, directory, chance):
                stages = in_progress(directory)
                victim = kill(process, chance)
                victims[victim] += 1
                during.update(stages)
            _, errors = process.communicate(timeout=2 * TIMEOUT)
            ended = process.returncode == 0
            expected = {"": 0, "worker": 2}.get(victim, -signal.SIGKILL)
            assert ended or process.returncode == expected, errors
            # a worker that was just starting reports the end of a killed program in its own way
            assert victim in ("program", "all") or "Traceback" not in errors, errors
            assert victim != "worker" or ended or REFUSED in errors, errors
        assert differences(directory, uninterrupted) == []
    print(f"\n{victims.total()} kills ({dict(victims)}) in {runs} runs, during {dict(during)}")
    if kills >= 25:
        assert {"collect", "explore", "train", "evaluate"} <= set(during)


def changed(process: subprocess.Popen[str], directory: Path, chance: random.Random) -> bool:
    """Wait until the files have changed a random number of times; False if the program ended."""
    left, before = chance.randint(1, MOST_CHANGES), state_of(directory)
    while left:
        if process.poll() is not None:
            return False
        time.sleep(0.002)
        if (now := state_of(directory)) != before:
            left, before = left - 1, now
    time.sleep(chance.uniform(0, LONGEST_DELAY))
    return process.poll() is None


def collecting(process: subprocess.Popen[str], directory: Path, _: random.Random) -> bool:
    """Wait until the expert has played; False if the program ended."""
    while not lines_in(directory / "expert/trajectories.jsonl"):
        if process.poll() is not None:
            return False
        time.sleep(0.001)
    return process.poll() is None


def in_progress(directory: Path) -> list[str]:
    """The kinds of the stages that are being executed: of each method, the first not done."""
    if not (directory / "recipe.json").is_file():
        return ["creation"]
    run = RunDirectory.open(directory)
    waiting = [stage for stage in run.stages if not run.is_done(stage)]
    first = {stage.method: stage for stage in reversed(waiting)}
    if {"expert", "bc"} & set(first):
        return [waiting[0].kind]
    return [stage.kind for stage in first.values()] or ["report"]


def kill(process: subprocess.Popen[str], chance: random.Random) -> str:
    """Kill the program, one of its workers (if it has any), or both; returns which."""
    victim = chance.choice(("program", "worker", "all"))
    workers = workers_of(process.pid)
    if victim == "worker" and workers:
        os.kill(chance.choice(workers), signal.SIGKILL)
        return "worker"
    if victim == "all":
        os.killpg(process.pid, signal.SIGKILL)
        return "all"
    process.kill()
    return "program"


def workers_of(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(each) for each in children if is_worker(each)]
    except FileNotFoundError:
        return []


def is_worker(pid: str) -> bool:
    return "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()
