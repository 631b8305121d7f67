"""Size of the viewer: how fast it indexes and shows a run of 100,000 trajectories of 12 steps.

    python -m benchmarks.viewer [--trajectories N] [--pages N] [--keep DIR]

It makes a run whose texts are those of a shop (a generated vocabulary, a page of products per
step), indexes it, and requests pages of every view in turn through the application that `eef view`
serves. It prints trajectories per second, the time of the first page, the 95th percentile of each
view, the peak of the process's memory, and the size of the index. Goals: 5,000 trajectories per
second, 2 s, 200 ms, 300 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import quantiles
from typing import Any
from urllib.parse import quote

STEPS, STATES, ROUNDS = 12, 5, 3
EPISODES = 6  # rollouts per task, method and round
METHODS = ("rft6", "eef")
TESTS = 200
VIEWS = ("run", "tasks", "search", "task", "trajectory", "example", "compare", "behaviors")


def make_run(directory: Path, count: int, seed: int = 0) -> None:
    """A finished run with about `count` trajectories; its files are those of `eef run`."""
    chance = random.Random(seed)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=7)) for _ in range(6000)]
    tasks = [f"webshop/{number}" for number in range(1000, 1000 + _tasks_for(count))]
    tests = [f"webshop/{number}" for number in range(TESTS)]
    recipe = {
        "name": "large",
        "rounds": ROUNDS,
        "methods": list(METHODS),
        "env": {"name": "webshop", "data": "synthetic"},
        "tasks": {"train": len(tasks), "test": TESTS},
    }
    fingerprint = {
        "env": "webshop",
        "student": "base",
        "train_tasks": len(tasks),
        "test_tasks": TESTS,
        "test_split": "test",
    }
    directory.mkdir(parents=True)
    _write(directory / "recipe.json", recipe)
    _write(directory / "fingerprint.json", fingerprint)
    goals = {task: " ".join(chance.choices(words, k=14)) for task in (*tasks, *tests)}

    def record(name: str, task: str, role: str, author: str, **more: Any) -> dict[str, Any]:
        first = more.get("t", 0)
        won = more["won"]
        return {
            "version": 3,
            "id": name,
            "task": task,
            "author": {"role": role, "name": author},
            "steps": [_step(chance, words, goals[task], t) for t in range(first, STEPS)],
            "final_observation": "Thank you for shopping with us!",
            "status": "terminated",
            "reward": 1.0 if won else 0.5,
            "success": won,
            "start": {"trajectory": more["origin"], "t": first} if "origin" in more else None,
            "round": more.get("round", 0),
            "seed": 0,
            "error": None,
            "error_kind": None,
            "usage": {},
            "replayable": True,
            "source": None,
        }

    def experts() -> Iterator[dict[str, Any]]:
        for task in tasks:
            yield record(f"expert:e/{task}", task, "expert", "e", won=chance.random() < 0.3)

    def explored(method: str) -> Iterator[dict[str, Any]]:
        for round in range(1, ROUNDS + 1):
            for task in tasks:
                for number in range(EPISODES):
                    inside = method == "eef" and number > 0
                    place = f"expert:e/{task}@{2 * number}" if inside else f"{task}@0"
                    more = {"origin": f"expert:e/{task}", "t": 2 * number} if inside else {}
                    name = f"{method}/round{round}/{place}#{0 if inside else number}"
                    won = chance.random() < 0.3 + 0.1 * round
                    yield record(name, task, "student", method, won=won, round=round, **more)

    def evaluation(method: str, round: int) -> Iterator[dict[str, Any]]:
        for task in tests:
            name = f"{method}/round{round}/evaluation/{task}"
            yield record(name, task, "student", method, won=chance.random() < 0.5, round=round)

    _write_lines(directory / "expert" / "trajectories.jsonl", experts())
    _finish(directory / "expert" / "round0" / "explored.json", rollouts=len(tasks))
    for method in METHODS:
        _write_lines(directory / method / "trajectories.jsonl", explored(method))
    for method, round in [("bc", 0), *((m, r) for m in METHODS for r in range(1, ROUNDS + 1))]:
        folder = directory / method / f"round{round}"
        _write_lines(folder / "evaluation" / "trajectories.jsonl", evaluation(method, round))
        examples = (_example(method, round, task) for task in tasks)
        _write_lines(folder / "examples.jsonl", examples)
        _write(folder / "selection.json", {"examples": len(tasks)})
        _write(folder / "training.json", {"updates": 9, "losses": [0.1], "too_long": []})
        _write(folder / "checkpoint" / "manifest.json", {})
        if round:
            _finish(folder / "explored.json", rollouts=EPISODES * len(tasks))
        outcomes = [
            {"task": task, "reward": 0.5, "success": not at % 2, "finished": True, "steps": STEPS}
            for at, task in enumerate(tests)
        ]
        result = {"version": 1, "policy": method, "method": method, "round": round, "split": "test"}
        _write(folder / "evaluation.json", {**result, "outcomes": outcomes, "cost": {}})


def _tasks_for(count: int) -> int:
    """The number of training tasks that gives about `count` trajectories."""
    return max(1, count // (1 + len(METHODS) * ROUNDS * EPISODES))


def _step(chance: random.Random, words: list[str], goal: str, t: int) -> dict[str, Any]:
    products = " [SEP] ".join(
        f"B{chance.randrange(10**9):09} [SEP] {' '.join(chance.choices(words, k=7))} [SEP] $9.99"
        for _ in range(4)
    )
    action = f"click[b{chance.randrange(10**9):09}]" if t else f"search[{goal[:40]}]"
    thought = " ".join(chance.choices(words, k=12))
    page = (
        f"Instruction: [SEP] {goal} [SEP] Back to Search [SEP] Page 1 [SEP] Next > [SEP] {products}"
    )
    return {
        "observation": page,
        "completion": f"Thought: {thought}.\nAction: {action}",
        "action": action,
        "reward": 0.0,
        "weight": 1.0,
    }


def _example(method: str, round: int, task: str) -> dict[str, Any]:
    name = f"expert:e/{task}" if method == "bc" else f"{method}/round{round}/{task}@0#0"
    return {
        "version": 3,
        "id": f"{name}@0",
        "task": task,
        "trajectory": name,
        "state": 0,
        "weights": [1.0] * STEPS,
        "reasons": ["student-win"] * STEPS,
        "evidence": [name],
        "prompt_suffix": "",
    }


def _finish(path: Path, rollouts: int) -> None:
    counts = {"rollouts": rollouts, "wins": rollouts // 2, "errors": 0, "overflows": 0}
    _write(path, {**counts, "mismatches": 0, "worker_restarts": 0})


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _write_lines(path: Path, records: Iterator[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        for record in records:
            file.write(json.dumps(record) + "\n")


def measure(directory: Path, pages: int) -> dict[str, Any]:
    """Index the run and request pages of every view, in this process."""
    from starlette.testclient import TestClient

    from eef.viewer.library import Library
    from eef.viewer.open_run import OpenRun
    from eef.viewer.server import make_app

    started = time.perf_counter()
    run = OpenRun.open("large", directory)
    run.refresh()
    indexed = time.perf_counter() - started
    client = TestClient(make_app(Library((run,)), "key"))
    started = time.perf_counter()
    assert client.get("/key/large/").status_code == 200
    first = time.perf_counter() - started
    with run.index.connect() as reader:
        count = reader.query("SELECT count(*) FROM trajectories")[0][0]
        rows = reader.rows("1")
        tasks = sorted({row.task for row in rows})
        examples = reader.examples("1")
        words = reader.trajectory(rows[-1]).steps[0].completion.split()[1:4]
    of_task: dict[str, list[Any]] = {}
    for row in rows:
        of_task.setdefault(row.task, []).append(row)
    chance = random.Random(0)

    def address(view: str) -> str:
        row, task = chance.choice(rows), chance.choice(tasks)
        example = chance.choice(examples)
        other = chance.choice(of_task[row.task])
        return {
            "run": "",
            "tasks": f"tasks?page={chance.randrange(1, 40)}"
            f"&sort={chance.choice(['', 'rate', '-rate'])}"
            f"&filter={chance.choice(['', 'never', 'recovery', 'expert-failed'])}",
            "search": f"tasks?q={quote(chance.choice([*words, 'search', 'click back']))}",
            "task": f"task/{task}",
            "trajectory": f"trajectory/{quote(row.name)}",
            "example": f"example/{quote(example.name)}?method={example.method}"
            f"&round={example.round}",
            "compare": f"compare?a={quote(other.name)}&b={quote(row.name)}",
            "behaviors": "behaviors",
        }[view]

    times: dict[str, list[float]] = {}
    for number in range(pages):
        view = VIEWS[number % len(VIEWS)]
        path = f"/key/large/{address(view)}"
        started = time.perf_counter()
        response = client.get(path)
        times.setdefault(view, []).append(time.perf_counter() - started)
        assert response.status_code == 200, path
    return {
        "trajectories": count,
        "index_s": indexed,
        "per_second": count / indexed,
        "first_page_s": first,
        "p95_ms": {view: 1000 * quantiles(each, n=20)[-1] for view, each in times.items()},
        "p95_all_ms": 1000 * quantiles([t for each in times.values() for t in each], n=20)[-1],
        "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "index_mb": run.index.path.stat().st_size / 1e6,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--trajectories", type=int, default=100_000)
    parser.add_argument("--pages", type=int, default=400)
    parser.add_argument("--keep", type=Path, help="where the run is kept, or was kept before")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(json.dumps(measure(given.measure, given.pages)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        run = (given.keep or Path(temporary)) / "large"
        if not run.exists():
            make_run(run, given.trajectories)
        size = sum(path.stat().st_size for path in run.rglob("*.jsonl")) / 1e6
        print(f"run of {size:,.0f} MB")
        # a process of its own: its memory is that of the viewer alone
        command = [sys.executable, "-m", "benchmarks.viewer", "--measure", str(run)]
        environment = {**os.environ, "EEF_CACHE": str(Path(temporary) / "cache")}
        done = subprocess.run(
            [*command, "--pages", str(given.pages)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        found = json.loads(done.stdout)
    print(f"{found['trajectories']:,} trajectories of {STEPS} steps")
    print(f"indexing     {found['index_s']:.1f} s, {found['per_second']:,.0f} per second")
    print(f"first page   {found['first_page_s']:.2f} s")
    for view, value in found["p95_ms"].items():
        print(f"{view:<12} {value:.0f} ms (95th percentile)")
    print(f"all views    {found['p95_all_ms']:.0f} ms (95th percentile)")
    print(f"memory       {found['memory_mb']:.0f} MB at its peak; index {found['index_mb']:.0f} MB")


if __name__ == "__main__":
    main()
