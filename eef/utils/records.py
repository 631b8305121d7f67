"""Records: dataclasses stored as versioned JSON objects and migrated when they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from typing import Any, ClassVar, Self

from pydantic import ConfigDict, TypeAdapter, ValidationError

from eef.errors import StoreError

Json = dict[str, Any]
Migration = Callable[[Json], Json]

STRICT_FIELDS = ConfigDict(extra="forbid")
"""`__pydantic_config__` of dataclasses inside a record: an unknown field is an error."""


class Record:
    """Base of dataclasses that are written to disk.

    `VERSION` is the version written. `MIGRATIONS[v]` turns the JSON object of version v into one of
    version v + 1; an object without a version has version 0. `KIND` names the record in errors.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True, slots=True)
    ... class Point(Record):
    ...     KIND, VERSION, MIGRATIONS = "point", 2, {1: lambda old: {"y": 0, **old}}
    ...     x: int
    ...     y: int
    >>> Point.from_record({"version": 1, "x": 3})
    Point(x=3, y=0)
    >>> Point(3, 4).to_record()
    {'version': 2, 'x': 3, 'y': 4}
    """

    __slots__ = ()

    KIND: ClassVar[str] = "record"
    VERSION: ClassVar[int] = 1
    MIGRATIONS: ClassVar[Mapping[int, Migration]] = {}
    __pydantic_config__: ClassVar[ConfigDict] = STRICT_FIELDS

    def to_record(self) -> Json:
        """The JSON object, with its version."""
        return {"version": self.VERSION, **self._fields()}

    def _fields(self) -> Json:
        """The fields as JSON values; override to write a shorter form."""
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """The record of a JSON object of any version that can be migrated.

        Raises StoreError naming the version, or the field that is missing, unknown or malformed.
        """
        fields = cls.migrate(record)
        del fields["version"]
        try:
            return cls._parse(fields)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            key = ".".join(map(str, problem["loc"]))
            raise StoreError(
                f"malformed {_name(cls, record)}: `{key}`: {problem['msg']}"
            ) from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StoreError(f"malformed {_name(cls, record)}: {error}") from error

    @classmethod
    def migrate(cls, record: Mapping[str, Any]) -> Json:
        """The JSON object in the current version; what is on disk stays as it is."""
        version = record.get("version", 0)
        oldest = min(cls.MIGRATIONS, default=cls.VERSION)
        if type(version) is not int or not oldest <= version <= cls.VERSION:
            readable = f"{oldest} to {cls.VERSION}" if oldest < cls.VERSION else str(cls.VERSION)
            raise StoreError(
                f"{cls.KIND} record has version {version!r}; this `eef` reads {readable}",
                hint="upgrade `eef`: a newer version wrote this record"
                if isinstance(version, int) and version > cls.VERSION
                else "",
            )
        fields = dict(record)
        for older in range(version, cls.VERSION):
            fields = cls.MIGRATIONS[older](fields)
        return {**fields, "version": cls.VERSION}

    @classmethod
    def _parse(cls, fields: Json) -> Self:
        """The record of the current fields; override to read a shorter form."""
        parsed: Self = _adapter(cls).validate_python(fields)  # type: ignore[arg-type]
        return parsed


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _name(kind: type[Record], record: Mapping[str, Any]) -> str:
    return f"{kind.KIND} record" + (f" {record['id']!r}" if "id" in record else "")
