"""The recipe: every setting of a run, loaded from a TOML, YAML or JSON file with dotted overrides."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ConfigDict, Field, model_validator

from eef.config import (
    Settings,
    apply_override,
    parse_settings,
)
from eef.errors import ConfigError
from eef.models.settings import ModelSettings
from eef.policies.settings import ApiSettings, SamplingSettings
from eef.renderer import ChatSettings
from eef.rollouts.settings import BudgetSettings, RolloutSettings
from eef.training.settings import DpoSettings, TrainSettings


class EnvSettings(Settings):
    """The environment: its name, and beside it whatever settings that environment itself declares."""

    model_config = ConfigDict(extra="allow")

    name: str
    """Which environment (`webshop`); its own settings stand beside the name."""

    @property
    def options(self) -> dict[str, Any]:
        """The environment's own settings, checked where it is made."""
        return dict(self.model_extra or {})


class ExpertSettings(Settings):
    """Who plays the training tasks before the student does."""

    names: tuple[str, ...] = Field(default=("scripted/strong",), strict=False, min_length=1)
    """The experts: `scripted/<preset>`, `hf/<path or hub id>`, `openai/<model>` at the server of `expert.api`, each of
    whom plays every task once; or `file/<path>`, trajectories in any format that `eef import` reads."""

    tasks: int | None = Field(default=None, ge=1)
    """How many of the training tasks the experts play; all when left out."""

    api: ApiSettings | None = None
    """The server of `openai/<model>` experts; its defaults when left out."""

    @model_validator(mode="after")
    def _api_has_effect(self) -> ExpertSettings:
        if self.api is not None and not any(name.startswith("openai/") for name in self.names):
            raise ValueError("`api` has no effect: `names` has no `openai/<model>`")
        return self

    @property
    def players(self) -> tuple[str, ...]:
        """The experts that can play: all but files."""
        return tuple(name for name in self.names if not name.startswith("file/"))


class TaskSettings(Settings):
    """Which tasks of the environment's splits are used."""

    train: int | None = Field(default=None, ge=1)
    """Number of training tasks; all when left out."""

    test: int | None = Field(default=None, ge=1)
    """Number of test tasks; all when left out."""

    seed: int | None = None
    """Shuffle the tasks with this seed before the first are taken; the environment's order when left out."""


class EvaluateSettings(Settings):
    """How tasks are played after each round; `sampling` gives the rest (`max_tokens`, `top_p`)."""

    split: str = "test"
    """Split that is played."""

    temperature: float = Field(default=0.0, ge=0)
    """Temperature of evaluation; 0 is greedy."""


class Recipe(Settings):
    """Everything a run needs."""

    name: str = "run"
    """Name of the run in reports."""

    seed: int = 0
    """Everything random in the run derives from it."""

    rounds: int = Field(default=3, ge=1)
    """Rounds of exploring and training after behaviour cloning."""

    methods: tuple[str, ...] = Field(default=("bc", "rft6", "eef"), strict=False, min_length=1)
    """Methods that are compared; `rft6` is `rft` with k = 6."""

    options: dict[str, dict[str, Any]] = Field(default={})
    """A table of options for each method that needs one: `[options.eef]`. With `method = "eef"` in it the table makes
    an arm: the method with other options under a name of your own, which `methods` lists."""

    jobs: int = Field(default=1, ge=1)
    """Methods worked on side by side, each in a process of its own."""

    env: EnvSettings
    expert: ExpertSettings = ExpertSettings()
    model: ModelSettings = ModelSettings()
    chat: ChatSettings = ChatSettings()
    sampling: SamplingSettings = SamplingSettings()
    rollouts: RolloutSettings = RolloutSettings()
    tasks: TaskSettings = TaskSettings()
    train: TrainSettings = TrainSettings()
    dpo: DpoSettings = DpoSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    budget: BudgetSettings = BudgetSettings()

    @model_validator(mode="before")
    @classmethod
    def _one_seed(cls, data: Any) -> Any:
        """Training takes the recipe's seed where it has none of its own."""
        if not isinstance(data, dict) or not isinstance(data.get("train", {}), dict):
            return data
        return {**data, "train": {"seed": data.get("seed", 0), **data.get("train", {})}}

    @model_validator(mode="after")
    def _options_have_their_method(self) -> Recipe:
        if len(set(self.methods)) != len(self.methods):
            raise ValueError("`methods` names a method twice")
        for name in self.options:
            if name not in (*self.methods, "bc"):  # every run begins with behaviour cloning
                raise ValueError(
                    f"`options.{name}` has no effect: `methods` does not name {name!r}"
                )
        return self

    @property
    def evaluation_sampling(self) -> SamplingSettings:
        """`sampling` at the temperature of evaluation."""
        return self.sampling.model_copy(update={"temperature": self.evaluate.temperature})

    def to_json(self) -> str:
        """The resolved recipe, every default written out; read again it gives an equal recipe."""
        return self.model_dump_json(indent=2) + "\n"


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a `.toml`, `.yaml`, `.yml` or `.json` file, with overrides `a.b=value` laid over it.

    Raises ConfigError naming the file, the key and the nearest known key.
    """
    data = _read(Path(path))
    for override in overrides:
        apply_override(data, override)
    return parse_settings(Recipe, data, source=str(path))


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read recipe `{path}`: {error}") from error
    try:
        data = _parse(text, path)
    except (tomllib.TOMLDecodeError, yaml.YAMLError, json.JSONDecodeError) as error:
        raise ConfigError(
            f"{path}: not valid {path.suffix[1:]}: {' '.join(str(error).split())}"
        ) from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: a recipe is a table of settings, found {type(data).__name__}")
    return data


def _parse(text: str, path: Path) -> Any:
    if path.suffix == ".toml":
        return tomllib.loads(text)
    if path.suffix in (".yaml", ".yml"):
        return yaml.safe_load(text)
    if path.suffix == ".json":
        return json.loads(text)
    raise ConfigError(
        f"cannot read recipe `{path}`", hint="a recipe ends in `.toml`, `.yaml` or `.json`"
    )
