"""Rollouts played by hosts, and inference servers, on the nodes of a Ray cluster."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time

import pytest

from eef.errors import ClusterError, ModelError
from eef.policies.ray_servers import RayServers
from eef.policies.settings import ServerSettings
from eef.policies.vllm_servers import Serving
from eef.rollouts.store import Store
from tests.fakes.fake_engine import fake_engine
from tests.fakes.fake_vllm import write_program
from tests.fakes.small_run import eef, lines_in, lives, rollouts, small_recipe, write_recipe

pytestmark = pytest.mark.ray
SERVING = Serving(model="/some/model", dtype="bfloat16", context=512, rank=None)


def recipe(student, directory, url, **changes):
    server = {"urls": [url], "backoff": 0.01}
    settings = small_recipe(
        student,
        methods=["bc", "eef"],
        model={"name": str(student), "lora": {"rank": 4}},
        train={"updates": 2},
        tasks={"train": 8, "test": 2},
        budget={"rollouts_per_task": 3},
        sampling={"max_tokens": 4},
        rollouts={
            "engine": "remote", "in_flight": 4, "server": server, "step_limit": 7, **changes,
        },
    )  # fmt: skip
    return write_recipe(directory / "r.json", settings)


def texts(directory):
    return {
        each["id"]: (each["status"], [step["completion"] for step in each["steps"]])
        for each in rollouts(directory, "eef")
    }


def test_hosts_play_what_this_process_plays_though_their_node_dies(
    two_nodes, student, tmp_path, monkeypatch
):
    (tmp_path / "ray").mkdir()
    append, killed = Store.append, []

    def kill(store, trajectory):  # in this thread: Ray starts nodes in no other
        append(store, trajectory)
        stored = lines_in(tmp_path / "hosts/eef/trajectories.jsonl")
        if not killed and stored >= 4:
            [victim] = list(two_nodes.worker_nodes)
            two_nodes.remove_node(victim, allow_graceful=False)
            killed.append(stored)
            two_nodes.add_node(num_cpus=2)

    monkeypatch.setattr(Store, "append", kill)
    with fake_engine(student) as (url, _):
        plain = eef("run", recipe(student, tmp_path, url), "--out", tmp_path / "plain", "--quiet")
        assert plain.exit_code == 0, plain.stderr
        hosted = recipe(student, tmp_path / "ray", url, placement="ray", hosts=2)
        cluster = ("--ray", two_nodes.address)
        done = eef("run", hosted, "--out", tmp_path / "hosts", "--quiet", *cluster)
        assert done.exit_code == 0, done.stderr
    ours, theirs = texts(tmp_path / "hosts"), texts(tmp_path / "plain")
    assert killed
    assert killed[0] < len(ours)
    assert ours.keys() == theirs.keys()
    assert all(status != "error" for status, _ in ours.values())
    assert sum(ours[name] == theirs[name] for name in ours) >= 0.9 * len(ours)


def test_a_cluster_that_a_recipe_does_not_use_is_one_line(two_nodes, student, tmp_path):
    path = recipe(student, tmp_path, "http://127.0.0.1:1/v1")
    done = eef("run", path, "--out", tmp_path / "run", "--ray", "local")
    assert done.exit_code == 2


# Servers


@pytest.fixture(scope="module")
def gpus(two_nodes):
    """A node that states that it has two GPUs."""
    node = two_nodes.add_node(num_cpus=1, num_gpus=2)
    yield node
    two_nodes.remove_node(node)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return write_program(tmp_path_factory.mktemp("vllm") / "python")


def make_servers(program, logs, **changes):
    settings = ServerSettings(python=str(program), placement="ray", **changes)
    return RayServers(settings, SERVING, logs=logs)


def engines(logs):
    """The ids of all engines that servers have started so far."""
    found = []
    for path in sorted(logs.rglob("*.log")):
        found += [int(each) for each in re.findall(r"engine (\d+)", path.read_text())]
    return found


def wait_for(happened):
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_cluster_without_gpus_is_one_line(two_nodes, program, tmp_path):
    with pytest.raises(ClusterError, match="an inference server needs 1 GPU, and no node"):
        make_servers(program, tmp_path).start()


def test_servers_start_on_gpus_are_revived_once_and_end(gpus, program, tmp_path):
    servers = make_servers(program, tmp_path)
    servers.start()
    assert len(servers.urls) == 2
    assert all(not url.startswith("http://127.0.0.1") for url in servers.urls)
    with pytest.raises(ClusterError, match="0 of 2 GPUs of the Ray cluster are free") as caught:
        make_servers(program, tmp_path / "more", count=1).start()
    assert "wait until other work has ended" in caught.value.hint
    first, second = engines(tmp_path)
    os.kill(parent_of(first), signal.SIGKILL)
    wait_for(lambda: not lives(first))
    asyncio.run(servers.revive(servers.urls[0]))
    assert servers.restarted() == 1
    running = [pid for pid in engines(tmp_path) if lives(pid)]
    assert len(running) == 2
    assert second in running
    servers.stop()
    wait_for(lambda: not any(map(lives, running)))


def test_a_server_that_does_not_start_gives_its_reason(gpus, program, tmp_path):
    wait_for_gpus(1)
    servers = make_servers(program, tmp_path, count=1, arguments=("fail:CUDA out of memory",))
    with pytest.raises(ModelError, match="did not start: memory does not suffice"):
        servers.start()


def parent_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rsplit(")", 1)[1].split()[1])


def wait_for_gpus(count):
    import ray

    wait_for(lambda: ray.available_resources().get("GPU", 0) >= count)
