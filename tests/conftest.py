"""Settings of the whole suite: one thread a process, and no clock in property tests."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from hypothesis import settings

settings.register_profile("eef", deadline=None, max_examples=60)
settings.load_profile("eef")
