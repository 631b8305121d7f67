"""Environments in a Ray cluster: measured on this machine, simulated for more workers.

`python -m benchmarks.cluster steps --out FILE` (from the repository root, with `eef[ray]`) plays
ScienceWorld with 1, 2 and 4 workers, as local processes and as actors, in turns. Beside steps per
second, which depend on what else the machine does, it keeps CPU time per step: of all processes
together, and of a worker in each step (`/proc/PID/task/*/schedstat`). It also measures what a step
costs the process that drives workers, with a simulator that computes nothing, and what storing a
rollout costs it.

`python -m benchmarks.cluster driver --out FILE` measures the latter two alone, in CPU time.

`python -m benchmarks.cluster simulate FILE` draws from a worker's CPU times (or with `--step
SECONDS`, from an exponential distribution of that mean): how many steps per second 64 and 512
workers give, if one process drives them, or hosts (`rollouts.placement = "ray"`).
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from eef.env import StepResult
from eef.envs.scienceworld import ScienceWorld, ScienceWorldSettings
from eef.envs.simulators.pool import Pool
from eef.envs.simulators.ray_worker import kind_of_worker
from eef.envs.simulators.settings import PoolSettings
from eef.rollouts.store import Store
from eef.trajectory import Author, Step, Trajectory
from eef.utils.cluster import join

WORKERS = (1, 2, 4)
PLACEMENTS = ("local", "ray")
ACTIONS = ("look around", "inventory", "open door to hallway", "go to hallway", "wait1")
EPISODES_PER_WORKER = 4
STEPS_PER_ROLLOUT = 25
STEPS_ALONE = 200


@dataclass(frozen=True)
class EchoFactory:
    """Creates a simulator that computes nothing, but answers at ScienceWorld's usual length."""

    def __call__(self) -> Echo:
        return Echo()


class Echo:
    def reset(self, slot: int, spec: Any) -> str:
        return "x" * 600

    def step(self, slot: int, action: str) -> StepResult:
        return StepResult("x" * 600, 0.0, False)

    def release(self, slot: int) -> None: ...

    def gold_actions(self, spec: Any) -> list[str]:
        return []

    def is_alive(self) -> bool:
        return True

    def close(self) -> None: ...


def cpus_of(placement: str) -> float:
    """Little, so that a cluster of one core has room for all workers."""
    return 0.1 if placement == "ray" else 1.0


def descendants() -> set[int]:
    """The processes that this one has started, and theirs."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rsplit(")", 1)[1].split()[1])
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {os.getpid()}


def cpu_of(processes: Iterable[int]) -> float:
    """CPU seconds of the threads that processes have now."""
    total = 0
    for process in processes:
        for path in Path(f"/proc/{process}/task").glob("*/schedstat"):
            with suppress(OSError):
                total += int(path.read_text().split()[0])
    return total / 1e9


def play_steps(count: int, clones: Sequence[Any], tasks: Sequence[Any]) -> None:
    """Take this many steps in each episode, one thread per episode."""

    def play(clone: Any, number: int) -> None:
        clone.reset(tasks[number % len(tasks)])
        for turn in range(count):
            clone.step(ACTIONS[turn % len(ACTIONS)])

    with ThreadPoolExecutor(len(clones)) as threads:
        list(threads.map(play, clones, range(len(clones))))


def steps_alone(count: int, clone: Any, task: Any, worker: Iterable[int]) -> list[float]:
    """CPU seconds of a worker in each of some steps."""
    clone.reset(task)
    times = []
    for turn in range(count):
        before = cpu_of(worker)
        clone.step(ACTIONS[turn % len(ACTIONS)])
        times.append(round(cpu_of(worker) - before, 6))
    return times


def measure_scienceworld(placement: str, workers: int, count: int) -> dict[str, Any]:
    """`count` steps per worker, after as many in which the JVMs compile most of the code."""
    settings = ScienceWorldSettings(
        tasks="boil", workers=workers, placement=placement, worker_cpus=cpus_of(placement)
    )
    before = descendants()
    with closing(ScienceWorld(settings)) as env:
        tasks = env.tasks("train").head(8)
        clones = [env.clone() for _ in range(EPISODES_PER_WORKER * workers)]
        per_episode = count // EPISODES_PER_WORKER
        play_steps(per_episode, clones, tasks)
        # Ray may have started the process of an actor earlier
        own = descendants() - (before if placement == "local" else set())
        cpu, started = cpu_of([*own, os.getpid()]), time.perf_counter()
        play_steps(per_episode, clones, tasks)
        passed = time.perf_counter() - started
        cpu = cpu_of([*own, os.getpid()]) - cpu
        steps = per_episode * len(clones)
        one = (placement, workers) == ("local", 1)
        alone = steps_alone(STEPS_ALONE, clones[0], tasks[0], own) if one else []
        for clone in clones:
            clone.close()
    return {
        "placement": placement,
        "workers": workers,
        "steps_per_second": round(steps / passed, 1),
        "cpu_per_step": round(cpu / steps, 5),
        "load": os.getloadavg()[0],
        "alone": alone,
    }


def measure_driver(placement: str, seconds: float) -> dict[str, Any]:
    """CPU seconds per step of the driving process, over threads that wait for two echo workers."""
    settings = PoolSettings(workers=2, placement=placement, worker_cpus=cpus_of(placement))
    pool = Pool(EchoFactory(), size=2, timeout=60.0, name="echo", kind=kind_of_worker(settings))
    slots = [pool.slot() for _ in range(16)]
    for slot in slots:
        slot.reset(0)
    counts = [0] * len(slots)

    def run(until: float) -> None:
        def step(number: int) -> None:
            while time.perf_counter() < until:
                slots[number].step("look around")
                slots[number]._played.clear()  # an episode of any length
                counts[number] += 1

        threads = [threading.Thread(target=step, args=(n,)) for n in range(len(slots))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    run(time.perf_counter() + seconds / 4)
    counts[:] = [0] * len(slots)
    cpu = time.process_time()
    run(time.perf_counter() + seconds)
    cpu = time.process_time() - cpu
    pool.close()
    return {
        "placement": placement,
        "cpu_per_step": cpu / sum(counts),
        "rate": sum(counts) / seconds,
    }


def measure_storing(count: int = 200) -> float:
    """Seconds in which the driver reads a rollout's record and stores it."""
    steps = [
        Step(observation="x" * 600, completion="Thought: y\nAction: z", action="z", reward=0.0)
        for _ in range(STEPS_PER_ROLLOUT)
    ]
    records = [
        Trajectory(
            id=f"r{number}",
            task="t",
            author=Author("student", "x"),
            steps=tuple(steps),
            final_observation="x",
            status="truncated",
            reward=0.0,
            success=False,
        ).to_record()
        for number in range(count)
    ]
    with TemporaryDirectory() as directory, Store.open(Path(directory)) as store:
        started = time.perf_counter()
        for record in records:
            store.append(Trajectory.from_record(record))
        return (time.perf_counter() - started) / count


@dataclass(frozen=True)
class Setup:
    """What is simulated. `drivers` processes share episodes and workers equally.

    driver_seconds  CPU seconds of a driver per step
    storing         seconds of the writer per rollout; 0 if the driver is the writer itself
    thinking        seconds from an observation to the next action
    """

    workers: int
    episodes: int
    drivers: int
    driver_seconds: float
    storing: float
    thinking: float


def simulate(setup: Setup, steps: Sequence[float], seconds: float = 2.0) -> float:
    """Steps per second of simulated time.

    An episode thinks, waits for its driver, then for its worker, which takes one step at a time.
    After `STEPS_PER_ROLLOUT` steps its rollout waits for the writer.
    """
    chance = random.Random(0)
    free_at = {"writer": 0.0}
    driver_free, worker_free = [0.0] * setup.drivers, [0.0] * setup.workers
    events = [
        (chance.random() * (setup.thinking + 0.1), number, 0) for number in range(setup.episodes)
    ]
    heapq.heapify(events)
    done, warm_up = 0, seconds / 4
    while events:
        now, episode, turn = heapq.heappop(events)
        if now > seconds:
            break
        driver = episode % setup.drivers
        now = driver_free[driver] = max(now, driver_free[driver]) + setup.driver_seconds
        worker = episode % setup.workers
        now = worker_free[worker] = max(now, worker_free[worker]) + chance.choice(steps)
        done += warm_up < now <= seconds
        turn += 1
        if turn == STEPS_PER_ROLLOUT:
            now = free_at["writer"] = max(now, free_at["writer"]) + setup.storing
            turn = 0
        heapq.heappush(events, (now + setup.thinking * chance.uniform(0.5, 1.5), episode, turn))
    return done / (seconds - warm_up)


def table(measured: dict[str, Any]) -> list[str]:
    steps = measured["step_seconds"]
    costs = {each["placement"]: each["cpu_per_step"] for each in measured["driver"]}
    lines = [
        "| workers | thinking | workers could | one driver, local pipes | one driver, Ray | "
        "8 hosts | 32 hosts |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    mean = sum(steps) / len(steps)
    for workers in (4, 64, 512):
        for thinking in (0.0, 1.0):
            # enough episodes that no worker waits for thinking
            episodes = max(4, round(1.5 * (1 + thinking / mean))) * workers
            rates = []
            for drivers, cost, storing in (
                (1, costs["local"], 0.0),
                (1, costs["ray"], 0.0),
                (8, costs["local"], measured["storing"]),
                (32, costs["local"], measured["storing"]),
            ):
                setup = Setup(workers, episodes, drivers, cost, storing, thinking)
                rates.append(simulate(setup, steps))
            row = [f"{workers}", f"{thinking:g} s", f"{workers / mean:,.0f}"]
            lines.append(f"| {' | '.join([*row, *(f'{rate:,.0f}' for rate in rates)])} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    steps = kinds.add_parser("steps")
    steps.add_argument("--out", type=Path, required=True)
    steps.add_argument("--seconds", type=float, default=8.0)
    steps.add_argument("--steps", type=int, default=2000, help="of each worker")
    steps.add_argument("--turns", type=int, default=3)
    driver = kinds.add_parser("driver")
    driver.add_argument("--out", type=Path, required=True)
    driver.add_argument("--seconds", type=float, default=8.0)
    simulated = kinds.add_parser("simulate")
    simulated.add_argument("file", type=Path)
    simulated.add_argument("--step", type=float, help="mean seconds of a step, if none are kept")
    given = parser.parse_args()
    if given.kind == "simulate":
        measured = json.loads(given.file.read_text())
        if given.step:
            chance = random.Random(1)
            measured["step_seconds"] = [chance.expovariate(1 / given.step) for _ in range(10_000)]
        print("\n".join(table(measured)))
        return
    os.environ.setdefault("PYTHONPATH", os.getcwd())
    join("local")
    if given.kind == "driver":
        costs = [measure_driver(placement, given.seconds) for placement in PLACEMENTS]
        record = {"driver": costs, "storing": measure_storing(), "load": os.getloadavg()[0]}
        given.out.write_text(json.dumps(record) + "\n")
        print(record)
        return
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for _ in range(given.turns):
        for placement in PLACEMENTS:
            for workers in WORKERS:
                measured = measure_scienceworld(placement, workers, given.steps)
                found.setdefault((placement, workers), []).append(measured)
                print({key: measured[key] for key in measured if key != "alone"}, flush=True)
    costs = [measure_driver(placement, given.seconds) for placement in PLACEMENTS]
    record = {
        **{
            kind: {
                f"{placement} {workers}": [each[kind] for each in turns]
                for (placement, workers), turns in found.items()
            }
            for kind in ("steps_per_second", "cpu_per_step", "load")
        },
        "step_seconds": sorted(each for turn in found["local", 1] for each in turn["alone"]),
        "driver": costs,
        "storing": measure_storing(),
    }
    given.out.write_text(json.dumps(record) + "\n")
    for kind in ("steps_per_second", "cpu_per_step"):
        print(kind, {name: median(values) for name, values in record[kind].items()})
    print({key: value for key, value in record.items() if key != "step_seconds"})


if __name__ == "__main__":
    main()
