"""Stage status: the outcome of a finished stage, or the progress of another, in one line."""

from __future__ import annotations

from typing import Any

from eef.analysis.losses import explain_losses
from eef.pipeline.evaluation import EvalResult
from eef.pipeline.run_directory import RunData, RunDirectory
from eef.pipeline.stages import Stage
from eef.pipeline.status import StageStatus
from eef.report.formatting import count_of, percent, reward


def stage_status(run: RunDirectory | RunData, stage: Stage) -> str:
    """The outcome of a stage, without its name; empty if it is not done."""
    record = run.summary(stage)
    if record is None:
        return ""
    describe = {
        "collect": _collected,
        "explore": _explored,
        "select": _selected,
        "train": _trained,
        "evaluate": _evaluated,
    }
    text = describe[stage.kind](record)
    if stage.kind in ("collect", "explore", "evaluate"):
        text += _losses(run, stage, record)
    return text


def stage_progress(status: StageStatus) -> str:
    """How far a stage that was started is; empty for every other stage."""
    words = {"running": "in progress", "interrupted": "interrupted", "failed": "failed"}
    if status.state not in words:
        return ""
    text = ", ".join(filter(None, (words[status.state], status.progress)))
    error = status.record.error if status.record else None
    return f"{text}: {error}" if error else text


def _losses(run: RunDirectory | RunData, stage: Stage, record: dict[str, Any]) -> str:
    """Why rollouts were lost, if it is known; "" if none was."""
    if not _lost(record):
        return ""
    reason = explain_losses(run if isinstance(run, RunData) else run.read(), stage)
    return f"; {reason}" if reason else ""


def _lost(record: dict[str, Any]) -> int:
    if "wins" in record:
        return int(record["rollouts"] - record["wins"])
    result = EvalResult.from_record(record)
    return len(result.outcomes) - len(result.wins)


def _collected(record: dict[str, Any]) -> str:
    text = _explored(record)
    if record.get("unverified"):
        text += f", {record['unverified']} unverified"
    for name, report in record.get("sources", {}).items():
        if name == "api":
            text += f"; {_api_usage(report)}"
        elif report["rejected"]:
            rejected = count_of(report["rejected"], "row")
            text += f"; {rejected} of `{name}` rejected, {report['held_out']} of them held out"
    if record["wins"] == record["rollouts"]:
        return f"{text}; the expert never failed, so there are no failures to explore"
    return text


def _api_usage(usage: dict[str, Any]) -> str:
    tokens = usage["prompt_tokens"] + usage["completion_tokens"]
    text = f"{count_of(usage['requests'], 'request')}, {tokens:,} tokens"
    if usage["cost"]:
        text += f", cost {usage['cost']:.2f}"
    if usage["failures"]:
        failures = (f"{count} × {kind}" for kind, count in usage["failures"].items())
        text += f" ({', '.join(failures)})"
    for model, options in usage.get("dropped", {}).items():
        names = ", ".join(f"`{option}`" for option in options)
        text += f"; {names} not supported by the server of {model}"
    return text


def _explored(record: dict[str, Any]) -> str:
    text = f"{count_of(record['rollouts'], 'rollout')}, {record['wins']} won"
    if record["errors"]:
        text += f", {record['errors']} failed"
    if record["overflows"]:
        text += f", {record['overflows']} stopped at the end of the context"
    return text


def _selected(record: dict[str, Any]) -> str:
    if "acts" in record and not record["examples"]:
        groups = sum(record[f"groups.{kind}"] for kind in ("lost", "mixed", "won"))
        return (
            f"{count_of(record['acts'], 'rollout')} with an advantage; {record['groups.mixed']} of "
            f"{count_of(groups, 'group')} with wins and losses"
        )
    text = count_of(record["examples"], "example")
    if record.get("pairs"):
        text += f", {count_of(record['pairs'], 'pair')}"
    if record.get("states.recovered"):
        text += f", {record['states.recovered']} of them from recovery states"
    if record.get("tasks.unsolved"):
        text += f", {count_of(record['tasks.unsolved'], 'task')} without examples"
    return text


def _trained(record: dict[str, Any]) -> str:
    parts = {"examples": "example", "pairs": "pair", "acts": "rollout"}
    data = " and ".join(
        count_of(record[key], name) for key, name in parts.items() if record.get(key)
    )
    if not data:
        return "nothing to train on: the student is that of the previous round"
    text = f"{count_of(record['updates'], 'update')} on {data}"
    if record["losses"]:
        text += f", loss {record['losses'][-1]:.3f}"
    if record["too_long"]:
        skipped = count_of(len(record["too_long"]), "example")
        text += f"; {skipped} skipped, longer than the context"
    return text


def _evaluated(record: dict[str, Any]) -> str:
    result = EvalResult.from_record(record)
    return (
        f"win rate {percent(result.success_rate)} %, mean reward {reward(result.mean_reward)} "
        f"on {count_of(len(result.outcomes), 'task')}"
    )
