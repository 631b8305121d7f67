"""Rollouts for the viewers of other tools: Inspect's logs and Trackio's traces.

Every rollout of a round becomes a conversation. Each message of the agent has its author, the label
of its segment, and the loss weight and reason with which the round trains it.
"""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from statistics import fmean
from typing import Any

from eef import __version__
from eef.chat import build_conversation
from eef.config import unknown_name
from eef.errors import MethodError
from eef.exporters.directory import write_export
from eef.methods.labels import Label, OutcomeGrid
from eef.note import NoteSet, Shown
from eef.rollouts.specs import is_first_attempt
from eef.selection import TrainingExample
from eef.trajectory import Trajectory, TrajectorySet
from eef.utils.jsonl import disk_errors, write_jsonl, write_text
from eef.utils.records import Json

LOG_READMES = {
    "inspect": """\
# Rollouts as Inspect logs

{what}, written by `eef export`. `inspect view --log-dir .` opens the logs, and
`inspect_ai.log.read_eval_log` reads them. A sample is a rollout: its id is the task, its epoch
numbers the task's rollouts. The scores are `win` and `reward`. The metadata of a sample has its id
in `eef`, its author and the state it starts from. The metadata of each message of the agent has the
author, the label of its segment, the advice that roles wrote before the turn, and the loss weight
and reason of each example made from it. Notes of roles are in the metadata of the sample. Prompts
of the environment are omitted.
""",
    "trackio": """\
# Rollouts as Trackio traces

{what}, written by `eef export`. `traces.jsonl` holds `messages` and `metadata` of one rollout per
line. `python log.py` logs them as traces of a run of Trackio, and `trackio show` opens them. The
metadata has the id in `eef`, the outcome, the notes of roles, and for each message of the agent its
author, the label of its segment, the advice of roles, and the loss weight and reason of each
example made from it. Prompts of the environment are omitted.
""",
}

_SUMMARIZED = ("id", "epoch", "input", "target", "metadata", "scores")

_LOG = '''\
"""Log the rollouts of `traces.jsonl` as traces of Trackio."""

import json
from pathlib import Path

import trackio

trackio.init(project={project!r}, name={name!r})
with Path(__file__).with_name("traces.jsonl").open(encoding="utf-8") as lines:
    for line in lines:
        trace = json.loads(line)
        reward = trace["metadata"]["reward"]
        values = {{}} if reward is None else {{"reward": reward}}
        trackio.log({{"rollout": trackio.Trace(**trace), **values}})
trackio.finish()
'''


@dataclass(frozen=True, slots=True)
class Played:
    """The rollouts of one stage: `explore`, `collect` or `evaluate` of a method and round.

    `trajectories` has the rollouts and those they start from; `names` are the rollouts to write.
    `grids` are the outcome grids of a task by trajectory; `examples` are the round's. `advice` is
    that which later turns of a conversation show.
    """

    run: str
    env: str
    method: str
    round: int
    kind: str
    trajectories: TrajectorySet
    names: Sequence[str]
    grids: Callable[[str], Mapping[str, OutcomeGrid]]
    examples: Sequence[TrainingExample] = ()
    advice: Shown = "none"

    @property
    def title(self) -> str:
        return f"{self.method}-round{self.round}-{self.kind}"


@dataclass(frozen=True, slots=True)
class Rollout:
    """A rollout as messages. `epoch` numbers the task's rollouts from 1.

    `turns[i]` is the metadata of the i-th message of the agent.
    """

    trajectory: Trajectory
    epoch: int
    messages: list[dict[str, str]]
    turns: list[Json]
    notes: list[Json] = field(default_factory=list)

    @property
    def metadata(self) -> Json:
        """Where the rollout comes from and how it ended."""
        item = self.trajectory
        return {
            "trajectory": item.id,
            "task": item.task,
            "author": str(item.author),
            "start": str(item.start) if item.start else None,
            "prefix_steps": item.first,
            "status": item.status,
            "success": item.success,
            "reward": item.reward,
            "round": item.round,
            "error": item.error,
            "prompt_suffix": item.prompt_suffix,
            "notes": self.notes,
        }


def export_logs(name: str, stages: Sequence[Played], directory: Path) -> list[Path]:
    """Write rollouts for a viewer; returns the paths of the files.

    ConfigError for an unknown viewer, MethodError if there are no rollouts, StoreError as in
    `write_export`.
    """
    if name not in LOGS:
        raise unknown_name("viewer", name, LOGS)
    count = sum(len(stage.names) for stage in stages)
    if not count:
        raise MethodError(
            "nothing to export: no rollout is recorded for this method and round",
            hint="`eef show DIR` lists what is done",
        )
    titles = ", ".join(stage.title for stage in stages if stage.names)
    text = LOG_READMES[name].format(what=f"{count:,} rollouts ({titles})")

    def write(unfinished: Path) -> None:
        LOGS[name](stages, unfinished)
        write_text(unfinished / "README.md", text)

    return write_export(directory, f"{name} of {titles}", write)


def conversations(stage: Played) -> Iterable[Rollout]:
    """The rollouts of a stage as messages, in their order."""
    epochs: Counter[str] = Counter()
    trained: dict[str, list[TrainingExample]] = {}
    for example in stage.examples:
        trained.setdefault(example.trajectory, []).append(example)
    labels: dict[str, Mapping[str, Mapping[int, Label]]] = {}
    for name in stage.names:
        item = stage.trajectories[name]
        epochs[item.task] += 1
        if item.task not in labels:
            grids = stage.grids(item.task)
            labels[item.task] = {origin: grid.labels() for origin, grid in grids.items()}
        path = stage.trajectories.path(name)
        turns = []
        for t, part in enumerate(path):
            turns.append(
                {
                    "t": t,
                    "author": str(part.author),
                    "prefix": t < item.first,
                    "action": part.step.action,
                    "reward": part.step.reward,
                    "label": labels[item.task].get(part.trajectory, {}).get(t),
                    "advice": [asdict(each) for each in part.step.advice],
                    "trained": [
                        {"example": each.id, "weight": each.weights[t], "reason": each.reasons[t]}
                        for each in trained.get(name, ())
                    ],
                }
            )
        steps = [part.step for part in path]
        messages = [
            {"role": message["role"], "content": str(message["content"])}
            for message in build_conversation(
                "", steps, item.final_observation or None, advice=stage.advice
            )
        ]
        notes = _notes_of(item, stage.trajectories.notes)
        yield Rollout(item, epochs[item.task], messages, turns, notes)


def _notes_of(item: Trajectory, notes: NoteSet) -> list[Json]:
    """The texts of roles about a rollout, and the notes that are in its prompt."""
    in_prompt, about = notes.of_trajectory(item.id, item.task, item.prompt_suffix)
    return [
        {
            "id": note.id,
            "role": note.role,
            "author": note.author,
            "text": note.text,
            "problem": note.problem,
            "in_prompt": number < len(in_prompt),
        }
        for number, note in enumerate((*in_prompt, *about))
    ]


def _write_inspect(stages: Sequence[Played], directory: Path) -> None:
    for stage in stages:
        if stage.names:
            write_inspect(stage, directory / f"{stage.title}.eval")


def write_inspect(stage: Played, path: Path) -> None:
    """Write one log: a zip archive of JSON files, version 2 of Inspect's format."""
    rollouts = list(conversations(stage))
    now = datetime.now(UTC).isoformat(timespec="seconds")
    ended = [each.trajectory for each in rollouts if each.trajectory.reward is not None]
    if stage.kind == "evaluate":  # retries after a known loss do not count
        ended = [item for item in ended if is_first_attempt(item.id, item.task)]
    scores = {
        "win": fmean(item.success for item in ended) if ended else 0.0,
        "reward": fmean(item.reward or 0.0 for item in ended) if ended else 0.0,
    }
    tasks = list(dict.fromkeys(each.trajectory.task for each in rollouts))
    start = {
        "version": 2,
        "eval": {
            "eval_id": _id(stage.run, stage.title, "eval"),
            "run_id": _id(stage.run, "run"),
            "created": now,
            "task": f"eef/{stage.kind}",
            "task_id": _id(stage.run, stage.title, "task"),
            "task_version": 0,
            "dataset": {"name": stage.env, "samples": len(tasks), "sample_ids": tasks},
            "model": f"eef/{stage.method}@round{stage.round}",
            "config": {"epochs": max((each.epoch for each in rollouts), default=1)},
            "packages": {"eef": __version__},
            "metadata": {"run": stage.run, "method": stage.method, "round": stage.round},
        },
        "plan": {"name": "plan", "steps": [], "config": {}},
    }
    results = {
        "total_samples": len(rollouts),
        "completed_samples": len(ended),
        "scores": [
            {
                "name": name,
                "scorer": name,
                "params": {},
                "metrics": {"mean": {"name": "mean", "value": value, "params": {}}},
            }
            for name, value in scores.items()
        ],
    }
    stats = {"started_at": now, "completed_at": now, "model_usage": {}}
    samples = [_sample(each, stage) for each in rollouts]
    summaries = [
        {
            **{key: sample[key] for key in _SUMMARIZED},
            **({"error": sample["error"]["message"]} if sample.get("error") else {}),
            "completed": True,
            "message_count": len(sample["messages"]),
        }
        for sample in samples
    ]
    temporary = path.with_name(path.name + ".tmp")
    with disk_errors(path):
        try:
            with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
                _add(archive, "_journal/start.json", start)
                for sample in samples:
                    _add(archive, f"samples/{sample['id']}_epoch_{sample['epoch']}.json", sample)
                _add(archive, "_journal/summaries/1.json", summaries)
                _add(archive, "summaries.json", summaries)
                header = {**start, "status": "success", "results": results, "stats": stats}
                _add(archive, "header.json", header)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _sample(rollout: Rollout, stage: Played) -> Json:
    """A rollout as a sample. A failed one has an error and no score."""
    item, usage = rollout.trajectory, rollout.trajectory.usage
    turns = iter(rollout.turns)
    messages: list[Json] = []
    for message in rollout.messages:
        more = {"metadata": next(turns)} if message["role"] == "assistant" else {}
        messages.append({"id": _id(item.id, str(len(messages))), **message, **more})
    model = f"eef/{item.author}"
    last = next((each for each in reversed(messages) if each["role"] == "assistant"), None)
    choices = [{"message": last, "stop_reason": "stop"}] if last else []
    sample: Json = {
        "id": item.task,
        "epoch": rollout.epoch,
        "uuid": _id(stage.run, item.id),
        "input": messages[0]["content"] if messages else "",
        "target": "",
        "messages": messages,
        "output": {"model": model, "choices": choices},
        "scores": {}
        if item.reward is None
        else {
            "win": {"value": float(item.success), "explanation": item.status},
            "reward": {"value": item.reward},
        },
        "metadata": rollout.metadata,
        "store": {},
        "events": [],
        "attachments": {},
        "model_usage": {
            model: {
                "input_tokens": usage.prompt_tokens,
                "output_tokens": usage.generated_tokens,
                "total_tokens": usage.prompt_tokens + usage.generated_tokens,
                "input_tokens_cache_read": usage.cached_tokens,
            }
        },
        "total_time": usage.seconds,
    }
    if item.status == "error":
        text = item.error or ""
        sample["error"] = {"message": text, "traceback": text, "traceback_ansi": text}
    elif item.status == "truncated":
        sample["limit"] = {"type": "message", "limit": float(len(messages))}
    return sample


def _add(archive: zipfile.ZipFile, name: str, value: Any) -> None:
    archive.writestr(name, json.dumps(value, allow_nan=False))


def _id(*parts: str) -> str:
    """An id of 22 characters that depends only on its parts."""
    return sha256("\0".join(parts).encode(errors="replace")).hexdigest()[:22]


def _trace(stage: Played, rollout: Rollout) -> Json:
    """A rollout as the arguments of `trackio.Trace`."""
    item = rollout.trajectory
    metadata: Json = {
        "method": stage.method,
        "stage": stage.kind,
        **rollout.metadata,
        "outcome": "won" if item.success else "not won",
        "duration_ms": 1000 * item.usage.seconds,
        "turns": rollout.turns,
    }
    return {"messages": rollout.messages, "metadata": metadata}


def _write_trackio(stages: Sequence[Played], directory: Path) -> None:
    rows = (_trace(stage, rollout) for stage in stages for rollout in conversations(stage))
    write_jsonl(directory / "traces.jsonl", rows)
    first = stages[0]
    name = f"{first.method}-round{first.round}"
    write_text(directory / "log.py", _LOG.format(project=first.run, name=name))


LOGS: dict[str, Callable[[Sequence[Played], Path], None]] = {
    "inspect": _write_inspect,
    "trackio": _write_trackio,
}
"""Viewer → function that writes the rollouts of some stages into a directory."""
