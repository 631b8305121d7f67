"""The recipe: every setting of a run, loaded from a TOML, YAML or JSON file with overrides."""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ConfigDict, Field, model_validator

from eef.config import Settings, apply_override, parse_settings, unknown_name
from eef.errors import ConfigError
from eef.models.settings import ModelSettings
from eef.policies.settings import (
    ApiSettings,
    ExpertSamplingSettings,
    RoleSettings,
    SamplingSettings,
)
from eef.renderer import ChatSettings
from eef.rollouts.settings import BudgetSettings, RolloutSettings
from eef.training.settings import DpoSettings, PolicyGradientSettings, TrainSettings

_OVERRIDABLE = (
    "rounds",
    "sampling",
    "rollouts",
    "budget",
    "train",
    "dpo",
    "policy_gradient",
    "evaluate",
    "roles",
)
Tracker = Literal[
    "tensorboard",
    "mlflow",
    "trackio",
    "wandb",
    "swanlab",
    "comet_ml",
    "clearml",
    "aim",
    "dvclive",
]
_OF_THE_RUN = ("evaluate.split", "rollouts.engine", "rollouts.server", "rollouts.cache_gib")
"""Settings of overridable groups that are read only from the run's recipe."""
_EXCLUSIVE = ({"updates", "epochs"}, {"rollouts_per_task", "rollouts", "tokens"})
"""Exclusive settings: a group has at most one of each set; setting one unsets the others."""


class EnvSettings(Settings):
    """The environment: its name and the settings that it declares."""

    model_config = ConfigDict(extra="allow")

    name: str
    """Name of the environment (`webshop`); its own settings go next to it."""

    @property
    def options(self) -> dict[str, Any]:
        """The environment's own settings, checked when it is created."""
        return dict(self.model_extra or {})


class OneExpertSettings(Settings):
    """Settings of one expert. Unset values are those of `expert`."""

    prompt: str = ""
    """Text that is appended to the environment's prompt when this expert plays. The student is
    trained without it."""

    base_url: str | None = None
    """Address of the server of this `openai/<model>` expert."""

    more_urls: tuple[str, ...] = Field(default=(), strict=False)
    """Addresses of further servers of this expert."""

    key: str | None = None
    """Name of the environment variable that holds the key of this expert's servers."""

    sampling: ExpertSamplingSettings = ExpertSamplingSettings()
    """Sampling of this expert."""


class ExpertSettings(Settings):
    """The experts, which play the training tasks before the student does."""

    names: tuple[str, ...] = Field(default=("scripted/strong",), strict=False, min_length=1)
    """The experts. `scripted/<preset>`, `hf/<path or hub id>` and `openai/<model>` (at the server
    of `expert.api`) play every task once; `file/<path>` holds trajectories in any format that
    `eef import` reads."""

    tasks: int | None = Field(default=None, ge=1)
    """Number of training tasks that the experts play; all by default."""

    api: ApiSettings | None = None
    """The server of `openai/<model>` experts."""

    sampling: ExpertSamplingSettings = ExpertSamplingSettings()

    own: dict[str, OneExpertSettings] = Field(default={})
    """Settings of single experts, in tables such as `[expert.own."openai/gpt-5"]`: `prompt`,
    `base_url`, `more_urls`, `key` and `sampling`. All experts share the budget of `expert.api`."""

    @model_validator(mode="after")
    def _own_settings_have_effect(self) -> ExpertSettings:
        for name, own in self.own.items():
            if name not in self.players:
                raise ValueError(
                    f"`own` has settings of {name!r}, which is not a model or preset in `names`"
                )
            if not name.startswith("openai/") and (own.base_url or own.more_urls or own.key):
                raise ValueError(f"`own` names a server for {name!r}, which uses none")
            if name.startswith("scripted/"):
                raise ValueError(f"`own` has settings of {name!r}; scripted experts have none")
            self.api_of(name)  # raises for an address that is not one
        return self

    def api_of(self, name: str) -> ApiSettings:
        """The server of an expert: the shared one, with the expert's own settings."""
        shared = (self.api or ApiSettings()).model_dump()
        own = self.own.get(name, OneExpertSettings())
        if own.base_url is not None or own.more_urls:
            shared["more_urls"] = own.more_urls
        changes = {"base_url": own.base_url, "key": own.key}
        changed = {key: value for key, value in changes.items() if value is not None}
        return ApiSettings(**{**shared, **changed})

    def prompt_of(self, name: str) -> str:
        """The text appended to the environment's prompt for an expert."""
        return self.own[name].prompt if name in self.own else ""

    @model_validator(mode="after")
    def _api_has_effect(self) -> ExpertSettings:
        if self.api is not None and not any(name.startswith("openai/") for name in self.names):
            raise ValueError("`api` has no effect: `names` has no `openai/<model>`")
        return self

    @model_validator(mode="after")
    def _sampling_has_effect(self) -> ExpertSettings:
        samples = any(name.startswith(("openai/", "hf/")) for name in self.names)
        if self.sampling != ExpertSamplingSettings() and not samples:
            raise ValueError("`sampling` has no effect: `names` has no `openai/…` and no `hf/…`")
        return self

    @property
    def players(self) -> tuple[str, ...]:
        """The experts that can play: all but files."""
        return tuple(name for name in self.names if not name.startswith("file/"))


class TaskSettings(Settings):
    """The tasks of the environment's splits that the run uses."""

    train: int | None = Field(default=None, ge=1)
    """Number of training tasks; all by default."""

    test: int | None = Field(default=None, ge=1)
    """Number of test tasks; all by default."""

    seed: int | None = None
    """Seed for shuffling the tasks before the first `train` or `test` are taken; by default they
    keep the environment's order."""


class EvaluateSettings(Settings):
    """Evaluation after each round; `max_tokens` and `top_p` are those of `sampling`."""

    split: str = "test"
    """Split to evaluate on."""

    temperature: float = Field(default=0.0, ge=0)
    """Temperature during evaluation; 0 is greedy."""

    every: int = Field(default=1, ge=1)
    """Interval between evaluations, in rounds. The last round is always evaluated."""


class Recipe(Settings):
    """All settings of a run."""

    name: str = Field(default="run", json_schema_extra={"default": None})
    """Name of the run in reports, and of its directory in `runs/`; by default that of the recipe's
    file."""

    seed: int = 0
    """Source of all randomness in the run."""

    rounds: int = Field(default=3, ge=1)
    """Rounds of exploration and training after behavior cloning."""

    methods: tuple[str, ...] = Field(default=("bc", "rft6", "eef"), strict=False, min_length=1)
    """Methods to compare; `rft6` is `rft` with k = 6."""

    options: dict[str, dict[str, Any]] = Field(default={})
    """Options by method, in tables such as `[options.eef]`. A table with `method = "eef"` defines a
    variant: that method with other options, under a new name that `methods` lists."""

    overrides: dict[str, dict[str, Any]] = Field(default={})
    """Settings of one method that differ from the recipe's, in tables such as `[overrides.grpo]`:
    `rounds`, and the groups `sampling`, `rollouts`, `budget`, `train`, `dpo`, `policy_gradient`,
    `evaluate` and `roles`, whose tables (`[overrides.cgi.roles.critic]`) replace the recipe's.
    `evaluate.split` and `rollouts.engine` cannot differ from the run's."""

    roles: dict[str, RoleSettings] = Field(default={})
    """Models beside the student that methods ask, in tables such as `[roles.judge]`; see
    `eef settings role`. In methods that train only a role, the role `agent` plays instead of the
    student."""

    jobs: int = Field(default=1, ge=1)
    """Methods executed in parallel, one process each. If there are GPUs, each has its own, unless
    `model.device` names one."""

    track: tuple[Tracker, ...] = Field(default=(), strict=False)
    """Experiment trackers that receive losses, win rates, costs, counts and a sample of rollouts:
    `tensorboard`, `mlflow`, `trackio`, `wandb` and others of `accelerate`. Their own environment
    variables apply, such as `WANDB_MODE=offline`; see `docs/tracking.md`."""

    env: EnvSettings
    expert: ExpertSettings = ExpertSettings()
    model: ModelSettings = ModelSettings()
    chat: ChatSettings = ChatSettings()
    sampling: SamplingSettings = SamplingSettings()
    rollouts: RolloutSettings = RolloutSettings()
    tasks: TaskSettings = TaskSettings()
    train: TrainSettings = TrainSettings()
    dpo: DpoSettings = DpoSettings()
    policy_gradient: PolicyGradientSettings = PolicyGradientSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    budget: BudgetSettings = BudgetSettings()

    @model_validator(mode="before")
    @classmethod
    def _one_seed(cls, data: Any) -> Any:
        """Training uses the recipe's seed unless it has its own."""
        if not isinstance(data, dict) or not isinstance(data.get("train", {}), dict):
            return data
        return {**data, "train": {"seed": data.get("seed", 0), **data.get("train", {})}}

    @model_validator(mode="after")
    def _options_have_their_method(self) -> Recipe:
        if len(set(self.methods)) != len(self.methods):
            twice = next(name for name in self.methods if self.methods.count(name) > 1)
            raise ValueError(f"`methods` lists {twice!r} twice")
        for name in self.options:
            if name not in (*self.methods, "bc"):  # every run starts with behavior cloning
                raise ValueError(
                    f"`options.{name}` has no effect: `methods` does not name {name!r}"
                )
        return self

    @model_validator(mode="after")
    def _greedy_expert_has_no_nucleus(self) -> Recipe:
        if self.expert.sampling.top_p not in (None, 1) and self.expert_sampling.temperature == 0:
            raise ValueError("`expert.sampling.top_p` has no effect at temperature 0; remove it")
        return self

    @model_validator(mode="after")
    def _overrides_are_settings_of_a_method(self) -> Recipe:
        for name in self.overrides:
            if name not in self.methods or name == "bc":
                raise ValueError(
                    f"`overrides.{name}` has no effect: {name!r} is not a method of this recipe "
                    "that has rounds"
                )
            own = self.of_method(name)
            for setting in _OF_THE_RUN:
                if attrgetter(setting)(own) != attrgetter(setting)(self):
                    raise ValueError(
                        f"`overrides.{name}.{setting}` has no effect: all methods of a run share it"
                    )
        return self

    def of_method(self, method: str) -> Recipe:
        """The recipe with a method's `overrides` applied.

        ConfigError for a setting that a single method cannot change, or for a wrong value.
        """
        changes = self.overrides.get(method)
        if not changes:
            return self
        data = self.model_dump(exclude={"overrides"})
        for key, value in changes.items():
            if key not in _OVERRIDABLE:
                problem = unknown_name("setting of one method", key, _OVERRIDABLE)
                raise ConfigError(f"overrides.{method}: {problem.message}", hint=problem.hint)
            if isinstance(value, dict) != (key != "rounds"):
                kind = "a number" if key == "rounds" else "a table of settings"
                raise ConfigError(f"`overrides.{method}.{key}` is {value!r}; expected {kind}")
            data[key] = _changed(data[key], value) if isinstance(value, dict) else value
        return parse_settings(Recipe, data, source=f"overrides.{method}")

    @property
    def expert_sampling(self) -> SamplingSettings:
        """`sampling` with what `expert.sampling` sets."""
        return self.sampling_of("")

    def sampling_of(self, expert: str) -> SamplingSettings:
        """`sampling` with what `expert.sampling` and the expert's own settings set."""
        own = self.expert.sampling.model_dump(exclude_none=True)
        if expert in self.expert.own:
            own |= self.expert.own[expert].sampling.model_dump(exclude_none=True)
        if own.get("temperature") == 0:
            own["top_p"] = 1.0  # a nucleus has no effect on greedy decoding
        return self.sampling.model_copy(update=own)

    @property
    def evaluation_sampling(self) -> SamplingSettings:
        """`sampling` at the temperature of `evaluate`."""
        return self.sampling.model_copy(update={"temperature": self.evaluate.temperature})

    def to_json(self) -> str:
        """The resolved recipe with all defaults; reading it gives an equal recipe."""
        return self.model_dump_json(indent=2) + "\n"


SUFFIXES = (".toml", ".yaml", ".yml", ".json")
"""Endings of a recipe's file."""


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a `.toml`, `.yaml`, `.yml` or `.json` file, with overrides `a.b=value`.

    Raises ConfigError naming the file, the key and the nearest known key.
    """
    data = {"name": Path(path).stem, **_read(Path(path))}
    for override in overrides:
        apply_override(data, override)
    return parse_settings(Recipe, data, source=str(path))


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read recipe `{path}`: {error}") from error
    try:
        data = _parse(text, path)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
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
        return yaml.load(text, _UniqueKeys)  # noqa: S506 – a SafeLoader
    if path.suffix == ".json":
        return json.loads(text, object_pairs_hook=_table)
    raise ConfigError(
        f"cannot read recipe `{path}`", hint="a recipe ends in `.toml`, `.yaml` or `.json`"
    )


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a repeated key; YAML would keep its last value."""


def _construct_mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    # keys that `<<` merges may be repeated: the table's own ones replace them
    own = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
    _refuse_repeated(key.value for key in own if key.tag != "tag:yaml.org,2002:merge")
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)


def _table(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    _refuse_repeated([key for key, _ in pairs])
    return dict(pairs)


def _refuse_repeated(keys: Iterable[str]) -> None:
    """ValueError if a key occurs twice in a table."""
    for key, times in Counter(keys).items():
        if times > 1:
            raise ValueError(f"the key {key!r} occurs twice in one table")


def _changed(group: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A group of settings with changes."""
    unset = {
        name for names in _EXCLUSIVE if names & changes.keys() for name in names - changes.keys()
    }
    return {**{key: value for key, value in group.items() if key not in unset}, **changes}
