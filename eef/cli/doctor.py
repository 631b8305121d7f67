"""`eef doctor`: check what is installed on this machine."""

from __future__ import annotations

import json
import math
import platform
import re
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import typer
from rich.text import Text

from eef import __version__
from eef.cli.console import plain_table, print_err, stdout_console
from eef.envs import registry as environments
from eef.envs import textworld_express
from eef.envs.scienceworld import env as scienceworld
from eef.envs.simulators.jvm import (
    INSTALL_HOTSPOT,
    accepts_constant_hash,
    find_jar,
    find_java,
    java_version,
)
from eef.envs.webshop.nouns import PUBLISHED, installed_models
from eef.envs.workflow.sandbox import check_sandbox
from eef.errors import ConfigError, EefError
from eef.importers import formats
from eef.methods import registry as methods
from eef.models.location import SHIPPED, STUDENTS
from eef.models.manifest import verify_checkpoint, weight_files
from eef.report.formatting import count_of
from eef.utils.compute import available_cores, process_settings

OLDEST_PYTHON = (3, 11)
SIMULATORS = ((scienceworld, "scienceworld"), (textworld_express, "textworld"))
"""Module of a simulator → the extra that installs it."""

_HIDDEN_EXTRAS = ("dev", "spacy", *(extra for _, extra in SIMULATORS))
_REQUIREMENT = re.compile(r"""([\w.-]+).*?(?:extra == ['"](\w+)['"])?$""")


@dataclass(frozen=True, slots=True)
class MachineCheck:
    """One thing that was checked. `remedy` fixes it if it is not `ok`; runs need it if `needed`."""

    name: str
    ok: bool
    found: str
    remedy: str = ""
    needed: bool = True


def doctor() -> None:
    """Check what is installed on this machine.

    Prints Python, packages, the device that torch computes on, the base students of the package,
    Java with its simulators, the sandbox of workflows, and the plugins of other packages; then one
    command for each thing that is missing. Exit status 2 if something is missing that every run
    needs.

    Example: `eef doctor`
    """
    with process_settings(available_cores()):
        checks = check_machine()
    table = plain_table(header=False)
    for check in checks:
        missing = ("missing", "red") if check.needed else ("optional", "yellow")
        mark, color = ("ok", "green") if check.ok else missing
        table.add_row(check.name, Text(mark, style=color), Text(check.found))
    stdout_console().print(table)
    problems = [check for check in checks if not check.ok]
    for check in problems:
        print_err(f"{check.name}: {check.remedy}")
    if any(check.needed for check in problems):
        raise typer.Exit(2)


def check_machine() -> list[MachineCheck]:
    """All checks, the most basic first. Imports torch if it is installed, but no model."""
    packages = list(_packages())
    checks = [
        _python(),
        MachineCheck("eef", True, __version__),
        MachineCheck("cores", True, str(available_cores())),
        *(check for check in packages if check.needed),
    ]
    if any(check.name == "torch" and check.ok for check in packages):
        checks.append(_torch())
    checks += [_student(name, env) for name, env in SHIPPED.items()]
    checks += [check for check in packages if not check.needed]
    simulators = [
        _simulator(each.PACKAGE, each.VERSION, each.JAR, extra) for each, extra in SIMULATORS
    ]
    return [*checks, _noun_tagger(), _java(), *simulators, _sandbox(), *_plugins()]


def _plugins() -> Iterator[MachineCheck]:
    """Environments, methods and formats of other packages, each imported."""
    for plugins in (environments.PLUGINS, methods.PLUGINS, formats.PLUGINS):
        for plugin, problem in plugins.problems():
            label = f"{plugins.thing} `{plugin.name}`"
            if problem is None:
                yield MachineCheck(label, True, str(plugin))
            else:
                yield MachineCheck(label, False, problem.message, problem.hint, needed=False)


def _python() -> MachineCheck:
    oldest = ".".join(map(str, OLDEST_PYTHON))
    ok = sys.version_info[:2] >= OLDEST_PYTHON
    return MachineCheck(
        "python", ok, platform.python_version(), f"install Python {oldest} or newer"
    )


def _sandbox() -> MachineCheck:
    """Whether workflows can be confined (the environment `workflow`)."""
    label = "sandbox of `workflow`"
    try:
        check_sandbox()
    except ConfigError as error:
        return MachineCheck(label, False, error.message, error.hint, needed=False)
    return MachineCheck(label, True, "a workflow ran in it")


def _packages() -> Iterator[MachineCheck]:
    """The packages that `eef` requires, and those of its extras; a run needs those of `train`."""
    for requirement in requires("eef") or ():
        match = _REQUIREMENT.match(requirement)
        assert match is not None, requirement
        name, extra = match[1], match[2]
        if extra in _HIDDEN_EXTRAS:
            continue
        command = f"pip install 'eef[{extra}]'" if extra else "pip install eef"
        try:
            yield MachineCheck(name, True, version(name), needed=extra in (None, "train"))
        except PackageNotFoundError:
            needed = extra in (None, "train")
            yield MachineCheck(name, False, "not installed", f"`{command}`", needed=needed)


def _torch() -> MachineCheck:
    """The device that `device = "auto"` takes."""
    try:
        import torch
    except ImportError as error:
        return MachineCheck("device", False, f"torch: {error}", "`pip install 'eef[train]'`")
    if torch.cuda.is_available():
        return MachineCheck("device", True, f"GPU {torch.cuda.get_device_name()}")
    return MachineCheck("device", True, f"CPU, {count_of(torch.get_num_threads(), 'thread')}")


def _student(name: str, env: str) -> MachineCheck:
    """A base student of the package, whose files must be those of its manifest."""
    label = f"student `{name}`"
    remedy = f"install `eef` again, or build one: `eef model build --env {env} --out DIR`"
    directory = STUDENTS / name
    try:
        verify_checkpoint(directory)
        parameters = sum(_count_parameters(file) for file in weight_files(directory))
    except (EefError, OSError) as error:
        return MachineCheck(label, False, str(error), remedy)
    return MachineCheck(label, True, f"{parameters / 1e6:.1f} M parameters")


def _count_parameters(path: Path) -> int:
    """The number of weights in a safetensors file, from its header."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return sum(math.prod(tensor["shape"]) for tensor in header.values())


def _noun_tagger() -> MachineCheck:
    """The noun tagger of WebShop's reward; published numbers are based on one spaCy model."""
    label, models = "noun tagger", installed_models()
    remedy = (
        f"to compare WebShop's reward with published numbers: `pip install 'eef[spacy]'`, then "
        f"`python -m spacy download {PUBLISHED}`"
    )
    if not models:
        found = "word lists: WebShop's `r_type` differs for 2 to 5 % of product pairs"
        return MachineCheck(label, False, found, remedy, needed=False)
    return MachineCheck(label, models[0] == PUBLISHED, f"`{models[0]}`", remedy, needed=False)


def _java() -> MachineCheck:
    """Java, which only the simulators need."""
    try:
        java = find_java()
    except ConfigError as error:
        remedy = f"for ScienceWorld and TextWorldExpress: {error.hint}"
        return MachineCheck("java", False, error.message, remedy, needed=False)
    found = f"{java_version(java)} ({java})"
    if not accepts_constant_hash(java):
        found = f"{found}, not HotSpot: ScienceWorld refuses it"
        return MachineCheck("java", False, found, INSTALL_HOTSPOT, needed=False)
    return MachineCheck("java", True, found)


def _simulator(package: str, version: str, jar: str, extra: str) -> MachineCheck:
    """A simulator's package, in the version that its environment supports."""
    try:
        find_jar(package, version, jar)
    except ConfigError as error:
        remedy = f"`pip install 'eef[{extra}]'`"
        return MachineCheck(package, False, error.message, remedy, needed=False)
    return MachineCheck(package, True, version)
