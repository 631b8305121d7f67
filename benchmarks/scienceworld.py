"""Speed of ScienceWorld: `python -m benchmarks.scienceworld`, from the project's root; JSON in the last line.

Four gold paths are played again and again: by the bare library (its raw `step`, score and end after each, as an episode
needs them) in a JVM with the same flags; by the environment with one worker, one episode after the other; and by eight
episodes side by side with one worker and with two. Each way has JVMs of its own. They take turns, two to warm up, and
each figure is the median over the others.

    steps_per_s  steps in a second of wall-clock time, loading of the episodes left out
    forks_per_s  returns to the middle of an episode (at most 30 steps) in a second: loading, and replay; by the
                 environment with every observation compared
    cpu_ms       CPU milliseconds of a step, in all processes together
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

from eef.env import replay
from eef.envs.scienceworld import ScienceWorld
from eef.envs.simulators.gold_paths import GoldPaths
from eef.task import Task
from eef.trajectory import PathStep, Step

TASKS = (("find-plant", 0), ("use-thermometer", 0), ("boil", 0), ("power-component", 0))
CLONES = 8
WARM_UP = 2  # turns in which the JVMs compile most of what they run
FORK_AT = 30


@dataclass(frozen=True, slots=True)
class Episode:
    """A gold path as it was recorded."""

    task: Task
    path: tuple[PathStep, ...]

    @property
    def actions(self) -> list[str]:
        return [item.step.action for item in self.path]

    @property
    def prefix(self) -> tuple[PathStep, ...]:
        """The way into the middle."""
        return self.path[: min(FORK_AT, len(self.path) // 2)]


@dataclass(frozen=True, slots=True)
class Way:
    """A way to play: `load` an episode, then `steps` (how many there were); `fork` into the middle of one."""

    load: Callable[[Episode], Any]
    steps: Callable[[Episode], int]
    fork: Callable[[Episode], Any] | None = None


def record(env: ScienceWorld, name: str, variation: int) -> Episode:
    """Play a gold path and keep what is seen."""
    task = env.task(name, variation)
    actions = GoldPaths(env)[task].actions
    seen, path = env.reset(task), []
    for action in actions:
        path.append(
            PathStep(Step(observation=seen, completion="", action=action), "gold", "expert:gold")
        )
        seen = env.step(action).observation
    return Episode(task, tuple(path))


def bare(env: ScienceWorld) -> Way:
    """The library itself, in a JVM that is told the same."""
    import scienceworld.scienceworld as library

    library.launch_gateway = functools.partial(
        library.launch_gateway, javaopts=env.opener.jvm.options
    )
    world = library.ScienceWorldEnv(
        "", envStepLimit=10**6
    )  # it ends its JVM when nothing holds it any more
    server = world.server

    def load(episode: Episode) -> None:
        world.server.load(*env.start_of(episode.task), False)
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

    return Way(load, lambda episode: play(episode.actions), fork)


def one_by_one(env: ScienceWorld) -> Way:
    """The environment, an episode at a time."""
    return Way(
        lambda episode: env.reset(episode.task),
        lambda episode: sum(1 for action in episode.actions if env.step(action)),
        lambda episode: replay(env, episode.task, episode.prefix),
    )


def side_by_side(env: ScienceWorld) -> Way:
    """Eight clones of the environment, stepped together."""
    clones = [env.clone() for _ in range(CLONES)]
    threads = ThreadPoolExecutor(CLONES)

    def load(episode: Episode) -> None:
        list(threads.map(lambda clone: clone.reset(episode.task), clones))

    def play(episode: Episode) -> int:
        for action in episode.actions:
            list(threads.map(lambda clone, action=action: clone.step(action), clones))
        return CLONES * len(episode.actions)

    return Way(load, play)


def turn(way: Way, episodes: Sequence[Episode]) -> dict[str, float]:
    """One turn: all episodes once."""
    seconds = cpu = 0.0
    steps = 0
    for episode in episodes:
        way.load(episode)
        began, cpu_began = perf_counter(), cpu_seconds()
        steps += way.steps(episode)
        seconds, cpu = seconds + perf_counter() - began, cpu + cpu_seconds() - cpu_began
    found = {"steps_per_s": steps / seconds, "cpu_ms": 1e3 * cpu / steps}
    if way.fork is not None:
        began = perf_counter()
        for episode in episodes:
            way.fork(episode)
        found["forks_per_s"] = len(episodes) / (perf_counter() - began)
    return found


def cpu_seconds() -> float:
    """CPU time of this process and of all it has started (Linux)."""
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
    """The medians of all figures, by way of playing."""
    with (
        closing(ScienceWorld()) as env,
        closing(ScienceWorld()) as one,
        closing(ScienceWorld(workers=2)) as two,
    ):
        episodes = [record(env, *each) for each in TASKS]
        ways = {
            "bare library": bare(env),
            "one worker": one_by_one(env),
            "one worker, 8 episodes": side_by_side(one),
            "two workers, 8 episodes": side_by_side(two),
        }
        found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
        for number in range(WARM_UP + turns):
            for name, way in ways.items():
                measured = turn(way, episodes)
                if number >= WARM_UP:
                    found[name].append(measured)
    return {
        name: {key: round(median(each[key] for each in each_turn), 2) for key in each_turn[0]}
        for name, each_turn in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how fast ScienceWorld is.")
    parser.add_argument("--turns", type=int, default=5, help="turns that are measured (default 5)")
    given = parser.parse_args()
    print(f"{', '.join(name for name, _ in TASKS)}; {given.turns} turns")
    print(json.dumps(measure(given.turns)))


if __name__ == "__main__":
    main()
