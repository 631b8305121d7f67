"""Settings: the base class of every group of settings, overrides, errors, and the table of
settings.

Each owner declares its `Settings` class beside it. Unknown keys are refused with the most similar
known key, and so is a setting that would have no effect. The docstring below a field is its help
text.
"""

from __future__ import annotations

import difflib
import json
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Strict, ValidationError

from eef.errors import ConfigError, EefError

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails


class Settings(BaseModel):
    """A group of settings. It is immutable; unknown keys and values of another type are errors."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )


class SettingError(ValueError):
    """A value that a validator refuses. `hint` is the way out, or empty."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


S = TypeVar("S", bound=Settings)
T = TypeVar("T")
ListOf = Annotated[tuple[T, ...], Strict(False)]
"""A list in a recipe, as one of several types of a setting: `str | ListOf[str]`."""


def parse_settings(kind: type[S], data: Mapping[str, Any], *, source: str) -> S:
    """Settings from plain data.

    Raises ConfigError: one line that starts with `source` and names the key and its value.
    """
    try:
        return kind.model_validate(dict(data))
    except ValidationError as error:
        raise _config_error(kind, data, error, source) from None
    except UnicodeEncodeError as error:  # pydantic cannot report a problem with such a key
        raise ConfigError(
            f"{source}: a key contains {error.object[error.start]!r}, which is half of a character",
            hint=f"correct it; the problem is: {error.object!r}",
        ) from None


def apply_override(data: dict[str, Any], override: str) -> None:
    """Set `a.b=value` in plain data, in place. The value is parsed as TOML; if
    that fails, it is a string.

    `null`, which TOML does not have, removes a setting or a group, so that it has its default.
    ConfigError if the override has another form.

    >>> data = {"train": {"updates": 5}}
    >>> apply_override(data, "train.updates=20"); apply_override(data, "name=first try"); data
    {'train': {'updates': 20}, 'name': 'first try'}
    >>> apply_override(data, "train=null"); data
    {'name': 'first try'}
    """
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(
            f"override `{override}` is not `key=value`", hint="for example `train.updates=200`"
        )
    value = _toml_value(text.strip())
    table = data
    for depth, part in enumerate(parts[:-1], start=1):
        if table.get(part) is None:  # missing, or an optional group that is unset
            if value is None:
                return
            table[part] = {}
        table = table[part]
        if not isinstance(table, dict):
            raise ConfigError(
                f"override `{override}`: `{'.'.join(parts[:depth])}` is a value, not a table"
            )
    if value is None:
        table.pop(parts[-1], None)
    else:
        table[parts[-1]] = value


def _toml_value(text: str) -> Any:
    if text == "null":
        return None
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):  # not TOML, or too long a number, or nested too deeply
        return text
    return parsed["value"] if len(parsed) == 1 else text


class SettingRow(NamedTuple):
    """One setting as the documentation shows it; `default` is "required" if it has none."""

    key: str
    type: str
    default: str
    description: str


def settings_table(kind: type[Settings], prefix: str = "") -> list[SettingRow]:
    """Every setting of a class and of the groups inside it, with dotted keys, in order."""
    rows: list[SettingRow] = []
    for name, field in kind.model_fields.items():
        group = _group_in(field.annotation)
        if group is not None:
            rows += settings_table(group, f"{prefix}{name}.")
        else:
            default = "required" if field.is_required() else json.dumps(_shown_default(field))
            type_name, help_text = _type_name(field.annotation), field.description or ""
            rows.append(SettingRow(prefix + name, type_name, default, help_text))
    return rows


def _shown_default(field: FieldInfo) -> Any:
    """A field's default, or what `json_schema_extra` has in its place: null for a setting that by
    default takes the value of another."""
    extra = field.json_schema_extra
    return extra.get("default", field.default) if isinstance(extra, dict) else field.default


def unknown_name(
    thing: str, name: str, known: Iterable[str], *, error: type[EefError] = ConfigError
) -> EefError:
    """The error for a name that is not known, with the most similar known name as its hint, or all
    of them.

    >>> problem = unknown_name("method", "efe", ["bc", "eef"])
    >>> problem.message, problem.hint
    ("unknown method 'efe'", "did you mean 'eef'?")
    >>> unknown_name("split", "dev", ["train", "test"]).hint
    'known splits: train, test'
    """
    names = list(known)
    similar = most_similar(name, names)
    hint = f"did you mean {similar!r}?" if similar else f"known {thing}s: {', '.join(names)}"
    return error(f"unknown {thing} {name!r}", hint=hint)


def most_similar(name: str, known: Sequence[str], *, cutoff: float = 0.65) -> str | None:
    """The known name most similar to `name` regardless of case, or None if none is similar enough.

    >>> most_similar("m", ["M", "grid"])
    'M'
    """
    folded = {each.casefold(): each for each in reversed(known)}  # the first of equal names
    similar = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=cutoff)
    return folded[similar[0]] if similar else None


def describe_problems(problems: Sequence[ErrorDetails]) -> str:
    """The problems that a validation found with one value, as `0; expected 1 or more`.

    A value that may have several types has one problem for each of them.
    """
    value = repr(problems[0]["input"])
    expected = dict.fromkeys(
        _EXPECTED[problem["type"]].format(**problem.get("ctx", {}))
        for problem in problems
        if problem["type"] in _EXPECTED
    )
    if expected:
        return f"{value}; expected {' or '.join(expected)}"
    message = problems[0]["msg"].removeprefix("Value error, ")
    return f"{value}: {message[:1].lower()}{message[1:]}"


_EXPECTED = {
    "greater_than_equal": "{ge:g} or more",
    "greater_than": "more than {gt:g}",
    "less_than_equal": "{le:g} or less",
    "less_than": "less than {lt:g}",
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "string_type": "a string",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "literal_error": "{expected}",
    "too_short": "at least {min_length} item",
    "too_long": "at most {max_length} items",
    "string_too_short": "at least {min_length} character",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
}
"""The value that pydantic expected, by its type of error."""


def _config_error(
    kind: type[Settings], data: Mapping[str, Any], error: ValidationError, source: str
) -> ConfigError:
    """The first problem in one line. An unknown key comes first: it often causes the others."""
    problems = error.errors(include_url=False)
    problem = next((item for item in problems if item["type"] == "extra_forbidden"), problems[0])
    if problem["type"] == "extra_forbidden":
        key = _dotted(problem["loc"])
        return ConfigError(f"{source}: unknown setting {key!r}", hint=_hint_for_unknown(kind, key))
    if problem["type"] == "missing":
        return ConfigError(
            f"{source}: `{_dotted(problem['loc'])}` is missing", hint="set it: it has no default"
        )
    key = _dotted(_keys_in(data, problem["loc"]))
    where = f"{source}: `{key}`" if key else source
    if problem["type"] == "value_error":
        reason = problem["ctx"]["error"]
        hint = reason.hint if isinstance(reason, SettingError) else ""
        return ConfigError(f"{where}: {reason}", hint=hint)
    same = [item for item in problems if _dotted(_keys_in(data, item["loc"])) == key]
    return ConfigError(f"{where} is {describe_problems(same)}", hint=_hint_for_value(same))


def _hint_for_value(problems: Sequence[ErrorDetails]) -> str:
    """The list that was meant by a single value; "" if another type is expected.

    >>> _hint_for_value([{"type": "tuple_type", "input": "bc,eef", "loc": (), "msg": ""}])
    'write a list: `["bc", "eef"]`'
    >>> _hint_for_value([{"type": "tuple_type", "input": '["bc"', "loc": (), "msg": ""}])
    'the list is not closed: add `]`'
    """
    value = problems[0]["input"]
    if not any(problem["type"] in ("tuple_type", "list_type") for problem in problems):
        return ""
    if isinstance(value, str) and value.startswith("[") and "]" not in value:
        return "the list is not closed: add `]`"
    if isinstance(value, str):
        parts = [part.strip() for part in value.strip("[]()").split(",")]
        return f"write a list: `{json.dumps([part for part in parts if part])}`"
    if isinstance(value, int | float):
        return f"write a list: `{json.dumps([value])}`"
    return ""


def _dotted(location: Iterable[int | str]) -> str:
    return ".".join(map(str, location))


def _keys_in(data: Any, location: tuple[int | str, ...]) -> Iterator[int | str]:
    """The part of a problem's location that is in the data; a name of a type may follow it."""
    for part in location:
        if not isinstance(data, Mapping | list | tuple):
            return
        try:
            data = data[part]  # type: ignore[index]
        except (LookupError, TypeError):
            return
        yield part


RENAMED = {
    "expert_states": "expert_filter",
    "fresh_limit": "reset_step_limit",
    "launch": "branch_from",
    "micro_tokens": "max_tokens_per_microbatch",
    "ok_rule": "label_rule",
    "start": "init_from",
    "warmup": "warmup_ratio",
}
"""Former last word of a setting → the one that replaced it, for recipes of earlier versions."""


def _hint_for_unknown(kind: type[Settings], key: str) -> str:
    """The most similar key in the same table, or one in any table with nearly that last word."""
    table, _, word = key.rpartition(".")
    keys = _known_keys(kind)
    siblings = {
        last: known for known, last in keys if known == (f"{table}.{last}" if table else last)
    }
    if RENAMED.get(word) in siblings:
        return f"it is named {siblings[RENAMED[word]]!r} now"
    if similar := most_similar(word, list(siblings)):
        return f"did you mean {siblings[similar]!r}?"
    anywhere = {last: known for known, last in reversed(keys)}  # the first group that has the word
    if similar := most_similar(word, list(anywhere), cutoff=0.85):
        return f"did you mean {anywhere[similar]!r}?"
    return f"known settings: {', '.join(siblings)}"


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
    """The group of settings in an annotation: `LoraSettings` in `LoraSettings | None`."""
    for item in _members(annotation):
        if isinstance(item, type) and issubclass(item, Settings):
            return item
    return None


def _members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; the annotation itself if it is not one."""
    return typing.get_args(annotation) if _is_union(annotation) else (annotation,)


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (types.UnionType, typing.Union)


def _type_name(annotation: Any) -> str:
    if _is_union(annotation):
        return " or ".join(
            _type_name(item) for item in _members(annotation) if item is not types.NoneType
        )
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return _type_name(typing.get_args(annotation)[0])
    if origin is Literal:
        return " or ".join(f"`{item}`" for item in typing.get_args(annotation))
    if origin is tuple:
        item = _type_name(typing.get_args(annotation)[0])
        return f"list of {item}" if item.endswith("`") else f"list of {item}s"
    names = {str: "string", int: "integer", float: "number", bool: "boolean", dict: "table"}
    return names[origin or annotation]


def check_address(name: str, url: str) -> None:
    """ValueError if a setting is not an address of a server, or if it holds a secret."""
    address = urlsplit(url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ValueError(f"`{name}` is not an address like `http://127.0.0.1:8000`: {url!r}")
    if address.username or address.password or address.query:
        raise ValueError(
            f"`{name}` holds a user, a password or a query; keys come from the environment"
        )
