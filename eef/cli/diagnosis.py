"""Doctor: what this machine has of all that `eef` needs, and the command that mends what is missing."""

from __future__ import annotations

import platform
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from eef import __version__
from eef.envs import textworld_express
from eef.envs.scienceworld import env as scienceworld
from eef.envs.simulators.jvm import (
    INSTALL_HOTSPOT,
    find_jar,
    find_java,
    heeds_constant_hash,
    java_version,
)
from eef.errors import ConfigError, EefError
from eef.utils.compute import available_cores

LIGHT = ("ijson", "numpy", "pydantic", "PyYAML", "rapidfuzz", "regex", "rich", "typer")
TRAIN = ("torch", "transformers", "tokenizers", "peft", "accelerate", "safetensors")
# Package → the extra it comes with.
OPTIONAL = {
    "gymnasium": "gym",
    "openai": "api",
    "pyarrow": "tables",
    "starlette": "serve",
    "uvicorn": "serve",
}
SIMULATORS = ((scienceworld, "scienceworld"), (textworld_express, "textworld"))
STUDENTS = {
    "base": "webshop",
    "base-scienceworld": "scienceworld",
}  # shipped, by what they are made for
OLDEST_PYTHON = (3, 11)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at: what was found, and where it is not `ok` how to mend it. `needed`: a run needs it."""

    name: str
    ok: bool
    found: str
    remedy: str = ""
    needed: bool = True


def diagnose() -> list[Finding]:
    """All findings, the most basic first. Loads torch and the base student where they are there."""
    packages = [_package(name, "pip install -e .") for name in LIGHT]
    packages += [_package(name, "pip install -e '.[train]'") for name in TRAIN]
    findings = [
        _python(),
        Finding("eef", True, __version__),
        Finding("cores", True, str(available_cores())),
        *packages,
    ]
    if all(finding.ok for finding in packages):
        findings += [_torch(), *(_student(name, env) for name, env in STUDENTS.items())]
    optional = [
        _package(name, f"pip install 'eef[{extra}]'", needed=False)
        for name, extra in OPTIONAL.items()
    ]
    simulators = [
        _simulator(each.PACKAGE, each.VERSION, each.JAR, extra) for each, extra in SIMULATORS
    ]
    return [*findings, *optional, _java(), *simulators]


def _python() -> Finding:
    oldest = ".".join(map(str, OLDEST_PYTHON))
    ok = sys.version_info[:2] >= OLDEST_PYTHON
    return Finding(
        "python",
        ok,
        platform.python_version(),
        f"install Python {oldest} or newer, then `make setup`",
    )


def _package(name: str, command: str, *, needed: bool = True) -> Finding:
    try:
        return Finding(name, True, version(name), needed=needed)
    except PackageNotFoundError:
        return Finding(name, False, "not installed", f"`{command}`", needed=needed)


def _torch() -> Finding:
    from eef.models.loading import describe_compute

    return Finding("computing on", True, describe_compute())


def _student(name: str, env: str) -> Finding:
    """A base student of the package: whole, and loaded once."""
    from eef.models.checkpoint import verify_checkpoint
    from eef.models.loading import load_model, locate

    what = f"student `{name}`"
    remedy = f"install `eef` again, or make one for yourself: `eef make-base --env {env} --out DIR`"
    try:
        verify_checkpoint(Path(locate(name)))
        model, _ = load_model(name, device="cpu")
    except EefError as error:
        return Finding(what, False, error.message, remedy)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Finding(what, True, f"{parameters / 1e6:.1f} M parameters")


def _java() -> Finding:
    """Only the environments with a simulator in Java run on it."""
    try:
        java = find_java()
    except ConfigError as error:
        remedy = f"for ScienceWorld and TextWorldExpress: {error.hint}"
        return Finding("java", False, error.message, remedy, needed=False)
    found = f"{java_version(java)} ({java})"
    if not heeds_constant_hash(java):
        return Finding(
            "java",
            False,
            f"{found}, no HotSpot: ScienceWorld refuses it",
            INSTALL_HOTSPOT,
            needed=False,
        )
    return Finding("java", True, found)


def _simulator(package: str, version: str, jar: str, extra: str) -> Finding:
    """A simulator's package in the one version that an environment is made for."""
    try:
        find_jar(package, version, jar)
    except ConfigError as error:
        return Finding(
            package, False, error.message, f"`pip install -e '.[{extra}]'`", needed=False
        )
    return Finding(package, True, version)
