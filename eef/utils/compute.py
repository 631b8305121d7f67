"""CPU cores and threads of this process and its children."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def available_cores() -> int:
    """Cores this process may use: `OMP_NUM_THREADS` where it is set, else those it may run on, within the quota of
    its container."""
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min(cores, _quota(_CGROUP_QUOTA, cores)))


def _quota(path: Path, cores: int) -> int:
    """Cores' worth of time that a container's processes may use (`<microseconds or max> <period>`)."""
    try:
        share, period = path.read_text().split()
        return cores if share == "max" else int(share) // int(period)
    except (OSError, ValueError):
        return cores


@contextmanager
def process_settings(threads: int) -> Iterator[None]:
    """Environment of a process that loads torch, or of those which it starts, set before: torch's threads, which sleep
    while they wait, and no warnings of other libraries between our lines. Of the latter two, what the user has set
    stays.
    """
    settings = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    settings |= {name: os.environ.get(name, value) for name, value in _CALM.items()}
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


_CALM = {
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    # a thread that spins holds the core which the one it waits for needs: `benchmarks/threads.py`
    "OMP_WAIT_POLICY": "PASSIVE",
}
