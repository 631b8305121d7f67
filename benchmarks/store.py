"""Cost of reading a growing store, once per round.

`python -m benchmarks.store [ROLLOUTS …]` writes a store of so many rollouts of 8 steps, about 7 kB
each (by default 2,160 and 21,600), appends 48 more in each of 5 rounds, and reads it after each:
from the start, as another process would, and with a reader that has read it before, as the stages
of a run do. The last line of the output is JSON: median seconds per read by number of rollouts.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median

from eef.rollouts.store import STORE_FILE, StoreReader
from eef.trajectory import Author, Step, Trajectory

ROUNDS, PER_ROUND = 5, 48
STUDENT = Author("student", "student")
WORDS = ["red", "blue", "wool", "cotton", "large", "small", "price", "back", "next", "click"]


def main(sizes: Iterable[int]) -> None:
    result: dict[int, dict[str, float]] = {}
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            result[size] = measure(Path(folder), size)
        print(
            f"{size:>7,} rollouts: {result[size]['from_start']:.3f} s from the start, "
            f"{result[size]['again']:.3f} s again"
        )
    print(json.dumps(result))


def measure(directory: Path, size: int) -> dict[str, float]:
    """Median seconds per read of a store that grows, from its start and with the same reader."""
    rollouts, reader = make_rollouts(), StoreReader(directory)
    append(directory / STORE_FILE, rollouts, size)
    reader.read()
    times: dict[str, list[float]] = {"from_start": [], "again": []}
    for _ in range(ROUNDS):
        append(directory / STORE_FILE, rollouts, PER_ROUND)
        times["from_start"].append(seconds(StoreReader(directory).read))
        times["again"].append(seconds(reader.read))
    return {name: median(each) for name, each in times.items()}


def make_rollouts() -> Iterator[str]:
    """Lines of a store, without end."""
    rng, number = random.Random(0), 0
    while True:
        steps = tuple(
            Step(
                observation=" ".join(rng.choices(WORDS, k=120)),
                completion="Thought: look. Action: click[next]",
                action="click[next]",
            )
            for _ in range(8)
        )
        trajectory = Trajectory(
            id=f"grpo/{number}",
            task=f"shop/{number % 120}",
            author=STUDENT,
            steps=steps,
            final_observation="end",
            status="terminated",
            reward=0.0,
            success=False,
        )
        yield json.dumps(trajectory.to_record()) + "\n"
        number += 1


def append(path: Path, rollouts: Iterator[str], count: int) -> None:
    with path.open("a") as file:
        file.writelines(next(rollouts) for _ in range(count))


def seconds(read: Callable[[], object]) -> float:
    start = time.perf_counter()
    read()
    return time.perf_counter() - start


if __name__ == "__main__":
    main([int(each) for each in sys.argv[1:]] or [2_160, 21_600])
