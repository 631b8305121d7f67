"""Address: which view shows what. A server and a folder of files write it differently.

view        name                        query
run         –
tasks       –                           filter, sort, q, page
task        task                        method, round
trajectory  trajectory                  q
example     example                     method, round
compare     –                           a, b (trajectories)
behaviors   –
study       –
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import quote, urlencode

View = Literal[
    "home",
    "run",
    "tasks",
    "task",
    "trajectory",
    "example",
    "tokens",
    "compare",
    "behaviors",
    "study",
]
VIEWS: tuple[View, ...] = get_args(View)
NAMED = ("task", "trajectory", "example", "tokens")
"""Views of one named thing."""


@dataclass(frozen=True, slots=True)
class Address:
    """A page: a view of a run (or of all runs, if `run` is empty), with its name and query."""

    view: View
    run: str = ""
    name: str = ""
    query: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, view: View, run: str = "", name: str = "", **query: object) -> Address:
        """An address; values of None or "" are no part of its query."""
        kept = tuple((key, str(value)) for key, value in query.items() if value not in (None, ""))
        return cls(view, run, name, kept)

    def get(self, key: str) -> str:
        return dict(self.query).get(key, "")


Link = Callable[[Address], str]
"""Writes an address as the target of a link."""


def served(root: str) -> Link:
    """Links of a server whose pages are below `root`.

    >>> served("/key")(Address.of("task", "demo", "webshop/1", method="eef"))
    '/key/demo/task/webshop/1?method=eef'
    """

    def link(address: Address) -> str:
        if address.view == "home":
            return f"{root}/"
        view = "" if address.view == "run" else address.view
        name = "/" + quote(address.name, safe="/") if address.view in NAMED else ""
        return f"{root}/{quote(address.run)}/{view}{name}{_query(address)}"

    return link


def file_of(address: Address, task_of: Callable[[str], str]) -> tuple[Address, str]:
    """The page that an address is in as a file, and the query that its script reads.

    The tables of all tasks are one page, and so are the comparisons of a task; `task_of` is the
    task of a trajectory.

    >>> file_of(Address.of("tasks", "demo", filter="never"), str)
    (Address(view='tasks', run='demo', name='', query=()), '?filter=never')
    """
    if address.view == "tasks":
        return Address.of("tasks", address.run), _query(address)
    if address.view == "compare" and address.query:
        return Address.of("compare", address.run, task_of(address.get("a"))), _query(address)
    return address, ""


def _query(address: Address) -> str:
    return "?" + urlencode(address.query) if address.query else ""


def report_name(run: str) -> str:
    """The name of a run's report as a file beside its pages."""
    return f"{run}.report.html"


def file_name(address: Address) -> str:
    """The name of a page as a file. Different addresses have different names.

    >>> file_name(Address.of("run", "demo"))
    'demo.html'
    >>> file_name(Address.of("task", "demo", "webshop/1"))
    'demo.task.webshop-1.3b79f449.html'
    """
    if address.view == "home":
        return "index.html"
    if address.view == "run":
        return f"{address.run}.html"
    parts = [address.run, address.view]
    if address.name or address.query:
        words = [address.name, *(value for _, value in address.query)]
        parts.append(re.sub(r"[^A-Za-z0-9]+", "-", "-".join(words)).strip("-")[:60])
        text = repr((address.name, address.query)).encode(errors="replace")
        parts.append(hashlib.sha256(text).hexdigest()[:8])
    return ".".join(part for part in parts if part) + ".html"
