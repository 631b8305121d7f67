"""What torch's threads cost a training when they are alone, and when other work wants the same cores.

`python -m benchmarks.threads` trains the base student on random ids in processes of its own: with one thread, with a
thread a core whose waiting threads spin (OpenMP's own way), and with such that sleep (`OMP_WAIT_POLICY=PASSIVE`, what
`eef` sets). The last line is JSON: seconds an update, medians, alone and beside one busy process a core.
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
WAYS = {"one": (1, "ACTIVE"), "spinning": (CORES, "ACTIVE"), "sleeping": (CORES, "PASSIVE")}

_TRAIN = f"""
import random, time
from eef.config import TrainSettings
from eef.models.loading import load_model
from eef.tokens import Rendered
from eef.train import train
model, tokenizer = load_model("base", dtype="float32", device="cpu")
rng = random.Random(0)
lessons = [Rendered(tuple(rng.randrange(len(tokenizer)) for _ in range(600)), (1.0,) * 600) for _ in range(16)]
settings = TrainSettings(updates={UPDATES}, batch_size=16, micro_tokens=2048)
begun = time.monotonic()
train(model, lessons, settings)
print((time.monotonic() - begun) / {UPDATES})
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
        for way, seconds in result[place].items():
            print(f"{place:14} {way:9} {seconds:6.2f} s an update")
    print(json.dumps({"cores": CORES, "seconds_an_update": result}))


def measure() -> dict[str, float]:
    """Median seconds of an update, the ways taking turns."""
    times: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(REPEATS):
        for way, (threads, policy) in WAYS.items():
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
            times[way].append(float(done.stdout))
            time.sleep(0.2)
    return {way: round(median(seconds), 2) for way, seconds in times.items()}


if __name__ == "__main__":
    main()
