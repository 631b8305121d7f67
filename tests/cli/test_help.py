"""Help: every command has a short summary and an example that works; help imports no command."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys

import pytest
import typer

from eef.cli import make_app
from eef.cli.app import ENV, MODEL, NEW, PANELS, load_command
from eef.config import parse_settings
from eef.pipeline.recipe import load_recipe
from eef.students.builder import student_settings
from tests.fakes import ROOT
from tests.fakes.small_run import eef

COMMANDS = {
    **{name: entry for panel in PANELS.values() for name, entry in panel.items()},
    **{f"model {name}": entry for name, entry in MODEL.items()},
    **{f"env {name}": entry for name, entry in ENV.items()},
    **{f"new {name}": entry for name, entry in NEW.items()},
}
QUICK = ("settings", "env check")


def examples(name):
    """The example commands of a command's help, each as a list of words."""
    found = re.findall(r"^Example: `([^`]+)`", doc(name), re.M)
    return [shlex.split(example)[1:] for example in found]


def doc(name):
    text = COMMANDS[name].load().__doc__
    return "\n".join(line.strip() for line in text.splitlines())


def test_there_are_nineteen_commands():
    group = typer.main.get_command(make_app())
    assert len(group.commands) == 19
    shown = eef("--help").stdout
    assert all(f" {name} " in shown for name in group.commands)
    assert eef("--version").stdout.startswith("eef ")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_summary_of_a_command_is_that_of_its_docstring(name):
    summary = doc(name).splitlines()[0]
    assert summary == COMMANDS[name].summary
    assert 4 <= len(summary.split()) <= 8
    assert summary in " ".join(eef(*name.split(), "--help").stdout.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_of_a_command_parse(name):
    """Every option exists, and so does every setting given by `--set`."""
    assert examples(name)
    for words in examples(name):
        path, arguments = name.split(), words[len(name.split()) :]
        assert words[: len(path)] == path
        command = load_command(path[-1], COMMANDS[name])
        given = command.make_context(path[-1], list(arguments)).params
        overrides = given.get("overrides") or ()
        recipe = given.get("source") or given.get("recipe")
        if recipe is not None:
            load_recipe(ROOT / recipe, overrides)
        if name == "model build":
            table = dict(override.split("=") for override in overrides)
            settings = {key: int(value) for key, value in table.items()}
            parse_settings(student_settings(given["env"]), settings, source="student")


@pytest.mark.parametrize("name", QUICK)
def test_an_example_runs_as_it_is_written(name):
    for words in examples(name):
        done = eef(*words)
        assert done.exit_code == 0, done.stderr
        assert done.stdout


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ("resume runs/x", "unknown command 'resume'", "`eef run DIR` continues a run"),
        ("merge runs/x", "unknown command 'merge'", "`eef model merge` merges adapters"),
        ("check-env toy", "unknown command 'check-env'", "`eef env check` checks"),
        ("shwo runs/x", "unknown command 'shwo'", "did you mean 'show'?"),
        ("model biuld", "unknown command 'biuld'", "did you mean 'build'?"),
        ("--bogus", "unknown option `--bogus`", "`eef --help`"),
        ("run x --ou y", "unknown option `--ou`", "did you mean `--out`?"),
        ("run", "`RECIPE|DIR` is missing", "`eef run --help`"),
        ("run a b", "unexpected argument (b)", "`eef run --help`"),
        ("run --set", "option '--set' requires an argument", "`eef run --help`"),
        ("model build", "`--out` is missing", "`eef model build --help`"),
        ("compare x --seeds 0", "`--seeds` is '0'; expected 1 or more", "`eef compare --help`"),
        ("compare x --seeds a", "`--seeds` is 'a'; expected an integer", "`eef compare --help`"),
        (
            "model merge x --out y --dtype z",
            "`--dtype` is 'z'; expected 'float32', 'bfloat16' or 'float16'",
            "`eef model merge --help`",
        ),
        ("settings updatse", "unknown setting or group 'updatse'", "did you mean 'updates'?"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_a_hint(words, message, hint):
    done = eef(*words.split())
    assert (done.exit_code, done.stdout) == (2, "")
    error, advice = done.stderr.splitlines()
    assert error == f"error: {message}"
    assert advice.startswith("hint: ")
    assert hint in advice


def test_settings_of_one_group_or_name():
    shown = eef("settings", "train").stdout
    assert "train.updates" in shown
    assert "options." not in shown
    shown = set(eef("settings", "bc_experts").stdout.split())
    assert {"options.rft.bc_experts", "options.eef.bc_experts"} <= shown


def test_help_imports_no_command():
    script = (
        "import sys; from typer.testing import CliRunner; from eef.cli import make_app\n"
        "done = CliRunner().invoke(make_app(), ['--help'])\n"
        "assert done.exit_code == 0 and 'Execute a recipe' in done.stdout\n"
        "heavy = ('torch', 'numpy', 'pydantic', 'eef.cli.run', 'eef.pipeline', 'eef.envs')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout == "[]\n"
