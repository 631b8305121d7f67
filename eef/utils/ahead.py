"""Items that a thread produces ahead of their use."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from queue import Empty, Queue
from typing import TypeVar

Item = TypeVar("Item")


def ahead(items: Iterable[Item], size: int = 4) -> Iterator[Item]:
    """The items, produced by a thread up to `size` ahead. An error of theirs is raised here."""
    ready: Queue[tuple[Item | None, BaseException | None, bool]] = Queue(size)
    stopped = threading.Event()

    def produce() -> None:
        try:
            for item in items:
                ready.put((item, None, False))
                if stopped.is_set():
                    return
            ready.put((None, None, True))
        except BaseException as error:
            ready.put((None, error, True))

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    try:
        while True:
            item, error, last = ready.get()
            if error is not None:
                raise error
            if last:
                return
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        with suppress(Empty):
            while True:
                ready.get_nowait()
        thread.join(timeout=5)
