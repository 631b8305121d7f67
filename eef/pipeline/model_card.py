"""Card: what a checkpoint is, in words beside its weights: recipe, data, result with its environment, licence.

Written by `eef.pipeline` when a round is trained, and anew when it is evaluated. Hubs read the head of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from eef import __version__
from eef.pipeline.evaluation import EvalResult
from eef.pipeline.recipe import Recipe

_UNKNOWN = "other"  # the hub's word where a licence is none of those it knows


def model_card(
    *,
    recipe: Recipe,
    method: str,
    round: int,
    counts: Mapping[str, int],
    result: EvalResult | None,
    fingerprint: Mapping[str, Any],
) -> str:
    """The card as Markdown with a YAML head."""
    licence = base_licence(recipe.model.name)
    head = {
        "library_name": "peft" if recipe.model.lora else "transformers",
        "base_model": recipe.model.name.removeprefix("hf/"),
        "license": licence or _UNKNOWN,
        "pipeline_tag": "text-generation",
        "tags": ["eef", method, recipe.env.name, *(["lora"] if recipe.model.lora else [])],
    }
    return "\n".join(
        [
            "---",
            yaml.safe_dump(head, sort_keys=False).strip(),
            "---",
            "",
            f"# {recipe.name}: {method}, round {round}",
            "",
            f"Trained by `eef` {__version__} from {recipe.model.name} on expert trajectories of `{recipe.env.name}`; the "
            "experts' failures are learned from too (Exploring Expert Failures, arXiv 2504.13145).",
            "",
            "## Result",
            "",
            _result(result),
            "",
            "Comparable with results of the same environment alone:",
            "",
            *_table(fingerprint),
            "",
            "## Data",
            "",
            f"Experts: {', '.join(recipe.expert.names)}.",
            "",
            *_table(counts),
            "",
            "## Recipe",
            "",
            "```json",
            recipe.to_json().strip(),
            "```",
            "",
            "## Licence",
            "",
            _licence(recipe.model.name, licence),
            "",
        ]
    )


def base_licence(name: str) -> str | None:
    """The licence a model's own card names; None where there is none to read. Shipped students are part of `eef`."""
    from eef.models.loading import is_shipped

    if is_shipped(name):
        return "apache-2.0"
    path = Path(name.removeprefix("hf/")).expanduser() / "README.md"
    if not path.is_file():
        return None
    head = re.match(r"---\n(.*?)\n---", path.read_text(encoding="utf-8", errors="replace"), re.S)
    try:
        told = yaml.safe_load(head[1]) if head else None
    except yaml.YAMLError:
        return None
    licence = told.get("license") if isinstance(told, dict) else None
    return licence if isinstance(licence, str) else None


def _licence(name: str, licence: str | None) -> str:
    if licence is None:
        return (
            f"That of the base model, {name}: its licence could not be read here. See its own card."
        )
    return f"That of the base model, {name}: {licence}."


def _result(result: EvalResult | None) -> str:
    if result is None:
        return "Not evaluated yet."
    return (
        f"Win rate {100 * result.success_rate:.1f} %, mean reward {result.mean_reward:.3f} on {len(result.outcomes)} "
        f"tasks of split `{result.split}`, greedy unless the recipe says otherwise."
    )


def _table(values: Mapping[str, Any]) -> list[str]:
    shown = {key: " ".join(str(value).split()).replace("|", "\\|") for key, value in values.items()}
    rows = [
        f"| {key} | {value if len(value) <= 200 else value[:200] + ' …'} |"
        for key, value in shown.items()
    ]
    return ["| | |", "|:--|:--|", *rows]
