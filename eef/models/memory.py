"""Out-of-memory errors of a device or of this machine."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from eef.errors import ModelError

_TYPES = ("OutOfMemoryError",)  # of torch, which is not imported here
_WORDS = ("out of memory", "can't allocate memory", "alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception is an out-of-memory error.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"))
    True
    >>> is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    False
    """
    if isinstance(error, MemoryError) or type(error).__name__ in _TYPES:
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(word in text for word in _WORDS)


@contextmanager
def memory_errors(what: str, hint: str) -> Iterator[None]:
    """Turn out-of-memory errors into a ModelError."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(f"out of memory: {what}", hint=hint) from error
