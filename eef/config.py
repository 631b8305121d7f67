"""Recipe: everything a run needs, as a TOML or YAML file with dotted overrides, checked before anything runs.

Stands above the way of the data: later modules take their settings from here and read no file for them.
Unknown keys are refused with the nearest known one, and so is a setting which would have no effect. The text
below a field is its help; `settings_table` gives them all, for the docs.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from eef.errors import ConfigError

DType = Literal["float32", "bfloat16", "float16"]


class Settings(BaseModel):
    """A group of settings: unknown keys and values of another type are errors, and nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True)


S = TypeVar("S", bound=Settings)


class EnvSettings(Settings):
    """The environment: its name, and beside it whatever settings that environment itself declares."""

    model_config = ConfigDict(extra="allow")

    name: str
    """Which environment (`webshop`); its own settings stand beside the name."""

    @property
    def options(self) -> dict[str, Any]:
        """The environment's own settings, checked where it is made."""
        return dict(self.model_extra or {})


class ApiSettings(Settings):
    """How an OpenAI-compatible server is asked, and what that may cost."""

    base_url: str = "https://api.openai.com/v1"
    """Address of the server, up to and with its `/v1`."""

    key: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key. The key itself stands in no file; on this machine none is
    needed."""

    concurrency: int = Field(default=8, ge=1)
    """Requests under way at once."""

    requests_per_minute: int | None = Field(default=None, ge=1)
    """Requests a minute at most; as many as the server takes when left out."""

    timeout: float = Field(default=120.0, gt=0)
    """Seconds until an answer is given up and asked for again."""

    retries: int = Field(default=6, ge=0)
    """How often a request is sent again (429, 5xx, time-out, empty or malformed answer) before its rollout breaks."""

    backoff: float = Field(default=1.0, ge=0)
    """Seconds before the second attempt, doubled for each further one; what a server asks for (Retry-After) goes
    before."""

    max_requests: int | None = Field(default=None, ge=1)
    """Budget in requests, retries among them; without limit when left out."""

    max_tokens: int | None = Field(default=None, ge=1)
    """Budget in tokens, of prompts and completions together; without limit when left out."""

    max_cost: float | None = Field(default=None, gt=0)
    """Budget in money, in the currency of the prices; without limit when left out."""

    prompt_price: float = Field(default=0.0, ge=0)
    """Price of a million prompt tokens."""

    completion_price: float = Field(default=0.0, ge=0)
    """Price of a million completion tokens."""

    @model_validator(mode="after")
    def _holds_no_secret(self) -> ApiSettings:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.key):
            raise ValueError("`key` is the name of an environment variable, never the key itself")
        address = urlsplit(self.base_url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ValueError("`base_url` is no address (`http://127.0.0.1:8000/v1`)")
        if address.username or address.password or address.query:
            raise ValueError("`base_url` holds a user, a password or a query; keys come from the environment alone")
        if self.max_cost is not None and not (self.prompt_price or self.completion_price):
            raise ValueError("`max_cost` has no effect without `prompt_price` or `completion_price`")
        return self


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


class LoraSettings(Settings):
    """Low-rank adapters: the base weights stay as they are."""

    rank: int = Field(default=16, ge=1)
    """Rank of the update of each adapted matrix."""

    alpha: float = Field(default=32.0, gt=0)
    """The update is scaled by alpha / rank."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the input of the adapters."""

    targets: tuple[str, ...] = Field(default=("all-linear",), strict=False, min_length=1)
    """Names of the adapted modules; `all-linear` alone stands for every linear layer."""


class ModelSettings(Settings):
    """The student before any training."""

    name: str = "base"
    """`hf/<path or hub id>`, a directory, or a small student that comes with `eef`: `base` (the generated shop's),
    `base-scienceworld`."""

    dtype: DType = "float32"
    """Number format of the weights."""

    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1` …; `auto` takes a GPU where there is one."""

    lora: LoraSettings | None = None
    """Train adapters instead of all weights; all weights when left out."""


class ChatSettings(Settings):
    """How a conversation becomes token ids and loss weights."""

    loss_on: Literal["completion", "action"] = "completion"
    """Train on thought and action (the whole completion), or on the action alone."""

    max_length: int | None = Field(default=None, ge=1)
    """Tokens of a training example at most; longer ones are left out and counted, never cut."""


class SamplingSettings(Settings):
    """How the student draws its completions while it explores."""

    temperature: float = Field(default=0.7, ge=0)
    """Temperature of exploration; 0 is greedy."""

    top_p: float = Field(default=1.0, gt=0, le=1)
    """Least probability mass that is sampled from."""

    max_tokens: int = Field(default=256, ge=1)
    """Tokens of a completion at most."""

    @model_validator(mode="after")
    def _greedy_has_no_nucleus(self) -> SamplingSettings:
        if self.temperature == 0 and self.top_p != 1:
            raise ValueError("`top_p` has no effect at temperature 0; leave it out")
        return self


class RolloutSettings(Settings):
    """How episodes are played."""

    batch_size: int = Field(default=32, ge=1)
    """Episodes played side by side."""

    step_limit: int | None = Field(default=None, ge=1)
    """Steps of an episode at most; the environment's own limit when left out."""

    fresh_limit: bool = False
    """Give a rollout from an expert's state the whole step limit, not what the prefix leaves of it."""


class TaskSettings(Settings):
    """Which tasks of the environment's splits are used."""

    train: int | None = Field(default=None, ge=1)
    """Number of training tasks; all when left out."""

    test: int | None = Field(default=None, ge=1)
    """Number of test tasks; all when left out."""

    seed: int | None = None
    """Shuffle the tasks with this seed before the first are taken; the environment's order when left out."""


class TrainSettings(Settings):
    """Supervised fine-tuning of one round."""

    updates: int | None = Field(default=None, ge=1)
    """Optimizer updates of a round (instead of `epochs`)."""

    epochs: float | None = Field(default=None, gt=0)
    """Passes over the examples of a round; 3 where `updates` is not set either."""

    batch_size: int = Field(default=16, ge=1)
    """Examples an update."""

    micro_tokens: int = Field(default=8192, ge=1)
    """Tokens of a forward pass at most, padding included: memory alone, the result does not depend on it."""

    learning_rate: float = Field(default=2e-5, gt=0)
    """Highest learning rate."""

    warmup: float = Field(default=0.03, ge=0, lt=1)
    """Part of the updates over which the learning rate rises."""

    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Learning rate after the warm-up."""

    weight_decay: float = Field(default=0.0, ge=0)
    """Weight decay of AdamW."""

    max_grad_norm: float = Field(default=1.0, gt=0)
    """Longer gradients are scaled down to this norm."""

    dtype: DType = "float32"
    """Number format of the forward and backward pass."""

    seed: int = 0
    """Seed of the order of examples and of dropout; the recipe's `seed` when left out."""

    save_every: int | None = Field(default=None, ge=1)
    """Updates between two points to resume from; none when left out."""

    threads: int | None = Field(default=None, ge=1)
    """CPU threads of each process; when left out all cores, shared by the methods worked on side by side (`jobs`)."""

    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, more time."""

    start: Literal["base", "last"] = "base"
    """Each round trains the base model on all that is selected, or goes on from the last checkpoint."""

    @model_validator(mode="before")
    @classmethod
    def _updates_or_epochs(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        updates, epochs = data.get("updates"), data.get("epochs")
        if updates is not None and epochs is not None:
            raise ValueError("`updates` and `epochs` both say how long to train; leave one out")
        return {**data, "epochs": 3.0} if updates is None and epochs is None else data


class DpoSettings(Settings):
    """Training on preference pairs (DPO), for methods that have such; `train` says the rest."""

    beta: float = Field(default=0.1, gt=0)
    """How closely the student is held to the frozen reference, itself as it was before the first pair."""

    learning_rate: float = Field(default=1e-6, gt=0)
    """Highest learning rate; pairs take a much lower one than examples."""

    share: float = Field(default=0.5, gt=0, lt=1)
    """Part of a round's `train.updates` that goes to pairs where a method has examples too (they come first)."""


class EvaluateSettings(Settings):
    """How tasks are played after each round; `sampling` gives the rest (`max_tokens`, `top_p`)."""

    split: str = "test"
    """Split that is played."""

    temperature: float = Field(default=0.0, ge=0)
    """Temperature of evaluation; 0 is greedy."""


class BudgetSettings(Settings):
    """What the methods of a run have as much of. Without any of these each plays what it plans, and the report shows
    what it took. Methods that explore nothing (`bc`, `sft_all`, `nat`) have none."""

    rollouts_per_task: int | None = Field(default=None, ge=1)
    """Rollouts of a round for each training task, of each method that explores: what it plans is played in turns of
    one rollout a task, begun anew when it is through, until the round is full. A method that plays some of the tasks
    alone (`ipr`, `atlas`: those an expert won) has as many rollouts in all, so more for each of them."""

    rollouts: int | None = Field(default=None, ge=1)
    """The same as rollouts of all tasks together."""

    tokens: int | None = Field(default=None, ge=1)
    """The same by tokens that the student generates. The round is full with the batch that reaches them; batches
    shrink towards the end, but let the tokens be worth several `rollouts.batch_size`."""

    @model_validator(mode="after")
    def _one_measure(self) -> BudgetSettings:
        given = [name for name in ("rollouts_per_task", "rollouts", "tokens") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"`{given[0]}` and `{given[1]}` both say when a round is full; leave one out")
        return self

    def of_round(self, tasks: int) -> BudgetSettings:
        """The same for a round of so many training tasks: in `rollouts` or `tokens`, or empty."""
        if self.rollouts_per_task is None:
            return self
        return BudgetSettings(rollouts=self.rollouts_per_task * tasks)


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

    options: dict[str, dict[str, Any]] = {}
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
                raise ValueError(f"`options.{name}` has no effect: `methods` does not name {name!r}")
        return self

    @property
    def evaluation_sampling(self) -> SamplingSettings:
        """`sampling` at the temperature of evaluation."""
        return self.sampling.model_copy(update={"temperature": self.evaluate.temperature})

    def to_json(self) -> str:
        """The resolved recipe, every default written out; read again it gives an equal recipe."""
        return self.model_dump_json(indent=2) + "\n"


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a `.toml`, `.yaml`, `.yml` or `.json` file, with overrides `a.b=value` laid over it.

    Raises ConfigError naming the file, the key and the nearest known key.
    """
    data = _read(path)
    for override in overrides:
        apply_override(data, override)
    return parse_settings(Recipe, data, source=str(path))


def parse_settings(kind: type[S], data: Mapping[str, Any], *, source: str) -> S:
    """Plain data as settings of a kind.

    Raises ConfigError, one line that begins with `source` and names the key and the value which do not fit.
    """
    try:
        return kind.model_validate(dict(data))
    except ValidationError as error:
        raise _config_error(kind, error, source) from None


def apply_override(data: dict[str, Any], override: str) -> None:
    """Lay `a.b=value` over plain data, in place. The value is read as TOML; what is not TOML is a string.

    `null` takes a setting back to "left out", which TOML cannot say.

    >>> data = {"train": {"updates": 5}}
    >>> apply_override(data, "train.updates=20"); apply_override(data, "name=first try"); data
    {'train': {'updates': 20}, 'name': 'first try'}
    """
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(f"override `{override}` is not `key=value`", hint="for example `train.updates=200`")
    table = data
    for depth, part in enumerate(parts[:-1], start=1):
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"override `{override}`: `{'.'.join(parts[:depth])}` is a value, not a table")
    table[parts[-1]] = _toml_value(text.strip())


def _toml_value(text: str) -> Any:
    if text == "null":
        return None
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read recipe `{path}`: {error}") from error
    try:
        data = _parse(text, path)
    except (tomllib.TOMLDecodeError, yaml.YAMLError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: not valid {path.suffix[1:]}: {' '.join(str(error).split())}") from error
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
    raise ConfigError(f"cannot read recipe `{path}`", hint="a recipe ends in `.toml`, `.yaml` or `.json`")


class SettingRow(NamedTuple):
    """One setting as the docs show it; `default` is "required" where there is none."""

    key: str
    type: str
    default: str
    description: str


def settings_table(kind: type[Settings], prefix: str = "") -> list[SettingRow]:
    """Every setting of a kind and of the groups inside it, dotted, in the order of declaration."""
    rows: list[SettingRow] = []
    for name, field in kind.model_fields.items():
        group = _group_in(field.annotation)
        if group is not None:
            rows += settings_table(group, f"{prefix}{name}.")
        else:
            default = "required" if field.is_required() else json.dumps(field.default)
            type_name, help_text = _type_name(field.annotation), field.description or ""
            rows.append(SettingRow(prefix + name, type_name, default, help_text))
    return rows


def suggestion(name: str, known: Collection[str]) -> str:
    """The hint beside an unknown name: the nearest known one, else all of them."""
    like = nearest(name, list(known))
    return f"did you mean {like!r}?" if like else f"there are: {', '.join(known)}"


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The known word most like `word`; None where none is like it."""
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.5)), None)


def _config_error(kind: type[Settings], error: ValidationError, source: str) -> ConfigError:
    """The first problem as one line; an unknown key comes first, for it often is the cause of the others."""
    problems = error.errors(include_url=False)
    problem = next((item for item in problems if item["type"] == "extra_forbidden"), problems[0])
    key = ".".join(str(part) for part in problem["loc"])
    where = f"{source}: `{key}`" if key else source
    if problem["type"] == "extra_forbidden":
        return ConfigError(f"{where} is no known setting", hint=_hint_for_unknown(kind, key))
    if problem["type"] == "missing":
        return ConfigError(f"{where} is missing", hint="set it: it has no default")
    if problem["type"] == "value_error":
        return ConfigError(f"{where}: {problem['msg'].removeprefix('Value error, ')}")
    message = re.sub(r"(?<=valid )(dictionary.*|tuple)", _toml_word, problem["msg"])
    return ConfigError(f"{where} is {problem['input']!r}: {message[0].lower()}{message[1:]}")


def _toml_word(match: re.Match[str]) -> str:
    return "list" if match[1] == "tuple" else "table"


def _hint_for_unknown(kind: type[Settings], key: str) -> str:
    """The nearest key in the same table, else the nearest by its last word in any table."""
    table, _, word = key.rpartition(".")
    keys = _known_keys(kind)
    siblings = {last: known for known, last in keys if known == (f"{table}.{last}" if table else last)}
    anywhere = {last: known for known, last in reversed(keys)}  # the first group that has the word
    for choices in (siblings, anywhere):
        found = nearest(word, list(choices))
        if found is not None:
            return f"did you mean `{choices[found]}`?"
    return f"known here: {', '.join(siblings)}"


def _known_keys(kind: type[Settings], prefix: str = "") -> list[tuple[str, str]]:
    """(dotted key, last word) of every setting and every group."""
    keys: list[tuple[str, str]] = []
    for name, field in kind.model_fields.items():
        keys.append((prefix + name, name))
        group = _group_in(field.annotation)
        if group is not None:
            keys += _known_keys(group, f"{prefix}{name}.")
    return keys


def _group_in(annotation: Any) -> type[Settings] | None:
    """The group of settings in an annotation: `LoraSettings` of `LoraSettings | None`."""
    for item in _members(annotation):
        if isinstance(item, type) and issubclass(item, Settings):
            return item
    return None


def _members(annotation: Any) -> tuple[Any, ...]:
    return typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)


def _type_name(annotation: Any) -> str:
    if isinstance(annotation, types.UnionType):
        return " or ".join(_type_name(item) for item in _members(annotation) if item is not types.NoneType)
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return " or ".join(f"`{item}`" for item in typing.get_args(annotation))
    if origin is tuple:
        return f"list of {_type_name(typing.get_args(annotation)[0])}s"
    names = {str: "string", int: "integer", float: "number", bool: "boolean", dict: "table"}
    return names[origin or annotation]
