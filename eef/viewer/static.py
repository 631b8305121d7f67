"""Static pages: the same pages as files that open without a server."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from urllib.parse import unquote

from eef.config import unknown_name
from eef.errors import ConfigError, StoreError
from eef.pipeline.run_directory import is_run
from eef.utils.jsonl import disk_errors
from eef.utils.progress import OnProgress, Progress, ignore_progress
from eef.viewer.address import Address, Link, file_name, file_of, report_name
from eef.viewer.assets import ASSETS, read_asset
from eef.viewer.library import Library
from eef.viewer.open_run import OpenRun, show_links
from eef.viewer.site import Site
from eef.viewer.static_index import index_files
from eef.viewer.tasks import FILTERS, list_tasks


def choose_tasks(run: OpenRun, tasks: Collection[str], filter: str | None) -> frozenset[str] | None:
    """The tasks of some ids, or those that a filter selects; None stands for all.

    ConfigError for an unknown filter, StoreError for an unknown task or if none is left.
    """
    if not tasks and filter is None:
        return None
    names = [each.name for each in FILTERS if each.name]
    if filter is not None and filter not in names:
        raise unknown_name("filter", filter, names)
    with run.index.connect() as reader:
        known = {row.task for row in list_tasks(reader, filter=filter or "", size=1 << 30).tasks}
    unknown = sorted(set(tasks) - known)
    if unknown and filter is None:
        raise StoreError(
            f"`{run.run.path}` has no task {unknown[0]!r}",
            hint=f"`eef view {run.run.path}` lists its tasks",
        )
    found = frozenset(tasks) & known if tasks else frozenset(known)
    if not found:
        raise StoreError(
            f"no task of `{run.run.path}` is chosen by `--filter {filter}`",
            hint="choose another filter",
        )
    return found


def write_site(
    library: Library, directory: Path, on_progress: OnProgress = ignore_progress
) -> Path:
    """Write every page that can be reached from the list of runs; returns the first page.

    ConfigError if the directory is a run, StoreError if it cannot be written.
    """
    if is_run(directory):
        raise ConfigError(
            f"`{directory}` is a run directory",
            hint="write the pages into a directory of their own",
        )
    tasks = {run.slug: _tasks_of(run) for run in library.runs}
    waiting: deque[Address] = deque()
    seen: set[Address] = set()

    def link(address: Address) -> str:
        page, query = file_of(address, tasks.get(address.run, {}).__getitem__)
        if page not in seen:
            seen.add(page)
            waiting.append(page)
        return file_name(page) + query

    site = Site(library, link, static=True)
    assets = directory / "assets"
    with disk_errors(directory):
        assets.mkdir(parents=True, exist_ok=True)
        for name in ASSETS:
            (assets / name).write_text(read_asset(name), encoding="utf-8")
    first = directory / link(Address.of("home"))
    for run in library.runs:
        with run.index.connect(run.only) as reader, disk_errors(directory):
            _write_report(run, directory / report_name(run.slug), link, tasks[run.slug])
            for name, text in index_files(run.slug, reader, partial(site.draw_row, run), link):
                (assets / name).write_text(text, encoding="utf-8")
    done = 0
    while waiting:
        address = waiting.popleft()
        with disk_errors(directory):
            text = site.draw(address)
            path = directory / file_name(address)
            path.write_text(text, encoding="utf-8", errors="replace")
        done += 1
        on_progress(Progress("pages", done, len(seen)))
    return first


_IN_VIEWER = re.compile(r'<a href="(task|trajectory)/([^"]*)" class="in-viewer">open</a>')


def _write_report(run: OpenRun, path: Path, link: Link, tasks: Mapping[str, str]) -> None:
    """The run's report with links to the pages of what is written; `tasks` by trajectory."""
    if run.report is None:
        return
    known = {"task": set(tasks.values()), "trajectory": set(tasks)}

    def rewrite(match: re.Match[str]) -> str:
        view, name = match[1], unquote(match[2])
        if name not in known[view]:
            return ""
        target = link(Address.of("task" if view == "task" else "trajectory", run.slug, name))
        return f'<a href="{target}" class="in-viewer">open</a>'

    text = show_links(run.report.read_text(encoding="utf-8", errors="replace"))
    path.write_text(_IN_VIEWER.sub(rewrite, text), encoding="utf-8", errors="replace")


def _tasks_of(run: OpenRun) -> dict[str, str]:
    """The task of each trajectory that is shown."""
    with run.index.connect(run.only) as reader:
        return dict(reader.query("SELECT name, task FROM trajectories"))
