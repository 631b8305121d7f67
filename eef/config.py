"""Settings: the base class of every settings group, overrides, and the table the documentation is made from.

A `Settings` class lives beside its owner. Unknown keys are refused with the nearest known key, and so is a setting that
would have no effect. The docstring below a field is its help text.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from eef.errors import ConfigError


class Settings(BaseModel):
    """A group of settings: unknown keys and values of another type are errors, and nothing changes later."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )


S = TypeVar("S", bound=Settings)


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
        raise ConfigError(
            f"override `{override}` is not `key=value`", hint="for example `train.updates=200`"
        )
    table = data
    for depth, part in enumerate(parts[:-1], start=1):
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(
                f"override `{override}`: `{'.'.join(parts[:depth])}` is a value, not a table"
            )
    table[parts[-1]] = _toml_value(text.strip())


def _toml_value(text: str) -> Any:
    if text == "null":
        return None
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text


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
    siblings = {
        last: known for known, last in keys if known == (f"{table}.{last}" if table else last)
    }
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
        return " or ".join(
            _type_name(item) for item in _members(annotation) if item is not types.NoneType
        )
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return " or ".join(f"`{item}`" for item in typing.get_args(annotation))
    if origin is tuple:
        return f"list of {_type_name(typing.get_args(annotation)[0])}s"
    names = {str: "string", int: "integer", float: "number", bool: "boolean", dict: "table"}
    return names[origin or annotation]
