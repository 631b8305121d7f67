"""Where a model's name leads: a directory, a hub id or a shipped student. Needs no torch."""

from __future__ import annotations

from pathlib import Path

from eef.errors import ModelError

STUDENTS = Path(__file__).parent.parent / "students" / "weights"
BASE_STUDENT = STUDENTS / "base"


def locate(name: str) -> str:
    """The directory or hub id of a model's name. ModelError if a path is not a directory.

    >>> locate("hf/org/some-model")
    'org/some-model'
    """
    if is_shipped(name):
        if not (STUDENTS / name).is_dir():
            known = ", ".join(sorted(path.name for path in STUDENTS.iterdir()))
            raise ModelError(f"unknown student {name!r}", hint=f"known students: {known}")
        return str(STUDENTS / name)
    path = Path(name.removeprefix("hf/")).expanduser()
    if path.is_dir():
        return str(path.resolve())
    if path.is_absolute() or name.startswith((".", "~")) or len(path.parts) != 2:
        raise ModelError(
            f"no such model directory `{path}`", hint="a hub id has the form `organization/model`"
        )
    return str(path)


def is_shipped(name: str) -> bool:
    """Whether a name is that of a student shipped with the package: `base`, `base-scienceworld`."""
    return name.partition("-")[0] == "base" and name == Path(name).name
