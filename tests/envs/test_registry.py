"""Environments by name: settings, errors, and the environment that CONTRIBUTING.md adds."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from eef.analysis.behaviors import count_behaviors
from eef.analysis.task_groups import score_task_groups
from eef.cli.settings import sections
from eef.config import Settings
from eef.env import BaseEnv
from eef.envs.registry import ENVIRONMENTS, env_spec, make_env, make_expert
from eef.envs.spec import Behavior, EnvSpec, group_in_id
from eef.errors import ConfigError, EnvError
from eef.report.formatting import describe_env
from eef.trajectory import Author, Step, Trajectory
from tests.fakes import ROOT

SMALL = {"synthetic": {"products": 100}}


@pytest.mark.parametrize(("name", "options"), [("webshop", SMALL), ("toy", {"tasks_per_split": 3})])
def test_by_name(name, options):
    env = make_env(name, options)
    assert env.name == name
    assert make_expert(env, "strong").author == Author("expert", "strong")
    with pytest.raises(EnvError, match="unknown scripted expert 'best'"):
        make_expert(env, "best")


ADAPTERS = {"gymnasium", "agentgym", "openenv", "inspect", "verifiers", "alfworld"}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_every_environment_has_a_spec_and_an_expert(name):
    assert env_spec(name).make.name == name
    assert (env_spec(name).make_expert is None) == (name in ADAPTERS)


@pytest.mark.parametrize(
    ("name", "options", "message", "hint"),
    [
        ("webshp", {}, "unknown environment 'webshp'", "did you mean 'webshop'?"),
        (
            "atari",
            {},
            "unknown environment 'atari'",
            f"known environments: {', '.join(ENVIRONMENTS)}",
        ),
        (
            "webshop",
            {"step_limits": 3},
            "environment 'webshop': unknown setting 'step_limits'",
            "did you mean 'step_limit'?",
        ),
        (
            "toy",
            {"zzz": 3},
            "environment 'toy': unknown setting 'zzz'",
            "known settings: tasks_per_split, step_limit",
        ),
        ("webshop", {"data": 5}, "`data` is 5; expected a string", ""),
        ("webshop", {"step_limit": "long"}, "`step_limit` is 'long'; expected an integer", ""),
        (
            "webshop",
            {"splits": 5},
            "environment 'webshop': `splits` is 5; expected a string or a table",
            "",
        ),
        (
            "webshop",
            {"splits": {"test": [1]}},
            "`splits",
            "",
        ),
        (
            "webshop",
            {"goals": "easy"},
            "`goals` is 'easy'; expected 'synthetic' or 'human'",
            "",
        ),
        (
            "webshop",
            {"synthetic": {"sed": 1}},
            "unknown setting 'synthetic.sed'",
            "did you mean 'synthetic.seed'?",
        ),
        ("toy", {"tasks_per_split": 1.5}, "`tasks_per_split` is 1.5; expected an integer", ""),
    ],
)
def test_mistakes(name, options, message, hint):
    with pytest.raises(ConfigError) as caught:
        make_env(name, options)
    assert message in caught.value.message
    assert caught.value.hint == hint


def test_lists_of_a_recipe_are_taken_as_pairs():
    env = make_env(
        "webshop", {**SMALL, "goals": "human", "splits": {"test": [0, 30], "train": [30, None]}}
    )
    assert {name: len(env.tasks(name)) for name in ("test", "train")} == {"test": 30, "train": 70}


class SmallSettings(Settings):
    """Settings of an environment outside the package."""

    size: int = 3
    """Size of the world."""


class Small(BaseEnv):
    name = "small"

    def __init__(self, settings):
        self.size = settings.size


SPEC = EnvSpec(
    settings=SmallSettings,
    make=Small,
    behaviors=(Behavior("Walk", "walk .+"),),
    group_of=group_in_id,
    held_out_part=lambda task: "far" if task.endswith("9") else "",
    describe=lambda fingerprint: f"size {fingerprint['size']}",
    split_observation=lambda text: text.split(";"),
)


def test_one_line_adds_an_environment(monkeypatch):
    """Settings, behaviors, task groups and report formatting all find it."""
    monkeypatch.setitem(ENVIRONMENTS, "small", __name__)
    assert make_env("small", {"size": 4}).size == 4
    with pytest.raises(ConfigError, match="environment 'small': unknown setting 'sise'"):
        make_env("small", {"sise": 4})
    with pytest.raises(ConfigError, match="'small' has no scripted expert"):
        make_expert(make_env("small", {}), "strong")
    rows = dict(sections())["environment small"]
    assert [(row.key, row.default, row.description) for row in rows] == [
        ("env.size", "3", "Size of the world.")
    ]
    episode = Trajectory(
        id="e",
        task="small/forest/9",
        author=Author("student", "s"),
        steps=(Step(observation="", completion="", action="walk home", reward=1.0),),
        final_observation="",
        status="terminated",
        reward=1.0,
        success=True,
    )
    assert count_behaviors([episode], "small")["won"].means == {"Walk": 1.0}
    scores = score_task_groups([episode], "small")
    assert (list(scores.parts), list(scores.groups)) == (["far"], ["forest"])
    assert describe_env({"env": "small", "size": 4}) == "small (size 4)"


def test_an_environment_without_snapshots_or_workers_needs_no_code_for_them():
    env = Small(SmallSettings())
    assert (env.worker_restarts, env.concurrent, env.supports_snapshot) == (0, False, False)
    assert (env.score([0.25, 0.5]), env.can_branch_at((), 0), env.close()) == (0.75, True, None)
    assert env.clone() is not env
    with pytest.raises(EnvError, match="small does not support snapshots"):
        env.restore(None)


@pytest.mark.skipif(not shutil.which("git"), reason="needs git")
def test_the_environment_of_contributing_works(tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split("## Add an environment\n")[1].split("\n## ")[0]
    diff = re.search(r"```diff\n(.*?)```", section, re.S)[1]
    shutil.copytree(ROOT / "eef", tmp_path / "eef", ignore=shutil.ignore_patterns("weights"))
    subprocess.run(["git", "apply", "-"], input=diff, text=True, cwd=tmp_path, check=True)
    for command in (
        ("pytest", "-q", "tests/envs/test_guess.py"),
        ("eef", "env", "check", "guess", "--set", "step_limit=3"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "passed" in done.stdout + done.stderr
