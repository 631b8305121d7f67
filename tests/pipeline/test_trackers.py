"""MLflow, Trackio and W&B (offline), for real, in the environment of `make test-track`.

A killed and resumed run continues the same tracked runs, without a point twice.
"""

import json
import os
import sqlite3
import subprocess
import sys

import pytest

from tests.fakes import ROOT
from tests.fakes.small_run import save_student, small_recipe, write_recipe

pytestmark = pytest.mark.track

PYTHON = os.environ.get("EEF_TRACK_PYTHON", sys.executable)


def eef(directory, *arguments, **variables):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TRACKIO_DIR": str(directory / "trackio"),
        "WANDB_MODE": "offline",
        **variables,
    }
    environment.pop("WANDB_API_KEY", None)
    done = subprocess.run(
        [PYTHON, "-m", "eef", *map(str, arguments)],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def rows(path, query):
    with sqlite3.connect(path) as database:
        return database.execute(query).fetchall()


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("trackers")
    student = save_student(directory / "student")
    changes = {"methods": ["bc", "eef"], "track": ["mlflow", "trackio", "wandb"]}
    recipe = write_recipe(directory / "small.json", small_recipe(student, **changes))
    eef(directory, "collect", recipe, "--out", "run", "--quiet")
    for kind in ("select", "train"):  # each command continues the tracked runs
        eef(directory, "stage", kind, "run", "--method", "bc", "--quiet")
    eef(directory, "run", "run", "--quiet")
    assert eef(directory, "run", "run", "--quiet") == ""
    return directory


@pytest.fixture(scope="module")
def losses(directory):
    path = directory / "run/eef/round1/training.json"
    return json.loads(path.read_text())["losses"]


def test_mlflow(directory, losses):
    path = directory / "run/tracking/mlflow.db"
    [(run, name, status)] = rows(path, "select run_uuid, name, status from runs")
    assert (name, status) == ("small", "FINISHED")
    query = "select step, value from metrics where key = 'eef/loss' order by step"
    assert rows(path, query) == list(enumerate(losses, start=1))
    assert len(rows(path, "select 1 from metrics where key = 'eef/win_rate'")) == 1
    assert ("12",) in rows(path, "select value from params where key = 'train.updates'")
    tables = list((directory / f"run/tracking/mlflow/{run}").rglob("sample-1.json"))
    assert sorted(table.parent.name for table in tables) == ["evaluate", "explore"]


def test_trackio(directory, losses):
    path = directory / "trackio/eef.db"
    found = rows(path, "select run_name, step, metrics from metrics order by id")
    assert len({name for name, _, _ in found}) == 1
    points = [(step, json.loads(values)) for _, step, values in found]
    tracked = [(step, values["eef/loss"]) for step, values in points if "eef/loss" in values]
    assert tracked == list(enumerate(losses, start=1))
    assert any("eef/explore/sample" in values for _, values in points)


def test_wandb(directory):
    folders = list((directory / "run/tracking/wandb").glob("offline-run-*"))
    assert len({folder.name.rsplit("-", 1)[1] for folder in folders}) == 1
    assert all(list(folder.glob("*.wandb")) for folder in folders)


def test_wandb_without_a_login_warns_once_and_stops_nothing(directory, tmp_path):
    recipe = json.loads((directory / "small.json").read_text())
    path = write_recipe(tmp_path / "small.json", {**recipe, "track": ["wandb"], "methods": ["eef"]})
    variables = {"WANDB_MODE": "online", "HOME": str(tmp_path), "NETRC": str(tmp_path / "none")}
    errors = eef(directory, "collect", path, "--out", tmp_path / "run", "--quiet", **variables)
    lines = errors.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("note: the tracker `wandb` fails and gets nothing more from this")
