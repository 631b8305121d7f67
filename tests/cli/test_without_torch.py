"""Without the `train` extra: one line and a hint, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.fakes import ROOT

HINT = "hint: install it: `pip install 'eef[train]'`"


def without_torch(*arguments):
    """The program in a process in which torch cannot be imported."""
    script = (
        "import sys; sys.modules['torch'] = None\n"
        "from eef.cli import main; sys.argv = ['eef', *sys.argv[1:]]; main()"
    )
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def refused(done, message):
    lines = done.stderr.splitlines()
    assert (done.returncode, lines[-1]) == (2, HINT)
    assert lines[-2] == f"error: {message} needs the package `torch`"
    assert "Traceback" not in done.stderr


def test_a_run_is_refused_before_anything_is_played(tmp_path, recipe):
    refused(without_torch("run", recipe, "--out", tmp_path / "run"), "training a student")
    assert not (tmp_path / "run/expert").exists()


def test_stages_that_need_no_model_are_executed_and_others_refused(tmp_path, recipe):
    run = tmp_path / "run"
    assert without_torch("collect", recipe, "--out", run).returncode == 0
    done = without_torch("stage", "select", run, "--method", "bc")
    assert (done.returncode, done.stdout) == (0, f"{run}\n")
    refused(without_torch("stage", "train", run, "--method", "bc"), "`eef stage`")
    shown = without_torch("show", run)
    assert (shown.returncode, "toy/" in shown.stderr) == (0, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model", "build", "--out", "new"), "building a student"),
        (("model", "merge", "checkpoint", "--out", "new"), "merging a checkpoint"),
        (("model", "push", "checkpoint", "me/model"), "pushing a checkpoint"),
    ],
)
def test_commands_on_models_are_refused(words, message):
    refused(without_torch(*words), message)
