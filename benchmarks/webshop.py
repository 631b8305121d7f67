"""Speed of the shop: `python -m benchmarks.webshop [--data DIR]`, run from the repository root.

The last line of the output is JSON:

    steps_per_cpu_second  steps of a random agent that clicks on admissible labels; an observation
                          is rendered at each step; an episode ends after 15 steps
    search_ms             median CPU milliseconds of a search for a whole instruction, no repeats
    query_p50_ms, query_p99_ms
                          the same for 400 queries of four kinds: an instruction without its price,
                          six words of a title, a kind with two attributes, three words of an
                          instruction
    query_wall_p50_ms, query_wall_p99_ms
                          their wall-clock time, which depends on the machine's load
    snapshot_us           mean microseconds of `snapshot`
    restore_us            mean microseconds of `restore`, without the page, which is rendered lazily
    start_s, start_cpu_s  wall-clock and CPU seconds of a fresh interpreter until its first page
    open_mb               resident memory of that interpreter then, in MB (2^20 bytes)
    rss_mb                peak resident memory of the process that played
    workers               with `--workers N`: N spawned processes each open the shop and search; for
                          each, its resident memory (`rss_mb`), its proportional share (`pss_mb`),
                          shared memory (`shared_mb`) and private memory (`own_mb`)

The figures of `docs/webshop.md` on difficulty come from `benchmarks.shop_figures`;
`benchmarks/catalog.py` writes a catalog of any size.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter, process_time
from typing import Any

from eef.envs.webshop import WebShop, WebShopSettings

EPISODE = 15
QUERIES = 200
MIXED = 400
COPIES = 2_000
START = """
import json, sys, time
from eef.envs.webshop import WebShop, WebShopSettings
WebShop(WebShopSettings(prompt="none", **json.loads(sys.argv[1]))).reset(0)
seconds = time.process_time()
from benchmarks.webshop import memory
print(json.dumps([seconds, memory()["rss_mb"]]))
"""

Options = dict[str, Any]


def random_action(env: WebShop, rng: random.Random) -> str:
    """A random click, or a search for two words of the instruction if the page allows it."""
    can = env.available()
    if can["has_search_bar"]:
        words = env.goal.instruction.split()
        return f"search[{' '.join(rng.sample(words, min(2, len(words))))}]"
    return f"click[{rng.choice(can['clickables'])}]"


def steps_per_second(env: WebShop, seconds: float) -> float:
    """Steps of the random agent per second of CPU time, including its choices."""
    rng, steps, start = random.Random(0), 0, process_time()
    while process_time() - start < seconds:
        env.reset(rng.randrange(len(env.shop.goals)))
        for _ in range(EPISODE):
            steps += 1
            if env.step(random_action(env, rng)).terminated:
                break
    return steps / (process_time() - start)


def search_time(env: WebShop) -> float:
    """Median CPU milliseconds of searches for whole instructions, without repeats."""
    queries = list(
        dict.fromkeys(
            env.shop.goals[at].instruction for at in range(min(QUERIES, len(env.shop.goals)))
        )
    )
    times = []
    for query in queries:
        start = process_time()
        env.search(query)
        times.append(process_time() - start)
    return 1e3 * median(times)


def mixed_queries(env: WebShop, count: int, seed: int) -> Iterator[str]:
    """Queries as an agent might write them for random goals; four kinds in turn."""
    rng = random.Random(seed)
    for number in range(count):
        goal = env.shop.goals[rng.randrange(len(env.shop.goals))]
        wanted = goal.instruction.split(", and price")[0]
        words = wanted.split()
        yield (
            wanted,
            " ".join(env.shop.product(goal.asin).title.split()[:6]),
            " ".join([goal.query, *goal.attributes[:2]]),
            " ".join(rng.sample(words, min(3, len(words)))),
        )[number % 4]


def query_times(env: WebShop) -> dict[str, float]:
    """CPU and wall-clock milliseconds of mixed queries: median and 99th percentile."""
    cpu, wall = [], []
    for query in dict.fromkeys(mixed_queries(env, MIXED, seed=1)):
        cpu_start, wall_start = process_time(), perf_counter()
        env.search(query)
        cpu.append(1e3 * (process_time() - cpu_start))
        wall.append(1e3 * (perf_counter() - wall_start))
    return {
        f"query_{kind}p{part}_ms": round(quantiles(times, n=100)[part - 1], 3)
        for kind, times in (("", cpu), ("wall_", wall)) for part in (50, 99)
    }  # fmt: skip


def copy_times(env: WebShop) -> tuple[float, float]:
    """CPU microseconds per `snapshot` and `restore`, of a results page and an item page in turn."""
    env.reset(0)
    env.step(f"search[{env.goal.instruction}]")
    results = env.snapshot()
    env.step(f"click[{_first_product(env)}]")
    item = env.snapshot()
    start = process_time()
    for _ in range(COPIES):
        env.snapshot()
    snapshot = (process_time() - start) / COPIES
    start = process_time()
    for turn in range(COPIES):
        env.restore(item if turn % 2 else results)
    return 1e6 * snapshot, 1e6 * (process_time() - start) / COPIES


def _first_product(env: WebShop) -> str:
    asin, _ = env.search(env.goal.instruction)[0]
    return asin


def start_figures(options: Options) -> dict[str, float]:
    """Time and memory of a fresh interpreter until its first page."""
    start = perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", START, json.dumps(options)], check=True, stdout=subprocess.PIPE
    )
    seconds = perf_counter() - start
    cpu, resident = json.loads(done.stdout)
    return {"start_s": round(seconds, 2), "start_cpu_s": round(cpu, 2), "open_mb": resident}


def memory_of_workers(options: Options, count: int) -> dict[str, list[int]]:
    """Memory of processes that have the shop open at the same time, after some searches."""
    spawn = multiprocessing.get_context("spawn")
    barrier, results = spawn.Barrier(count), spawn.Queue()
    workers = [
        spawn.Process(target=_work, args=(options, seed, barrier, results)) for seed in range(count)
    ]
    for worker in workers:
        worker.start()
    found = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    return {key: [each[key] for each in found] for key in found[0]}


def _work(options: Options, seed: int, barrier: Any, results: Any) -> None:
    env = WebShop(WebShopSettings(prompt="none", **options))
    for query in mixed_queries(env, MIXED // 4, seed):
        env.search(query)
    barrier.wait()
    results.put(memory())
    barrier.wait()


def memory() -> dict[str, int]:
    """Memory of this process in MB (Linux)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    kb = {name: int(value.split()[0]) for name, value in (line.split(":") for line in lines)}
    shared, own = kb["Shared_Clean"] + kb["Shared_Dirty"], kb["Private_Clean"] + kb["Private_Dirty"]
    parts = {"rss_mb": kb["Rss"], "pss_mb": kb["Pss"], "shared_mb": shared, "own_mb": own}
    return {name: round(size / 1024) for name, size in parts.items()}


def measure(options: Options, seconds: float, workers: int) -> dict[str, Any]:
    """All figures of a shop with these settings."""
    env = WebShop(WebShopSettings(prompt="none", **options))
    search = search_time(env)
    queries = query_times(env)
    steps = steps_per_second(env, seconds)
    snapshot, restore = copy_times(env)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "products": len(env.shop.catalog),
        "goals": len(env.shop.goals),
        "steps_per_cpu_second": round(steps),
        "search_ms": round(search, 3),
        **queries,
        "snapshot_us": round(snapshot, 2),
        "restore_us": round(restore, 2),
        **start_figures(options),
        "rss_mb": round(peak),
        **({"workers": memory_of_workers(options, workers)} if workers else {}),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the speed of the shop.")
    parser.add_argument("--data", help="directory with the official files (default: synthetic)")
    parser.add_argument(
        "--products", type=int, default=1000, help="size of a synthetic shop (default 1000)"
    )
    parser.add_argument(
        "--goals", choices=("synthetic", "human"), default="synthetic", help="default synthetic"
    )
    parser.add_argument("--index", default="auto", help="directory of the index (`env.index`)")
    parser.add_argument(
        "--seconds", type=float, default=5.0, help="CPU seconds to play (default 5)"
    )
    parser.add_argument(
        "--workers", type=int, default=0, help="processes whose memory is measured (default 0)"
    )
    given = parser.parse_args()
    data = "synthetic" if given.data is None else str(given.data)
    print(f"data {data}, {given.seconds:g} CPU seconds of play")
    options: Options = {"data": data, "goals": given.goals, "index": given.index}
    if given.data is None:
        options["synthetic"] = {"products": given.products}
    print(json.dumps(measure(options, given.seconds, given.workers)))


if __name__ == "__main__":
    main()
