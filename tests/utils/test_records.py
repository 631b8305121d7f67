"""Records: versions, migrations, and errors that name the version or the field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest

from eef.errors import StoreError
from eef.utils.records import STRICT_FIELDS, Record


@dataclass(frozen=True, slots=True)
class Inner:
    __pydantic_config__: ClassVar = STRICT_FIELDS

    x: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer(Record):
    """0 → 1 renames `label` to `id`; 1 → 2 adds `inner`."""

    KIND: ClassVar[str] = "outer"
    VERSION: ClassVar[int] = 2
    MIGRATIONS: ClassVar = {
        0: lambda old: {"id": old["label"]},
        1: lambda old: {**old, "inner": {"x": 0}},
    }

    id: str
    inner: Inner
    items: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Plain(Record):
    x: int


@dataclass(frozen=True, slots=True)
class Short(Record):
    """Is written in a form of its own."""

    x: int
    y: int

    def _fields(self):
        return {"xy": [self.x, self.y]}

    @classmethod
    def _parse(cls, fields):
        x, y = fields["xy"]
        return cls(x, y)


CURRENT = {"version": 2, "id": "a", "inner": {"x": 3}, "items": [1, 2]}


def test_a_record_is_read_back():
    record = Outer(id="a", inner=Inner(3), items=(1, 2))
    assert record.to_record() == {**CURRENT, "items": (1, 2)}
    assert Outer.from_record(CURRENT) == record
    assert Outer.from_record(record.to_record()) == record


@pytest.mark.parametrize(
    "old", [{"label": "a"}, {"version": 0, "label": "a"}, {"version": 1, "id": "a"}]
)
def test_older_versions_are_migrated_step_by_step(old):
    before = dict(old)
    assert Outer.from_record(old) == Outer(id="a", inner=Inner(0))
    assert old == before, "the object itself is not changed"


def test_migrate_returns_the_current_version():
    assert Outer.migrate({"label": "a"}) == {"version": 2, "id": "a", "inner": {"x": 0}}
    assert Outer.migrate(CURRENT) == CURRENT


@pytest.mark.parametrize("version", [-1, 3, "2", None, 2.0, True])
def test_an_unreadable_version_is_an_error(version):
    with pytest.raises(StoreError) as caught:
        Outer.from_record({**CURRENT, "version": version})
    assert caught.value.message == (
        f"outer record has version {version!r}; this `eef` reads 0 to 2"
    )
    assert ("upgrade" in caught.value.hint) == (version == 3)


def test_without_migrations_only_the_current_version_is_readable():
    assert Plain.from_record({"version": 1, "x": 3}) == Plain(3)
    with pytest.raises(StoreError, match=r"has version 0; this `eef` reads 1$"):
        Plain.from_record({"x": 3})


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"inner": {"x": "three"}}, "malformed outer record 'a': `inner.x`: "),
        ({"inner": {}}, "malformed outer record 'a': `inner.x`: Field required"),
        ({"inner": {"x": 3, "y": 4}}, "malformed outer record 'a': `inner.y`: "),
        ({"items": [1, "b"]}, "malformed outer record 'a': `items.1`: "),
        ({"more": 1}, "malformed outer record 'a': `more`: "),
    ],
)
def test_a_malformed_field_is_an_error_with_its_key(change, problem):
    with pytest.raises(StoreError) as caught:
        Outer.from_record({**CURRENT, **change})
    assert caught.value.message.startswith(problem)


def test_a_record_without_an_id_is_named_by_its_kind():
    with pytest.raises(StoreError, match=r"^malformed record record: `x`: "):
        Plain.from_record({"version": 1})


@pytest.mark.parametrize("fields", [{}, {"xy": [1]}, {"xy": 3}])
def test_a_form_of_its_own_that_cannot_be_parsed_is_an_error(fields):
    assert Short.from_record(Short(1, 2).to_record()) == Short(1, 2)
    assert Short(1, 2).to_record() == {"version": 1, "xy": [1, 2]}
    with pytest.raises(StoreError, match=r"^malformed record record: "):
        Short.from_record({"version": 1, **fields})
