"""The location of a model by its name: a directory, a hub id or a shipped student. No torch."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from eef.errors import ModelError

STUDENTS = Path(__file__).parent.parent / "students" / "weights"
BASE_STUDENT = STUDENTS / "base"
_TIMEOUT = 20.0  # seconds
SHIPPED = {"base": "webshop", "base-scienceworld": "scienceworld"}
"""The students shipped with the package, and the environment that each is built for."""


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


def hub_options(source: str, name: str) -> dict[str, Any]:
    """Options of `from_pretrained` for a directory or hub id; `name` is its name in the recipe.

    One request determines whether the hub answers: the libraries would retry for a minute. If it
    does not, only the cache is read. ModelError if the cache does not have the model either.
    """
    if Path(source).is_dir():
        return {}
    from huggingface_hub import constants, get_session, try_to_load_from_cache

    if constants.HF_HUB_OFFLINE:
        return {}
    session = get_session()
    client: Any = import_module(
        type(session).__module__.partition(".")[0]
    )  # httpx or its successor
    try:
        session.head(constants.ENDPOINT, timeout=_TIMEOUT)
    except client.TransportError as error:
        if isinstance(try_to_load_from_cache(source, "config.json"), str):
            return {"local_files_only": True}
        raise ModelError(
            f"model {name!r}: cannot reach the hub at {constants.ENDPOINT} ({error})",
            hint="check the connection, or name the directory of a model",
        ) from error
    return {}


def is_shipped(name: str) -> bool:
    """Whether a name is that of a student shipped with the package: `base`, `base-scienceworld`."""
    return name.partition("-")[0] == "base" and name == Path(name).name
