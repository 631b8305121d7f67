"""Plugins: entry points and references, their errors, and the package that `eef new` writes."""

import json
import os
import subprocess
import sys

import pytest

from eef.cli.doctor import _plugins as diagnose_plugins
from eef.envs import registry
from eef.envs.registry import env_spec, make_env, report_spec
from eef.errors import ConfigError
from eef.importers.formats import _plugin_formats, read_row
from eef.methods.registry import make_method
from tests.fakes import ROOT
from tests.fakes.small_run import eef

ENV = """
from eef.config import Settings
from eef.env import BaseEnv

class DeskSettings(Settings):
    size: int = 3
    '''Number of tickets.'''

class Desk(BaseEnv):
    name = "desk"
    def __init__(self, settings: DeskSettings | None = None):
        self.size = (settings or DeskSettings()).size

class Bare(BaseEnv):
    name = "bare"

class Untyped(BaseEnv):
    def __init__(self, settings):
        pass
"""
METHOD = """
from eef.methods.bc import METHOD as Base

class Wins(Base):
    '''Behavior cloning under another name.'''
"""
FORMAT = """
from eef.importers.episode import ParsedEpisode
from eef.importers.formats import Format
from eef.trajectory import Step

def parse(row):
    steps = tuple(Step(observation=a, completion="Action: " + b, action=b) for a, b in row["log"])
    return ParsedEpisode(format="log", steps=steps, final_observation="", reward=row["reward"])

LOG = Format(lambda row: "log" in row, parse, "pairs of observation and action")
"""


def install(folder, package, groups):
    """The metadata that pip writes for a package with entry points."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in groups.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A directory of installed packages."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_references", {})
    for name, text in {"desk_plugin": ENV, "wins_plugin": METHOD, "log_plugin": FORMAT}.items():
        (tmp_path / f"{name}.py").write_text(text)
    _plugin_formats.cache_clear()
    yield tmp_path
    _plugin_formats.cache_clear()
    for name in ("desk_plugin", "wins_plugin", "log_plugin"):
        sys.modules.pop(name, None)


def fails(function, *arguments):
    with pytest.raises(ConfigError) as caught:
        function(*arguments)
    assert "\n" not in caught.value.message
    return caught.value.message, caught.value.hint


def test_entry_points_are_found_by_name(site):
    install(
        site,
        "desk-plugin",
        {
            "eef.environments": {"desk": "desk_plugin:Desk"},
            "eef.methods": {"wins": "wins_plugin:Wins"},
            "eef.importers": {"log": "log_plugin:LOG"},
        },
    )
    assert make_env("desk", {"size": 4}).size == 4
    assert fails(make_env, "desk", {"sise": 4})[1] == "did you mean 'size'?"
    assert fails(make_env, "desc", {}) == ("unknown environment 'desc'", "did you mean 'desk'?")
    assert make_method("wins").name == "wins"
    assert fails(make_method, "winz")[1] == "did you mean 'wins'?"
    episode = read_row({"log": [["a ticket", "close[1]"]], "reward": 1})
    assert (episode.format, episode.steps[0].action) == ("log", "close[1]")
    findings = {each.name: (each.ok, each.found) for each in diagnose_plugins()}
    assert findings["environment `desk`"] == (True, "`desk_plugin:Desk` of desk-plugin 1.0")
    assert {"method `wins`", "format `log`"} <= findings.keys()


def test_references_need_no_entry_point(site):
    assert make_env("desk_plugin:Desk", {}).name == "desk"
    assert env_spec("desk").settings.__name__ == "DeskSettings"  # task ids start with this name
    assert make_env("desk_plugin:Bare", {}).name == "bare"
    assert make_method("own", {"method": "wins_plugin:Wins"}).name == "own"
    assert read_row({"log": [["a", "b"]], "reward": 0}, "log_plugin:LOG").format == "log"


@pytest.mark.parametrize(
    ("reference", "message", "hint"),
    [
        ("desk_plugin:Dekk", "environment `desk_plugin:Dekk`: `desk_plugin` has no `Dekk`", "Desk"),
        ("desk_plugins:Desk", "cannot be imported: ModuleNotFoundError", "directory that holds it"),
        ("desk_plugin:Untyped", "does not annotate its parameter `settings` with `Settings`", ""),
        ("desk_plugin:Settings", "is neither an environment class nor an `EnvSpec`", ":Desk`"),
        ("desk_plugin:", "environment `desk_plugin:` is not `module:object`", "my_package.desk"),
        ("../desk:Desk", "is not `module:object`", ""),
    ],
)
def test_wrong_references(site, reference, message, hint):
    error = fails(make_env, reference, {})
    assert message in error[0]
    assert hint in error[1]


def test_a_reference_that_fails_on_import_has_a_hint(site):
    (site / "failing_plugin.py").write_text("1 / 0")
    message, hint = fails(make_env, "failing_plugin:Env", {})
    assert message == (
        "environment `failing_plugin:Env` cannot be imported: ZeroDivisionError: division by zero"
    )
    assert "python -c 'import failing_plugin'" in hint


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import nothing_like_it", "ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("raise SystemExit('stop')", "SystemExit: stop"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("a b", "SyntaxError: invalid syntax (broken_plugin.py, line 1)"),
    ],
)
def test_a_plugin_that_fails_affects_only_its_users(site, text, reason):
    (site / "broken_plugin.py").write_text(text)
    install(site, "broken-plugin", {"eef.environments": {"broken": "broken_plugin:Env"}})
    message, hint = fails(make_env, "broken", {})
    assert message == (
        "environment 'broken' (`broken_plugin:Env` of broken-plugin 1.0) cannot be imported: "
        f"{reason}"
    )
    assert hint == "update or uninstall it: `pip uninstall broken-plugin`"
    assert make_env("toy", {}).name == "toy"
    assert [each.ok for each in diagnose_plugins() if "broken" in each.name] == [False]
    assert report_spec("broken").behaviors == ()
    done = eef("settings")
    assert done.exit_code == 0
    assert f"warning: {message}" in done.stderr


@pytest.mark.parametrize(
    ("module", "text", "reason"),
    [
        ("half_plugin", "class Own(Method): pass", "has no `plan` and no `select`"),
        ("duck_plugin", "class Own: plan = select = create = print", "is not a subclass of"),
    ],
)
def test_a_class_that_is_no_method_is_named(site, module, text, reason):
    (site / f"{module}.py").write_text(f"from eef.methods.base import Method\n{text}\n")
    message, _ = fails(make_method, "own", {"method": f"{module}:Own"})
    assert reason in message


def test_two_plugins_of_one_name(site):
    for package in ("one-desk", "two-desk"):
        install(site, package, {"eef.environments": {"desk": "desk_plugin:Desk"}})
    install(site, "own-toy", {"eef.environments": {"toy": "desk_plugin:Desk"}})
    message, hint = fails(make_env, "desk", {})
    assert message == "environment 'desk' is provided by one-desk 1.0 and by two-desk 1.0"
    assert "`desk_plugin:Desk`" in hint
    assert (
        fails(make_env, "toy", {})[0] == "environment 'toy' is provided by eef and by own-toy 1.0"
    )
    assert make_env("desk_plugin:Desk", {}).name == "desk"


@pytest.mark.parametrize(
    ("name", "options", "passed", "won"),
    [("help-desk", (), 3, 6), ("refund-desk", ("--tools",), 4, 2)],
)
def test_a_new_environment_passes_at_once(name, options, passed, won, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert eef("new", "environment", name, *options).stdout == f"{name}\n"
    package = tmp_path / name
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=package,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"{passed} passed" in tests.stdout, tests.stdout
    reference = f"{name.replace('-', '_')}.env:SPEC"
    install(package, f"eef-{name}", {"eef.environments": {name: reference}})
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.chdir(package)
    assert f"{won} won" in eef("env", "check", name).stderr
    shipped = ("--set", "model.name=base", "--set", "chat.format=react") if options else ()
    done = eef("collect", "recipe.toml", "--out", "run", "--quiet", *shipped)
    assert done.exit_code == 0, done.stderr
    assert json.loads((package / "run/fingerprint.json").read_text())["env"] == name
    assert f"{name}/" in eef("show", "run", f"{name}/3").stdout


@pytest.mark.parametrize(
    "name", ["Desk", "1", "a--b", "class", "toy", "../desk", "a b", "eef", "json", "numpy"]
)
def test_names_of_new_environments(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    done = eef("new", "environment", name)
    assert (done.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert done.stderr.splitlines()[-1].startswith("hint: ")


def test_a_directory_is_never_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "desk").mkdir()
    done = eef("new", "environment", "desk")
    assert (done.exit_code, list((tmp_path / "desk").iterdir())) == (2, [])
