"""The model card of a checkpoint: recipe, data, result, environment and license."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from eef import __version__
from eef.models.location import is_shipped
from eef.pipeline.evaluation import EvalResult
from eef.pipeline.recipe import Recipe

_LONGEST_VALUE = 200  # characters of a table's cell
_UNKNOWN = "other"  # the hub's word for a license that it does not list


def model_card(
    *,
    recipe: Recipe,
    method: str,
    round: int,
    counts: Mapping[str, int],
    result: EvalResult | None,
    fingerprint: Mapping[str, Any],
) -> str:
    """The card as Markdown with YAML metadata for model hubs."""
    from huggingface_hub import ModelCardData

    license = base_license(recipe.model.name)
    metadata = ModelCardData(
        library_name="peft" if recipe.model.lora else "transformers",
        base_model=recipe.model.name.removeprefix("hf/"),
        license=license or _UNKNOWN,
        pipeline_tag="text-generation",
        tags=["eef", method, recipe.env.name, *(["lora"] if recipe.model.lora else [])],
    )
    return f"""---
{metadata.to_yaml()}
---

# {recipe.name}: {method}, round {round}

Trained by `eef` {__version__} from {recipe.model.name} on expert trajectories of \
`{recipe.env.name}`, failed ones included (Exploring Expert Failures, arXiv 2504.13145).

## Result

{_result(result)}

Comparable only with results in the same environment:

{_table(fingerprint)}

## Data

Experts: {", ".join(recipe.expert.names)}.

{_table(counts)}

## Recipe

```json
{recipe.to_json().strip()}
```

## License

{_license(recipe.model.name, license)}
"""


def base_license(name: str) -> str | None:
    """The license stated in a model's own card; None if there is no card here or it states none.

    Students shipped with `eef` have its license.
    """
    from huggingface_hub.repocard import metadata_load

    if is_shipped(name):
        return "apache-2.0"
    card = Path(name.removeprefix("hf/")).expanduser() / "README.md"
    try:
        metadata = metadata_load(card) or {}
    except (OSError, ValueError, yaml.YAMLError):
        return None
    license = metadata.get("license")
    return license if isinstance(license, str) else None


def _license(name: str, license: str | None) -> str:
    if license is None:
        return f"That of the base model, {name}. It could not be read here; see that model's card."
    return f"That of the base model, {name}: {license}."


def _result(result: EvalResult | None) -> str:
    if result is None:
        return "Not evaluated yet."
    return (
        f"Win rate {100 * result.success_rate:.1f} %, mean reward {result.mean_reward:.3f} on "
        f"{len(result.outcomes)} tasks of split `{result.split}`."
    )


def _table(values: Mapping[str, Any]) -> str:
    return "\n".join(
        ["| | |", "|:--|:--|", *(f"| {key} | {_cell(value)} |" for key, value in values.items())]
    )


def _cell(value: Any) -> str:
    text = " ".join(str(value).split()).replace("|", "\\|")
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]} …"
