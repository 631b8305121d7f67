"""`eef status`: what a run or a comparison is doing, read from its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from eef.cli.console import duration, plain_table, print_out, stdout_console
from eef.pipeline.run_directory import RunDirectory, is_run, runs_of
from eef.pipeline.stages import BC, EXPERT
from eef.pipeline.status import StageStatus, read_statuses
from eef.report.formatting import NONE, count_of

RECORD_VERSION = 1
_AT_WORK = ("running", "interrupted", "failed")


def status(
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="A run directory, or that of `eef compare`.",
            show_default=False,
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print what a run is doing.

    Prints the stages in progress, with their progress, speed, remaining time and process, and the
    last error. The command only reads files and takes no lock: it works during the run, on any
    machine that sees the run directory. A process on another machine that has been silent for a
    minute counts as ended.

    Example: `eef status runs/demo`
    """
    runs = [RunDirectory.open(path) for path in _run_directories(directory)]
    states = {run.path: read_statuses(run) for run in runs}
    if as_json:
        records = [_record(path, stages) for path, stages in states.items()]
        print_out(json.dumps(records[0] if is_run(directory) else {"runs": records}, indent=2))
        return
    for path, stages in states.items():
        _print(path, stages)


def _run_directories(directory: Path) -> list[Path]:
    """The directory itself, or the runs that a comparison has started in it."""
    if is_run(directory):
        return [directory]
    return list(runs_of(directory).values()) or [directory]


def _state(stages: list[StageStatus]) -> str:
    """The state of a run: that of its most notable stage."""
    states = {each.state for each in stages}
    if states == {"done"}:
        return "finished"
    return next((state for state in _AT_WORK if state in states), "not running")


def _print(path: Path, stages: list[StageStatus]) -> None:
    done = sum(each.state == "done" for each in stages)
    print_out(f"{path}: {_state(stages)}, {done} of {count_of(len(stages), 'stage')} done")
    shown = [each for each in stages if each.state in _AT_WORK or _is_next(each, stages)]
    if not shown:
        return
    table = plain_table("stage", "state", "progress", "rate", "left", "process")
    for each in shown:
        table.add_row(str(each.stage), each.state, Text(each.progress), *_pace(each))
    stdout_console().print(table)
    for each in shown:
        if each.record is not None and each.record.error:
            print_out(f"error in `{each.stage}`: {each.record.error}")
            if each.record.hint:
                print_out(f"hint: {each.record.hint}")


def _is_next(each: StageStatus, stages: list[StageStatus]) -> bool:
    """Whether a stage is the one to execute: stages of methods wait for behavior cloning."""
    if each.state != "next":
        return False
    shared = [other for other in stages if other.stage.method in (EXPERT, BC)]
    return each in shared or all(other.state == "done" for other in shared)


def _pace(each: StageStatus) -> tuple[str, str, str]:
    """Rate, time left, and who executes a stage."""
    record = each.record
    if record is None:
        return NONE, NONE, ""
    running = each.state == "running"
    rate = f"{record.rate:,.1f} per min" if running and record.rate else NONE
    left = duration(each.seconds_left) if each.seconds_left is not None else NONE
    process = f"{record.process} on {record.host}"
    if each.silent is not None:
        process += f", silent for {duration(each.silent)}"
    return rate, left, process


def _record(path: Path, stages: list[StageStatus]) -> dict[str, Any]:
    failed = [each.record for each in stages if each.record and each.record.error]
    last = max(failed, key=lambda record: record.written, default=None)
    return {
        "version": RECORD_VERSION,
        "run": str(path),
        "state": _state(stages),
        "stages_done": sum(each.state == "done" for each in stages),
        "stages": len(stages),
        "active": [_stage_record(each) for each in stages if each.state in _AT_WORK],
        "error": {"message": last.error, "hint": last.hint} if last else None,
    }


def _stage_record(each: StageStatus) -> dict[str, Any]:
    record = each.record
    assert record is not None, "a stage that was started has a record"
    return {
        "method": each.stage.method,
        "round": each.stage.round,
        "kind": each.stage.kind,
        "state": each.state,
        "done": record.done,
        "total": record.total or None,
        "note": record.note,
        "rate_per_minute": record.rate,
        "seconds_left": each.seconds_left,
        "process": record.process,
        "host": record.host,
        "silent_seconds": each.silent,
        "error": record.error,
        "hint": record.hint,
    }
