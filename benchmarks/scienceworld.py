"""Speed of ScienceWorld: `python -m benchmarks.scienceworld`, run from the repository root.

Plays four gold paths repeatedly: with the bare library (its raw `step`, and score and end after
each step, as an episode needs them) in a JVM with the same flags; with the environment and one
worker, one episode at a time; and with eight episodes side by side, with one worker and with two.
Each setup has its own JVMs. The setups take turns, two of them for warm-up; each figure is the
median over the other turns. The last line of the output is JSON:

    steps_per_s  steps per second of wall-clock time, without loading
    forks_per_s  returns to the middle of an episode (at most 30 steps) per second: loading and
                 replay; the environment also compares every observation
    cpu_ms       CPU milliseconds per step, over all processes
"""

from __future__ import annotations

import argparse
import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from eef.envs.scienceworld import ScienceWorld, ScienceWorldSettings
from eef.envs.simulators.gold_paths import GoldPaths
from eef.replay import replay
from eef.task import Task
from eef.trajectory import Author, PathStep, Step

TASKS = (("find-plant", 0), ("use-thermometer", 0), ("boil", 0), ("power-component", 0))
CLONES = 8
WARM_UP = 2  # turns in which the JVMs compile most of the code
FORK_AT = 30
GOLD = Author("expert", "gold")


@dataclass(frozen=True, slots=True)
class Episode:
    """A recorded gold path."""

    task: Task
    path: tuple[PathStep, ...]

    @property
    def actions(self) -> list[str]:
        return [item.step.action for item in self.path]

    @property
    def prefix(self) -> tuple[PathStep, ...]:
        """The first half of the path, at most FORK_AT steps."""
        return self.path[: min(FORK_AT, len(self.path) // 2)]


@dataclass(frozen=True, slots=True)
class Setup:
    """A way to play. `load` an episode, then `steps` plays it and returns the number of steps.

    `fork` returns to the middle of an episode; None if this is not measured.
    """

    load: Callable[[Episode], Any]
    steps: Callable[[Episode], int]
    fork: Callable[[Episode], Any] | None = None


def record(env: ScienceWorld, name: str, variation: int) -> Episode:
    """Play a gold path and record its observations."""
    task = env.task(name, variation)
    actions = GoldPaths(env)[task].actions
    seen, path = env.reset(task), []
    for action in actions:
        path.append(PathStep(Step(observation=seen, completion="", action=action), "gold", GOLD))
        seen = env.step(action).observation
    return Episode(task, tuple(path))


def bare(env: ScienceWorld) -> Setup:
    """The library itself, in a JVM with the same options."""
    import scienceworld.scienceworld as library

    library.launch_gateway = functools.partial(
        library.launch_gateway, javaopts=env.factory.jvm.options
    )
    # The world ends its JVM when it is garbage-collected, so `load` refers to it.
    world = library.ScienceWorldEnv("", envStepLimit=10**6)
    server = world.server

    def load(episode: Episode) -> None:
        world.server.load(*env.episode_spec(episode.task), False)
        server.step("look around")

    def play(actions: Sequence[str]) -> int:
        for action in actions:
            server.step(action)
            server.getScore()
            server.getCompleted()
        return len(actions)

    def fork(episode: Episode) -> None:
        load(episode)
        play([item.step.action for item in episode.prefix])

    return Setup(load, lambda episode: play(episode.actions), fork)


def one_by_one(env: ScienceWorld) -> Setup:
    """The environment, one episode at a time."""
    return Setup(
        lambda episode: env.reset(episode.task),
        lambda episode: sum(1 for action in episode.actions if env.step(action)),
        lambda episode: replay(env, episode.task, episode.prefix),
    )


def side_by_side(env: ScienceWorld) -> Setup:
    """CLONES clones of the environment, stepped together."""
    clones = [env.clone() for _ in range(CLONES)]
    threads = ThreadPoolExecutor(CLONES)

    def load(episode: Episode) -> None:
        list(threads.map(lambda clone: clone.reset(episode.task), clones))

    def play(episode: Episode) -> int:
        for action in episode.actions:
            list(threads.map(lambda clone, action=action: clone.step(action), clones))
        return CLONES * len(episode.actions)

    return Setup(load, play)


def turn(setup: Setup, episodes: Sequence[Episode]) -> dict[str, float]:
    """Play all episodes once; return the figures."""
    seconds = cpu = 0.0
    steps = 0
    for episode in episodes:
        setup.load(episode)
        start, cpu_start = perf_counter(), cpu_seconds()
        steps += setup.steps(episode)
        seconds, cpu = seconds + perf_counter() - start, cpu + cpu_seconds() - cpu_start
    found = {"steps_per_s": steps / seconds, "cpu_ms": 1e3 * cpu / steps}
    if setup.fork is not None:
        start = perf_counter()
        for episode in episodes:
            setup.fork(episode)
        found["forks_per_s"] = len(episodes) / (perf_counter() - start)
    return found


def cpu_seconds() -> float:
    """CPU time of this process and its descendants (Linux)."""
    ticks = sum(sum(map(int, _stat(pid)[11:13])) for pid in _family(os.getpid()))
    return ticks / os.sysconf("SC_CLK_TCK")


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def _family(pid: int) -> Iterator[int]:
    yield pid
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for child in (thread / "children").read_text().split():
            yield from _family(int(child))


def measure(turns: int) -> dict[str, dict[str, float]]:
    """The median of each figure, by setup."""
    with (
        closing(ScienceWorld()) as env,
        closing(ScienceWorld()) as one,
        closing(ScienceWorld(ScienceWorldSettings(workers=2))) as two,
    ):
        episodes = [record(env, *each) for each in TASKS]
        setups = {
            "bare library": bare(env),
            "one worker": one_by_one(env),
            "one worker, 8 episodes": side_by_side(one),
            "two workers, 8 episodes": side_by_side(two),
        }
        found: dict[str, list[dict[str, float]]] = {name: [] for name in setups}
        for number in range(WARM_UP + turns):
            for name, setup in setups.items():
                measured = turn(setup, episodes)
                if number >= WARM_UP:
                    found[name].append(measured)
    return {
        name: {key: round(median(each[key] for each in each_turn), 2) for key in each_turn[0]}
        for name, each_turn in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the speed of ScienceWorld.")
    parser.add_argument("--turns", type=int, default=5, help="measured turns (default 5)")
    given = parser.parse_args()
    print(f"{', '.join(name for name, _ in TASKS)}; {given.turns} turns")
    print(json.dumps(measure(given.turns)))


if __name__ == "__main__":
    main()
