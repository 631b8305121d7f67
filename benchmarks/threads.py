"""Cost of PyTorch's threads in training, on idle cores and on busy ones.

`python -m benchmarks.threads` trains the base student on random ids in separate processes: with one
thread; with one thread per core whose waiting threads spin (OpenMP's default); and with waiting
threads that sleep (`OMP_WAIT_POLICY=PASSIVE`, which `eef` sets). The last line of the output is
JSON: median seconds per update, alone and beside one busy process per core.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from statistics import median

UPDATES, REPEATS = 4, 3
CORES = len(os.sched_getaffinity(0))
SETUPS = {"one": (1, "ACTIVE"), "spinning": (CORES, "ACTIVE"), "sleeping": (CORES, "PASSIVE")}

_TRAIN = f"""
import random, time
from eef.models.loading import load_model
from eef.renderer import Rendered
from eef.training.settings import TrainSettings
from eef.training.sft import train_examples
model, tokenizer = load_model("base", dtype="float32", device="cpu")
rng = random.Random(0)
rows = [tuple(rng.randrange(len(tokenizer)) for _ in range(600)) for _ in range(16)]
examples = [Rendered(row, (1.0,) * 600) for row in rows]
settings = TrainSettings(updates={UPDATES}, batch_size=16, max_tokens_per_microbatch=2048)
start = time.monotonic()
train_examples(model, examples, settings)
print((time.monotonic() - start) / {UPDATES})
"""


def main() -> None:
    result: dict[str, dict[str, float]] = {}
    for place in ("alone", "beside_others"):
        busy = CORES if place == "beside_others" else 0
        others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
        try:
            result[place] = measure()
        finally:
            for other in others:
                other.kill()
        for name, seconds in result[place].items():
            print(f"{place:14} {name:9} {seconds:6.2f} s per update")
    print(json.dumps({"cores": CORES, "seconds_per_update": result}))


def measure() -> dict[str, float]:
    """Median seconds per update, by setup; the setups take turns."""
    times: dict[str, list[float]] = {name: [] for name in SETUPS}
    for _ in range(REPEATS):
        for name, (threads, policy) in SETUPS.items():
            settings = {
                "OMP_NUM_THREADS": str(threads),
                "MKL_NUM_THREADS": str(threads),
                "OMP_WAIT_POLICY": policy,
            }
            environment = {**os.environ, **settings}
            done = subprocess.run(
                [sys.executable, "-c", _TRAIN],
                env=environment,
                capture_output=True,
                text=True,
                check=True,
            )
            times[name].append(float(done.stdout))
            time.sleep(0.2)
    return {name: round(median(seconds), 2) for name, seconds in times.items()}


if __name__ == "__main__":
    main()
