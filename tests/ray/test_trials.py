"""Trials as tasks of a Ray cluster: the records of trials without one, whatever dies."""

from __future__ import annotations

import json
import socket

import pytest

from eef.pipeline import trials
from eef.pipeline.run_directory import RunDirectory
from eef.utils import cluster
from tests.fakes.faults import differences
from tests.fakes.small_run import eef, lines_in, small_recipe, write_recipe

pytestmark = pytest.mark.ray
TRIALS = ("--seeds", "1", "--methods", "rft4,eef")


@pytest.fixture(scope="module")
def recipe(student, tmp_path_factory):
    settings = small_recipe(
        student, train={"updates": 4}, tasks={"test": 2}, sampling={"max_tokens": 4}
    )
    return write_recipe(tmp_path_factory.mktemp("recipe") / "small.json", settings)


@pytest.fixture(scope="module")
def without(recipe, tmp_path_factory):
    directory = tmp_path_factory.mktemp("plain")
    done = eef("compare", recipe, *TRIALS, "--out", directory, "--quiet")
    assert done.exit_code == 0, done.stderr
    return directory


def test_trials_in_a_cluster_whose_node_dies_equal_those_without(
    two_nodes, without, recipe, tmp_path, monkeypatch
):
    """The node is killed in the middle of exploring; another one takes its place."""
    store = tmp_path / "seed0/eef/trajectories.jsonl"
    killed = []

    def kill(ray, wanted):  # in this thread: Ray starts nodes in no other
        if not killed and lines_in(store) >= 3:
            [victim] = list(two_nodes.worker_nodes)
            two_nodes.remove_node(victim, allow_graceful=False)
            killed.append(lines_in(store))
            two_nodes.add_node(num_cpus=2)
        return ""

    monkeypatch.setattr(trials, "_SECONDS_BETWEEN_LOOKS", 0.05)
    monkeypatch.setattr(trials, "_what_is_missing", kill)
    done = eef("compare", recipe, *TRIALS, "--out", tmp_path, "--ray", two_nodes.address)
    assert done.exit_code == 0, done.stderr
    assert "eef@0 done" in done.stderr
    assert killed
    assert killed[0] < 34
    assert differences(tmp_path, without) == []
    status = json.loads(eef("status", tmp_path, "--json").stdout)
    assert [run["state"] for run in status["runs"]] == ["finished"]


def test_finished_trials_are_not_repeated(two_nodes, without, recipe):
    before = (without / "seed0/eef/ledger.jsonl").read_bytes()
    done = eef("compare", recipe, *TRIALS, "--out", without, "--ray", two_nodes.address)
    assert done.exit_code == 0, done.stderr
    assert (without / "seed0/eef/ledger.jsonl").read_bytes() == before


def test_a_full_disk_on_a_node_ends_one_trial_in_one_line(two_nodes, without, recipe, tmp_path):
    """The directory of one method is a file, which is what a node that cannot write meets."""
    directory = tmp_path / "seeds"
    first = eef("compare", recipe, *TRIALS, "--trial", "rft4@0", "--out", directory, "--quiet")
    assert first.exit_code == 0, first.stderr
    (directory / "seed0/eef").touch()
    done = eef("compare", recipe, *TRIALS, "--out", directory, "--ray", two_nodes.address)
    assert done.exit_code == 2
    assert "eef@0 failed: cannot write `" in done.stderr
    assert "rft4@0 done" in done.stderr
    (directory / "seed0/eef").unlink()
    done = eef("compare", recipe, *TRIALS, "--out", directory, "--ray", two_nodes.address)
    assert done.exit_code == 0, done.stderr
    assert differences(directory / "seed0", without / "seed0") == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--trial-gpus", "1"), "a trial needs 1 CPU and 1 GPU, and no node of the Ray cluster"),
        (("--trial-cpus", "64"), "a trial needs 64 CPUs, and no node of the Ray cluster has that"),
        (("--jobs", "2"), "`--jobs` has no effect with `--ray`"),
    ],
)
def test_what_the_cluster_lacks_is_one_line(two_nodes, recipe, tmp_path, options, message):
    out = ("--out", tmp_path, "--ray", two_nodes.address)
    done = eef("compare", recipe, *TRIALS, *out, *options)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "hint: " in done.stderr
    assert not RunDirectory(tmp_path / "seed0", None).path.exists()


def test_another_python_is_one_line(ray_module, monkeypatch):
    """Ray refuses a cluster of another Python with the versions of both."""
    text = "Version mismatch: The cluster was started with:\n    Ray: 2.60.0\n    Python: 3.12.1"

    def refuse(**options):
        raise RuntimeError(text)

    monkeypatch.setattr(ray_module, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_module, "init", refuse)
    with pytest.raises(cluster.ClusterError, match=r"Ray: 2\.60\.0 Python: 3\.12\.1") as caught:
        cluster.join("auto")
    assert "versions of Ray and Python" in caught.value.hint


@pytest.mark.parametrize(
    ("address", "message", "hint"),
    [
        ("auto", "there is no Ray cluster at `auto`", "`ray start --head`"),
        ("127.0.0.1:{port}", "or it asks for a token", "`export RAY_AUTH_MODE=token`"),
    ],
)
def test_a_cluster_that_does_not_answer_is_one_line(
    ray_module, monkeypatch, address, message, hint
):
    """Ray raises the same error whether the cluster or only its token is missing."""

    def refuse(**options):
        raise ConnectionError("Failed to connect to Ray cluster at …")

    monkeypatch.setattr(ray_module, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_module, "init", refuse)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        place = address.format(port=listener.getsockname()[1])
        with pytest.raises(cluster.ClusterError, match=message) as caught:
            cluster.join(place)
    assert hint in caught.value.hint
