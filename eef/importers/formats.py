"""Formats: detects a row's format by its keys and parses it into a `ParsedEpisode`.

Formats of other packages are entry points of `eef.importers`, each a `Format`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

from eef.errors import StoreError
from eef.importers.calls import as_actions
from eef.importers.conversations import parse_messages, split_episode
from eef.importers.episode import (
    ParsedEpisode,
    ParseError,
    check_steps,
    parse_reward,
    read_flag,
    row_fields,
)
from eef.importers.react import read_react
from eef.plugins import Plugins, is_reference
from eef.tools import Toolset
from eef.trajectory import Trajectory

_log = logging.getLogger(__name__)

Record = dict[str, Any]


class Format(NamedTuple):
    """A format: whether a row has it, the parser of its rows, and a description."""

    fits: Callable[[Record], bool]
    parse: Callable[[Record], ParsedEpisode]
    about: str


def detect(row: Record) -> str | None:
    """The name of a row's format, or None if it is unknown. Formats of plugins come first."""
    formats = {**_plugin_formats(), **FORMATS}
    return next((name for name, format in formats.items() if format.fits(row)), None)


def find_format(name: str) -> Format:
    """The format of a name or reference. ConfigError if it is unknown or cannot be loaded."""
    return PLUGINS.load(name)


def read_row(
    row: Record,
    wanted: str = "auto",
    *,
    tools: Toolset | None = None,
    action_map: Callable[[str], str] = lambda action: action,
) -> ParsedEpisode:
    """The episode of a row; `wanted` is the only format to accept, or "auto".

    `tools` are those of the environment; without, calls become actions in ReAct (see
    `calls.as_actions`). `action_map` rewrites actions.

    ParseError if the format is unknown or not `wanted`, or if the row is malformed.
    """
    if is_reference(wanted):
        name = wanted if find_format(wanted).fits(row) else detect(row)
    else:
        name = detect(row)
    if name is None:
        keys = ", ".join(sorted(row)[:8]) or "none"
        raise ParseError(f"unknown format; the keys of the row: {keys}")
    if wanted not in ("auto", name):
        raise ParseError(f"format is `{name}`; expected `{wanted}`")
    try:
        episode = find_format(name).parse(row)
        if episode.format == "eef":  # its actions are those of the environment already
            return episode
        return replace(episode, steps=as_actions(episode.steps, tools, action_map))
    except RecursionError as error:
        raise ParseError("JSON is nested too deep") from error
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, OverflowError) as error:
        raise ParseError(f"malformed `{name}` row: {type(error).__name__} {error}") from error


def _read_own(row: Record) -> ParsedEpisode:
    """A trajectory record of `eef`. One that starts inside another is not a whole episode."""
    try:
        trajectory = Trajectory.from_record(row)
    except StoreError as error:
        raise ParseError(error.message) from error
    if trajectory.start is not None:
        raise ParseError(
            f"not a whole episode: it starts inside another trajectory ({trajectory.start})"
        )
    check_steps(trajectory.steps)
    if trajectory.status == "error":
        raise ParseError(f"a failed rollout: {trajectory.error}")
    return ParsedEpisode(
        format="eef",
        steps=trajectory.steps,
        final_observation=trajectory.final_observation,
        key=trajectory.id,
        task=trajectory.task,
        reward=parse_reward(trajectory.reward),
        success=trajectory.success,
        terminated=trajectory.status == "terminated",
        author=trajectory.author.name,
        episode_seed=trajectory.episode_seed,
        source=trajectory.source or "",
        unverified_task="" if trajectory.replayable else trajectory.task,
    )


def _read_sharegpt(row: Record) -> ParsedEpisode:
    """ETO's data set, and the files that its evaluation writes.

    Those have the reward and the number of turns under `meta`, and begin with a worked example.
    """
    meta = row.get("meta")
    turns = meta.get("steps") if isinstance(meta, dict) else None
    return _conversation(
        "sharegpt",
        _with_meta(row),
        row["conversations"],
        key=row.get("id", ""),
        turns=turns if isinstance(turns, int) else None,
    )


def _with_meta(row: Record) -> Record:
    """The row with the values under `meta` that it lacks."""
    meta = row.get("meta")
    own = {name: value for name, value in row.items() if value is not None}
    return {**meta, **own} if isinstance(meta, dict) else row


def _read_agentgym(row: Record) -> ParsedEpisode:
    key = str(row.get("item_id", row.get("id", "")))
    number = key.rpartition("_")[2]
    return _conversation(
        "agentgym",
        _with_meta(row),
        row["conversations"],
        key=key,
        task=int(number) if number.isdecimal() else None,
    )


def _read_messages(row: Record) -> ParsedEpisode:
    fields = _with_meta(row)
    return _conversation("messages", fields, row["messages"], key=fields.get("id", ""))


def _read_completions(row: Record) -> ParsedEpisode:
    """verifiers before it had traces: the prompt's messages, then those of the completion."""
    prompt = (
        row["prompt"]
        if isinstance(row["prompt"], list)
        else [{"role": "user", "content": row["prompt"]}]
    )
    key = (
        ""
        if row.get("example_id") is None
        else f"{row['example_id']}#{row.get('rollout', row.get('id', 0))}"
    )
    return _conversation("verifiers", row, [*prompt, *row["completion"]], key=key)


def _read_traces(row: Record) -> ParsedEpisode:
    """verifiers: an episode of one trace; its messages are the path to its last node."""
    traces = row.get("traces", [row])
    if len(traces) != 1:
        raise ParseError(f"an episode of {len(traces)} agents; expected one")
    trace = traces[0]
    if trace.get("errors"):
        raise ParseError("a trace that ended in an error")
    rewards = [item for item in (trace.get("rewards") or {}).values() if item is not None]
    reward = sum(item["score"] * item.get("weight", 1.0) for item in rewards) if rewards else None
    task = trace["task"].get("data") or {}
    return _conversation(
        "verifiers",
        {"reward": reward, "instruction": task.get("instruction")},
        _path(trace["nodes"]),
        key=trace.get("id", ""),
        task=task.get("idx", task.get("id")),
    )


def _path(nodes: list[Record]) -> list[Record]:
    """The messages from the root to the last node; other branches are other contexts."""
    path: list[Record] = []
    at: int | None = len(nodes) - 1
    while at is not None and len(path) <= len(nodes):
        path.append(nodes[at]["message"])
        at = nodes[at].get("parent")
    return path[::-1]


def _read_inspect(row: Record) -> ParsedEpisode:
    """A sample of an inspect log; its reward is the mean of its scores."""
    if row.get("error"):
        raise ParseError("a sample that ended in an error")
    values = [_score(score.get("value")) for score in (row.get("scores") or {}).values()]
    graded = [value for value in values if value is not None]
    reward = sum(graded) / len(graded) if graded else None
    return _conversation(
        "inspect",
        {"reward": reward},
        row["messages"],
        key=f"{row.get('id')}#{row.get('epoch', 1)}",
        task=row.get("id"),
    )


def _score(value: Any) -> float | None:
    """A score as a number; inspect writes C, P, I, N for correct, partial, incorrect, no answer."""
    grades = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
    if isinstance(value, str):
        return grades.get(value)
    return float(value) if isinstance(value, int | float) else None


def _conversation(
    name: str,
    row: Record,
    messages: list[Any],
    *,
    key: object = "",
    task: str | int | None = None,
    turns: int | None = None,
) -> ParsedEpisode:
    prompt, steps, final = split_episode(parse_messages(messages), turns)
    fields = row_fields(row)
    return ParsedEpisode(
        format=name,
        steps=steps,
        final_observation=final,
        key="" if key is None else str(key),
        prompt=prompt,
        terminated=not read_flag(row, "truncated"),
        **{**fields, "task": fields["task"] if task is None else task},
    )


FORMATS: dict[str, Format] = {
    "eef": Format(
        lambda row: {"author", "steps", "final_observation"} <= row.keys(),
        _read_own,
        "trajectories of `eef` (`trajectories.jsonl`)",
    ),
    "react": Format(
        lambda row: {"initial_observation", "steps"} <= row.keys(),
        read_react,
        "ReAct logs: `initial_observation`, `steps[action, observation]`; an `action_input`, and "
        "thoughts as `think[…]` or `thought`",
    ),
    "agentgym": Format(
        lambda row: (
            "conversations" in row and ("item_id" in row or _any_has(row["conversations"], "loss"))
        ),
        _read_agentgym,
        "AgentGym: `conversations[from, value, loss]`, `item_id`",
    ),
    "sharegpt": Format(
        lambda row: "conversations" in row,
        _read_sharegpt,
        "ETO and FastChat: `conversations[from, value]`, `id`, `reward` (or `meta.reward`)",
    ),
    "inspect": Format(
        lambda row: "messages" in row and "scores" in row and "epoch" in row,
        _read_inspect,
        "inspect logs: `.eval`, or their JSON form",
    ),
    "messages": Format(
        lambda row: "messages" in row,
        _read_messages,
        "OpenAI's or LangChain's messages: `messages[role, content, tool_calls]`, masks as "
        "`train`, `weight`, `loss` or `loss_weight`",
    ),
    "verifiers": Format(
        lambda row: (
            "traces" in row
            or {"nodes", "task"} <= row.keys()
            or {"prompt", "completion"} <= row.keys()
        ),
        lambda row: _read_completions(row) if "completion" in row else _read_traces(row),
        "verifiers: `traces.jsonl`, or older rows of `prompt`, `completion`, `reward`",
    ),
}
"""Formats by name; the first one that fits a row is used."""


def _any_has(messages: Any, key: str) -> bool:
    return isinstance(messages, list) and any(
        isinstance(item, dict) and key in item for item in messages
    )


def _format_of(target: Any) -> Format:
    """The format itself. ValueError if it is not one."""
    if not isinstance(target, Format):
        raise ValueError("is not an `eef.importers.formats.Format`")
    return target


PLUGINS = Plugins("format", "eef.importers", FORMATS, FORMATS.__getitem__, _format_of)


@cache
def _plugin_formats() -> dict[str, Format]:
    """The formats of installed plugins. One that cannot be loaded is reported and skipped."""
    formats = {}
    for plugin, problem in PLUGINS.problems():
        if problem is None:
            formats[plugin.name] = PLUGINS.load(plugin.name)
        else:
            _log.warning("%s", problem.message)
    return formats
