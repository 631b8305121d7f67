"""Episodes in ScienceWorld and TextWorldExpress, and the processes behind them (Linux)."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from eef.env import Env, StepResult, execute
from eef.envs.scienceworld.env import JAR, PACKAGE, VERSION
from eef.envs.simulators.jvm import find_jar, find_java
from eef.errors import ConfigError
from eef.task import Task
from eef.trajectory import Author, PathStep, Step

_THINGS = re.compile(r"(?:^|\s)(?:a|an|the) ([a-z][a-z ]*?)(?=[,.(\n]|$| is | door)", re.M)
_DOORS = re.compile(r"door to the ([a-z ]+)")
_VERBS = ("look at", "pick up", "open", "close", "activate", "put down", "read", "eat", "focus on")


def reason_to_skip() -> str:
    """Why simulators cannot run here; "" if they can."""
    try:
        find_java()
        find_jar(PACKAGE, VERSION, JAR)
    except ConfigError as error:
        return f"{error.message} ({error.hint})"
    return ""


needs_java = pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip())


def record(env: Env, task: Task, actions: list[str]) -> tuple[list[PathStep], StepResult]:
    """The path of these actions, up to the end of the episode, and the last result."""
    now = StepResult(env.reset(task), 0.0, False)
    path = []
    for action in actions:
        seen = now.observation
        now = execute(env, action)
        path.append(
            PathStep(
                Step(observation=seen, completion="", action=action, reward=now.reward),
                "t",
                Author("expert", "e"),
            )
        )
        if now.terminated:
            break
    return path, now


def wander(env: Env, task: Task, steps: int, seed: int) -> tuple[list[PathStep], StepResult]:
    """A random rollout through doors and at visible things. A wrong focus may end it."""
    chance = random.Random(f"{task.id} {seed}")
    now = StepResult(env.reset(task), 0.0, False)
    path = []
    for _ in range(steps):
        action = _some_action(now.observation, chance)
        seen = now.observation
        now = env.step(action)
        path.append(
            PathStep(
                Step(observation=seen, completion="", action=action, reward=now.reward),
                "t",
                Author("expert", "e"),
            )
        )
        if now.terminated:
            break
    return path, now


def _some_action(observation: str, chance: random.Random) -> str:
    if observation.startswith("Ambiguous request"):
        return chance.choice(["0", "1"])
    things, doors = _THINGS.findall(observation), _DOORS.findall(observation)
    choices = [
        "look around",
        "wait1",
        "wait",
        "inventory",
        "task",
        "teleport to kitchen",
        "no such thing",
    ]
    if things:
        choices += [f"{verb} {chance.choice(things)}" for verb in _VERBS]
        choices += [f"move {chance.choice(things)} to {chance.choice(things)}"]
    if doors:
        choices += [f"go to {chance.choice(doors)}" for _ in range(4)]
    return chance.choice(choices)


def children(pid: int) -> list[int]:
    """Processes that a process has started."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (task / "children").read_text().split()]
    return found


def halt(pid: int) -> None:
    """Stop a process and wait until none of its threads runs, so that none still answers."""
    os.kill(pid, signal.SIGSTOP)
    threads = Path(f"/proc/{pid}/task")
    while any(_state(int(thread.name)) not in "TZX" for thread in threads.iterdir()):
        time.sleep(0.01)


def memory(pid: int) -> int:
    """Resident memory of a process in MB."""
    return (
        int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") // 2**20
    )


def footprint() -> dict[str, int]:
    """Processes, zombies, open files and listening ports of this process and its descendants."""
    pids = descendants(os.getpid())
    held = [link for pid in pids for link in _links(pid)]
    listening = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _listening(table)}
    return {
        "processes": len(pids),
        "zombies": sum(_state(pid) == "Z" for pid in pids),
        "files": len(held),
        "ports": len(listening & set(held)),
    }


def descendants(pid: int) -> list[int]:
    """A process and its descendants."""
    return [pid, *(further for child in children(pid) for further in descendants(child))]


def _links(pid: int) -> list[str]:
    found = []
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # the descriptor of this very listing
            found.append(os.readlink(file))
    return found


def _listening(table: str) -> list[str]:
    """Inodes of listening sockets."""
    rows = [line.split() for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    return [row[9] for row in rows if row[3] == "0A"]


def _state(pid: int) -> str:
    """State of a process or a thread; X if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"
