"""The files of a run that are indexed, and their lines as rows of the index."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from eef.errors import EefError
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import BC, EXPERT
from eef.rollouts.store import STORE_FILE
from eef.selection import Acts, PreferencePair, TrainingExample
from eef.trajectory import AuthorRole, Status, Trajectory
from eef.utils.records import Json
from eef.utils.text import replace_surrogates
from eef.viewer.index.rows import Kind, Phase, Trained

BATCH = 1000
"""Records between two reports of progress."""


@dataclass(frozen=True, slots=True)
class Source:
    """A growing file of a run, and what its lines are."""

    path: Path
    kind: Kind
    method: str
    round: int | None
    phase: Phase


def run_sources(run: RunDirectory) -> list[Source]:
    """The files of the run that hold rollouts, examples and pairs; not all of them exist."""
    found = [Source(run.store(EXPERT) / STORE_FILE, "rollouts", EXPERT, None, "collect")]
    found += [
        Source(run.store(name) / STORE_FILE, "rollouts", name, None, "explore")
        for name in run.methods
        if name != BC
    ]
    for stage in run.stages:
        if stage.kind == "evaluate":
            path = run.evaluation_store(stage) / STORE_FILE
            found.append(Source(path, "rollouts", stage.method, stage.round, "evaluate"))
    for stage in run.stages:
        if stage.kind == "select":
            files = run.selection_files(stage)
            found += [
                Source(files[kind], kind, stage.method, stage.round, "explore")
                for kind in get_args(Trained)
            ]
    return found


RECORDS: Mapping[str, type[TrainingExample | PreferencePair | Acts]] = {
    "examples": TrainingExample,
    "pairs": PreferencePair,
    "acts": Acts,
}


@dataclass(frozen=True, slots=True)
class ParsedRollout:
    """A parsed line: its columns without its number, and its texts, the instruction first."""

    line: int
    task: str
    columns: tuple[Any, ...]
    texts: tuple[str, ...]


@dataclass(slots=True)
class Batch:
    """Parsed lines, and the position and number of lines after them."""

    position: int
    lines: int
    rollouts: list[ParsedRollout] = field(default_factory=list)
    examples: list[tuple[Any, ...]] = field(default_factory=list)
    problems: list[tuple[int, str]] = field(default_factory=list)


def parse_lines(
    source: Source,
    name: str,
    start: int,
    end: int,
    lines: int,
    find_instruction: Callable[[str], str],
) -> Iterator[Batch]:
    """The complete lines of a file between two positions, in batches."""
    batch = Batch(start, lines)
    with source.path.open("rb") as file:
        file.seek(start)
        while batch.position < end:
            data = file.readline()
            if not data.endswith(b"\n"):
                break  # being written, or torn: read when it is complete
            batch.lines += 1
            if data.strip():
                try:
                    if source.kind == "rollouts":
                        batch.rollouts.append(
                            _parse_rollout(source, name, data, batch, find_instruction)
                        )
                    else:
                        batch.examples.append(_parse_example(source, name, data, batch.position))
                except (EefError, ValueError, TypeError, KeyError, AttributeError) as error:
                    message = error.message if isinstance(error, EefError) else _describe(error)
                    batch.problems.append((batch.lines, message))
            batch.position += len(data)
            if batch.lines % BATCH == 0:
                yield batch
                batch = Batch(batch.position, batch.lines)
    yield batch


def _parse_rollout(
    source: Source, name: str, data: bytes, batch: Batch, find_instruction: Callable[[str], str]
) -> ParsedRollout:
    record = Trajectory.migrate(parse_object(data))
    steps, start, author = record["steps"], record["start"] or {}, record["author"]
    task = replace_surrogates(record["task"])
    reward = record["reward"]
    if record["status"] not in get_args(Status) or author["role"] not in get_args(AuthorRole):
        raise ValueError("unknown status or role")
    columns = (
        replace_surrogates(record["id"]),
        task,
        source.method,
        int(record["round"]) if source.round is None else source.round,
        source.phase,
        author["role"],
        replace_surrogates(author["name"]),
        record["status"],
        bool(record["success"]),
        None if reward is None else float(reward),
        len(steps),
        start.get("trajectory"),
        int(start.get("t", 0)),
        record["error_kind"],
        bool(record["replayable"]),
        int(record["round"]),
        name,
        batch.position,
        len(data),
    )
    instruction = ""
    if steps and not start:
        instruction = find_instruction(steps[0]["observation"])[:2000]
    observations = dict.fromkeys(step["observation"] for step in steps)
    observations[record["final_observation"]] = None
    thoughts = dict.fromkeys(
        step["completion"].replace(step["action"] or "\n", " ") for step in steps
    )
    actions = [step["action"] for step in steps]
    texts = (instruction, *map("\n".join, (observations, thoughts, actions)))
    return ParsedRollout(batch.lines, task, columns, tuple(map(replace_surrogates, texts)))


def _parse_example(source: Source, name: str, data: bytes, position: int) -> tuple[Any, ...]:
    record = side = RECORDS[source.kind].migrate(parse_object(data))
    if source.kind == "pairs":
        side = record["chosen"]
    if source.kind == "acts":
        advantages = record["advantages"]
        state = next((t for t, value in enumerate(advantages) if value), len(advantages))
    else:
        state = int(side["state"])
    texts = (record["id"], record["task"], side["trajectory"])
    group = replace_surrogates(record.get("group", ""))
    place = (source.method, source.round, state, group, name, position, len(data))
    return (source.kind, *map(replace_surrogates, texts), *place)


def parse_object(data: bytes) -> Json:
    try:
        value = json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"a JSON {type(value).__name__}; expected an object")
    return value


def _describe(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"`{error.args[0]}` is missing"
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return f"not JSON ({error})"
    return f"malformed record ({error})"
