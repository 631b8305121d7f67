"""CPU cores and threads of this process and its children."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

_NONE: Mapping[str, str] = MappingProxyType({})
_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def available_cores() -> int:
    """The cores that this process may use.

    `OMP_NUM_THREADS` if it is set, or else those it may run on, within its container's quota.
    """
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return int(wanted)
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return max(1, min(cores, _quota(_CGROUP_QUOTA, cores)))


def _quota(path: Path, cores: int) -> int:
    """The cores in a cgroup's CPU quota (`<microseconds or max> <period>`); `cores` without one."""
    try:
        share, period = path.read_text().split()
        return cores if share == "max" else int(share) // int(period)
    except (OSError, ValueError):
        return cores


@contextmanager
def process_settings(threads: int, others: Mapping[str, str] = _NONE) -> Iterator[None]:
    """Threads of torch in this process and its children, set by environment variables; restored on
    exit. `others` are further variables to set.

    If torch is loaded already, which reads these variables only once, its number of threads is set
    as well. The variables also let waiting threads sleep, and silence other libraries' warnings.
    Except for the number of threads, values set by the user are kept.
    """
    settings = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    settings |= {name: os.environ.get(name, value) for name, value in _DEFAULTS.items()}
    settings |= others
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    torch = sys.modules.get("torch")
    loaded = torch.get_num_threads() if torch is not None else None
    if torch is not None and loaded != threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if torch is not None and torch.get_num_threads() != loaded:
            torch.set_num_threads(loaded)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


_DEFAULTS = {
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    # a spinning thread occupies the core of the thread it waits for: `benchmarks/threads.py`
    "OMP_WAIT_POLICY": "PASSIVE",
}
