"""Doctor: what this machine has of all that `eef` needs, and the command that mends what is missing."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from eef import __version__
from eef.errors import EefError
from eef.workers import available_cores

LIGHT = ("ijson", "numpy", "pydantic", "PyYAML", "rapidfuzz", "regex", "rich", "typer")
TRAIN = ("torch", "transformers", "tokenizers", "peft", "accelerate", "safetensors")
# Package → the extra it comes with.
OPTIONAL = {"gymnasium": "gym", "openai": "api", "pyarrow": "tables", "starlette": "serve", "uvicorn": "serve"}
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
    findings = [_python(), Finding("eef", True, __version__), Finding("cores", True, str(available_cores())), *packages]
    if all(finding.ok for finding in packages):
        findings += [_torch(), _student()]
    optional = [_package(name, f"pip install 'eef[{extra}]'", needed=False) for name, extra in OPTIONAL.items()]
    return [*findings, *optional, _java()]


def _python() -> Finding:
    oldest = ".".join(map(str, OLDEST_PYTHON))
    ok = sys.version_info[:2] >= OLDEST_PYTHON
    return Finding("python", ok, platform.python_version(), f"install Python {oldest} or newer, then `make setup`")


def _package(name: str, command: str, *, needed: bool = True) -> Finding:
    try:
        return Finding(name, True, version(name), needed=needed)
    except PackageNotFoundError:
        return Finding(name, False, "not installed", f"`{command}`", needed=needed)


def _torch() -> Finding:
    from eef.model import describe_compute

    return Finding("computing on", True, describe_compute())


def _student() -> Finding:
    """The base student of the package: whole, and loaded once."""
    from eef.checkpoint import verify_checkpoint
    from eef.model import BASE_STUDENT, load_model

    remedy = f"make one: `eef make-base --out {BASE_STUDENT}`"
    try:
        verify_checkpoint(BASE_STUDENT)
        model, _ = load_model("base", device="cpu")
    except EefError as error:
        return Finding("base student", False, error.message, remedy)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Finding("base student", True, f"{parameters / 1e6:.1f} M parameters")


def _java() -> Finding:
    """Only ScienceWorld runs on it."""
    remedy = "for ScienceWorld alone: install a Java runtime, e.g. `apt install default-jre-headless`"
    java = shutil.which("java")
    if java is None:
        return Finding("java", False, "not installed", remedy, needed=False)
    told = subprocess.run([java, "-version"], capture_output=True, text=True, check=False)
    lines = (told.stderr or told.stdout).splitlines()
    return Finding("java", told.returncode == 0, lines[0] if lines else "no version", remedy, needed=False)
