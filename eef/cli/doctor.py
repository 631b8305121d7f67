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
class Finding:
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
        findings = diagnose()
    table = plain_table(header=False)
    for finding in findings:
        missing = ("missing", "red") if finding.needed else ("optional", "yellow")
        mark, color = ("ok", "green") if finding.ok else missing
        table.add_row(finding.name, Text(mark, style=color), Text(finding.found))
    stdout_console().print(table)
    problems = [finding for finding in findings if not finding.ok]
    for finding in problems:
        print_err(f"{finding.name}: {finding.remedy}")
    if any(finding.needed for finding in problems):
        raise typer.Exit(2)


def diagnose() -> list[Finding]:
    """All findings, the most basic first. Imports torch if it is installed, but no model."""
    packages = list(_packages())
    findings = [
        _python(),
        Finding("eef", True, __version__),
        Finding("cores", True, str(available_cores())),
        *(finding for finding in packages if finding.needed),
    ]
    if any(finding.name == "torch" and finding.ok for finding in packages):
        findings.append(_torch())
    findings += [_student(name, env) for name, env in SHIPPED.items()]
    findings += [finding for finding in packages if not finding.needed]
    simulators = [
        _simulator(each.PACKAGE, each.VERSION, each.JAR, extra) for each, extra in SIMULATORS
    ]
    return [*findings, _noun_tagger(), _java(), *simulators, _sandbox(), *_plugins()]


def _plugins() -> Iterator[Finding]:
    """Environments, methods and formats of other packages, each imported."""
    for plugins in (environments.PLUGINS, methods.PLUGINS, formats.PLUGINS):
        for plugin, problem in plugins.problems():
            label = f"{plugins.thing} `{plugin.name}`"
            if problem is None:
                yield Finding(label, True, str(plugin))
            else:
                yield Finding(label, False, problem.message, problem.hint, needed=False)


def _python() -> Finding:
    oldest = ".".join(map(str, OLDEST_PYTHON))
    ok = sys.version_info[:2] >= OLDEST_PYTHON
    return Finding("python", ok, platform.python_version(), f"install Python {oldest} or newer")


def _sandbox() -> Finding:
    """Whether workflows can be confined (the environment `workflow`)."""
    label = "sandbox of `workflow`"
    try:
        check_sandbox()
    except ConfigError as error:
        return Finding(label, False, error.message, error.hint, needed=False)
    return Finding(label, True, "a workflow ran in it")


def _packages() -> Iterator[Finding]:
    """The packages that `eef` requires, and those of its extras; a run needs those of `train`."""
    for requirement in requires("eef") or ():
        match = _REQUIREMENT.match(requirement)
        assert match is not None, requirement
        name, extra = match[1], match[2]
        if extra in _HIDDEN_EXTRAS:
            continue
        command = f"pip install 'eef[{extra}]'" if extra else "pip install eef"
        try:
            yield Finding(name, True, version(name), needed=extra in (None, "train"))
        except PackageNotFoundError:
            needed = extra in (None, "train")
            yield Finding(name, False, "not installed", f"`{command}`", needed=needed)


def _torch() -> Finding:
    """The device that `device = "auto"` takes."""
    try:
        import torch
    except ImportError as error:
        return Finding("device", False, f"torch: {error}", "`pip install 'eef[train]'`")
    if torch.cuda.is_available():
        return Finding("device", True, f"GPU {torch.cuda.get_device_name()}")
    return Finding("device", True, f"CPU, {count_of(torch.get_num_threads(), 'thread')}")


def _student(name: str, env: str) -> Finding:
    """A base student of the package, whose files must be those of its manifest."""
    label = f"student `{name}`"
    remedy = f"install `eef` again, or build one: `eef model build --env {env} --out DIR`"
    directory = STUDENTS / name
    try:
        verify_checkpoint(directory)
        parameters = sum(_count_parameters(file) for file in weight_files(directory))
    except (EefError, OSError) as error:
        return Finding(label, False, str(error), remedy)
    return Finding(label, True, f"{parameters / 1e6:.1f} M parameters")


def _count_parameters(path: Path) -> int:
    """The number of weights in a safetensors file, from its header."""
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return sum(math.prod(tensor["shape"]) for tensor in header.values())


def _noun_tagger() -> Finding:
    """The noun tagger of WebShop's reward; published numbers are based on one spaCy model."""
    label, models = "noun tagger", installed_models()
    remedy = (
        f"to compare WebShop's reward with published numbers: `pip install 'eef[spacy]'`, then "
        f"`python -m spacy download {PUBLISHED}`"
    )
    if not models:
        found = "word lists: WebShop's `r_type` differs for 2 to 5 % of product pairs"
        return Finding(label, False, found, remedy, needed=False)
    return Finding(label, models[0] == PUBLISHED, f"`{models[0]}`", remedy, needed=False)


def _java() -> Finding:
    """Java, which only the simulators need."""
    try:
        java = find_java()
    except ConfigError as error:
        remedy = f"for ScienceWorld and TextWorldExpress: {error.hint}"
        return Finding("java", False, error.message, remedy, needed=False)
    found = f"{java_version(java)} ({java})"
    if not accepts_constant_hash(java):
        found = f"{found}, not HotSpot: ScienceWorld refuses it"
        return Finding("java", False, found, INSTALL_HOTSPOT, needed=False)
    return Finding("java", True, found)


def _simulator(package: str, version: str, jar: str, extra: str) -> Finding:
    """A simulator's package, in the version that its environment supports."""
    try:
        find_jar(package, version, jar)
    except ConfigError as error:
        remedy = f"`pip install 'eef[{extra}]'`"
        return Finding(package, False, error.message, remedy, needed=False)
    return Finding(package, True, version)
