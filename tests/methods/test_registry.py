"""Methods by name, and the method that CONTRIBUTING.md adds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib import import_module

import pytest

from eef.methods.registry import METHODS, method_class
from tests.fakes import ROOT


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_documented(name):
    kind = method_class(name)
    assert kind.__module__ == METHODS[name]
    assert "`plan`" in kind.__doc__
    assert "`select`" in kind.__doc__
    assert import_module(METHODS[name]).__doc__


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_the_method_of_contributing_works(tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split("## Add a method\n")[1].split("\n## ")[0]
    diff = re.search(r"```diff\n(.*?)```", section, re.S)[1]
    shutil.copytree(ROOT / "eef", tmp_path / "eef", ignore=shutil.ignore_patterns("weights"))
    shutil.copytree(ROOT / "tests" / "fakes", tmp_path / "tests" / "fakes")
    subprocess.run(["git", "apply", "-"], input=diff, text=True, cwd=tmp_path, check=True)
    tests = [path.relative_to(tmp_path) for path in tmp_path.glob("tests/methods/test_*.py")]
    assert len(tests) == 1
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *tests],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
