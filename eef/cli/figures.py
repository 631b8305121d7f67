"""Figures: what a stage of a run came to, in words, read from what it left in the run directory."""

from __future__ import annotations

from typing import Any

from eef.pipeline.evaluation import EvalResult
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import Stage
from eef.report.formatting import count_of, percent, reward


def figures(run: RunDirectory, stage: Stage) -> str:
    """One line on a stage, without its name; empty where it is not done."""
    record = run.summary(stage)
    if record is None:
        return ""
    words = {
        "collect": _collected,
        "explore": _explored,
        "select": _selected,
        "train": _trained,
        "evaluate": _evaluated,
    }
    return words[stage.kind](record)


def _collected(record: dict[str, Any]) -> str:
    words = _explored(record)
    if record.get("unverified"):
        words += f", {record['unverified']} unverified"
    for name, told in record.get("sources", {}).items():
        if name == "api":
            words += f"; {_asked(told)}"
        elif told["rejected"]:
            words += f"; {count_of(told['rejected'], 'row')} of `{name}` not taken, {told['held_out']} of them held out"
    if record["wins"] == record["rollouts"]:
        return f"{words}; the expert never failed, so there are no failures to explore"
    return words


def _asked(spent: dict[str, Any]) -> str:
    words = f"{count_of(spent['requests'], 'request')}, {spent['prompt_tokens'] + spent['completion_tokens']:,} tokens"
    troubles = ", ".join(f"{count} × {kind}" for kind, count in spent["troubles"].items())
    return (
        words
        + (f", cost {spent['cost']:.2f}" if spent["cost"] else "")
        + (f" ({troubles})" if troubles else "")
    )


def _explored(record: dict[str, Any]) -> str:
    words = f"{count_of(record['rollouts'], 'rollout')}, {record['wins']} won"
    if record["errors"]:
        words += f", {record['errors']} broken"
    if record["overflows"]:
        words += f", {record['overflows']} ended at the end of the context"
    return words


def _selected(record: dict[str, Any]) -> str:
    words = count_of(record["examples"], "example")
    if record.get("pairs"):
        words += f", {count_of(record['pairs'], 'pair')}"
    if record.get("states.recovered"):
        words += f", {record['states.recovered']} of them from recovery states"
    if record.get("tasks.unsolved"):
        words += f", {count_of(record['tasks.unsolved'], 'task')} without any"
    return words


def _trained(record: dict[str, Any]) -> str:
    parts = [
        count_of(record[f"{kind}s"], kind) for kind in ("example", "pair") if record.get(f"{kind}s")
    ]
    words = f"{count_of(record['updates'], 'update')} on {' and '.join(parts)}"
    if record["losses"]:
        words += f", loss {record['losses'][-1]:.3f}"
    if record["too_long"]:
        words += (
            f"; {count_of(len(record['too_long']), 'example')} left out, longer than the context"
        )
    return words


def _evaluated(record: dict[str, Any]) -> str:
    result = EvalResult.from_record(record)
    return (
        f"win rate {percent(result.success_rate)} %, mean reward {reward(result.mean_reward)} "
        f"on {count_of(len(result.outcomes), 'task')}"
    )
