"""Speed of the shop: `python -m benchmarks.webshop [--data DIR]`, from the project's root; JSON in the last line.

    steps_per_cpu_second  of a random admissible agent: what can be clicked is asked before each step, an observation
                          is made at each, an episode ends after 15 steps
    search_ms             CPU milliseconds of a query that was not asked before, median
    snapshot_us           microseconds of `snapshot`, mean
    restore_us            microseconds of `restore`, mean; without the page, which is drawn once it is asked for
    start_s               seconds from the start of a fresh interpreter to its first page
    rss_mb                peak of the resident memory of the process that played, in MB (2^20 bytes)

`--seconds` is how long it plays. The figures of `docs/webshop.md` on difficulty come from `benchmarks.shop_figures`.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter, process_time

from eef.envs.webshop import WebShop

EPISODE = 15
QUERIES = 200
COPIES = 2_000
START = "import sys; from eef.envs.webshop import WebShop; WebShop(sys.argv[1], prompt='none').reset(0)"


def random_action(env: WebShop, chance: random.Random) -> str:
    """A click on what can be clicked; where one can search, two words of the instruction are sought."""
    can = env.available()
    if can["has_search_bar"]:
        words = env.goal.instruction.split()
        return f"search[{' '.join(chance.sample(words, min(2, len(words))))}]"
    return f"click[{chance.choice(can['clickables'])}]"


def steps_per_second(env: WebShop, seconds: float) -> float:
    """Steps of the random agent in a second of CPU time, its own choices included."""
    chance, steps, begun = random.Random(0), 0, process_time()
    while process_time() - begun < seconds:
        env.reset(chance.randrange(len(env.shop.goals)))
        for _ in range(EPISODE):
            steps += 1
            if env.step(random_action(env, chance)).terminated:
                break
    return steps / (process_time() - begun)


def search_time(env: WebShop) -> float:
    """Median CPU milliseconds of searches for whole instructions, each sought once."""
    queries = list(dict.fromkeys(env.shop.goals[at].instruction for at in range(min(QUERIES, len(env.shop.goals)))))
    times = []
    for query in queries:
        begun = process_time()
        env.search(query)
        times.append(process_time() - begun)
    return 1e3 * median(times)


def copy_times(env: WebShop) -> tuple[float, float]:
    """CPU microseconds of a snapshot, and of a return to one, in turn to a results page and a product's."""
    env.reset(0)
    env.step(f"search[{env.goal.instruction}]")
    results = env.snapshot()
    env.step(f"click[{_first_product(env)}]")
    item = env.snapshot()
    begun = process_time()
    for _ in range(COPIES):
        env.snapshot()
    snapshot = (process_time() - begun) / COPIES
    begun = process_time()
    for turn in range(COPIES):
        env.restore(item if turn % 2 else results)
    return 1e6 * snapshot, 1e6 * (process_time() - begun) / COPIES


def _first_product(env: WebShop) -> str:
    asin, _ = env.search(env.goal.instruction)[0]
    return asin


def start_time(data: str) -> float:
    """Seconds a fresh interpreter takes to its first page."""
    begun = perf_counter()
    subprocess.run([sys.executable, "-c", START, data], check=True)
    return perf_counter() - begun


def measure(data: str, seconds: float) -> dict[str, float]:
    """All figures of the shop on `data`."""
    env = WebShop(data, prompt="none")
    search = search_time(env)
    steps = steps_per_second(env, seconds)
    snapshot, restore = copy_times(env)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "steps_per_cpu_second": round(steps),
        "search_ms": round(search, 3),
        "snapshot_us": round(snapshot, 2),
        "restore_us": round(restore, 2),
        "start_s": round(start_time(data), 2),
        "rss_mb": round(memory),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure how fast the shop is.")
    parser.add_argument("--data", type=Path, help="directory with the official files; a generated shop without")
    parser.add_argument("--seconds", type=float, default=5.0, help="CPU seconds of play (default 5)")
    given = parser.parse_args()
    data = "synthetic" if given.data is None else str(given.data)
    print(f"data {data}, {given.seconds:g} CPU seconds of play")
    print(json.dumps(measure(data, given.seconds)))


if __name__ == "__main__":
    main()
