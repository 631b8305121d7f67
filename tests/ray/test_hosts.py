"""Rollouts played by hosts, and inference servers, on the nodes of a Ray cluster."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
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


def recipe(student, directory, **rollouts):
    settings = small_recipe(
        student,
        methods=["bc", "eef"],
        model={"name": str(student), "lora": {"rank": 4}},
        train={"updates": 2},
        tasks={"train": 8, "test": 2},
        budget={"rollouts_per_task": 3},
        sampling={"max_tokens": 4},
        rollouts={"in_flight": 4, "step_limit": 7, **rollouts},
    )
    directory.mkdir(exist_ok=True)
    return write_recipe(directory / "r.json", settings)


def remote(url):
    return {"engine": "remote", "server": {"urls": [url], "backoff": 0.01}}


def texts(directory):
    return {
        each["id"]: (each["status"], [step["completion"] for step in each["steps"]])
        for each in rollouts(directory, "eef")
    }


def are_those_of(directory, plain):
    """Whether the rollouts of a run are those of another; servers are not exact to the bit."""
    ours, theirs = texts(directory), texts(plain)
    return (
        ours.keys() == theirs.keys()
        and all(status != "error" for status, _ in ours.values())
        and sum(ours[name] == theirs[name] for name in ours) >= 0.9 * len(ours)
    )


@pytest.fixture(scope="module")
def engine(student):
    with fake_engine(student) as (url, _):
        yield url


@pytest.fixture(scope="module")
def plain(engine, student, tmp_path_factory):
    """A run whose rollouts this process plays through a server on this machine."""
    directory = tmp_path_factory.mktemp("plain")
    path = recipe(student, directory / "recipe", **remote(engine))
    done = eef("run", path, "--out", directory / "run", "--quiet")
    assert done.exit_code == 0, done.stderr
    return directory / "run"


@pytest.fixture
def after_four(monkeypatch, tmp_path):
    """Calls a function once, in this thread, when four rollouts of EEF are stored in `run`.

    Ray starts nodes in no other thread.
    """
    append, happened = Store.append, []

    def call_after_four(function):
        def append_and_look(store, trajectory):
            append(store, trajectory)
            stored = lines_in(tmp_path / "run/eef/trajectories.jsonl")
            if not happened and stored >= 4:
                happened.append(stored)
                function()

        monkeypatch.setattr(Store, "append", append_and_look)
        return happened

    return call_after_four


def test_hosts_play_what_this_process_plays_though_their_node_dies(
    two_nodes, engine, plain, student, tmp_path, after_four
):
    def kill():
        [victim] = list(two_nodes.worker_nodes)
        two_nodes.remove_node(victim, allow_graceful=False)
        two_nodes.add_node(num_cpus=2)

    killed = after_four(kill)
    path = recipe(student, tmp_path / "recipe", **remote(engine), placement="ray", hosts=2)
    done = eef("run", path, "--out", tmp_path / "run", "--quiet", "--ray", two_nodes.address)
    assert done.exit_code == 0, done.stderr
    assert killed[0] < len(texts(tmp_path / "run"))
    assert are_those_of(tmp_path / "run", plain)


def test_a_cluster_that_a_recipe_does_not_use_is_one_line(two_nodes, student, tmp_path):
    path = recipe(student, tmp_path / "recipe", **remote("http://127.0.0.1:1/v1"))
    done = eef("run", path, "--out", tmp_path / "run", "--ray", "local")
    assert done.exit_code == 2


# Servers


@pytest.fixture
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
    servers = make_servers(program, tmp_path, port=free_ports())
    servers.start()
    first_port, second_port = (int(url.split(":")[2].removesuffix("/v1")) for url in servers.urls)
    assert second_port == first_port + 1  # both on one node
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
    servers = make_servers(program, tmp_path, count=1, arguments=("fail:CUDA out of memory",))
    with pytest.raises(ModelError, match="did not start: memory does not suffice"):
        servers.start()


def test_a_run_through_servers_survives_one_of_them_and_their_node(
    two_nodes, plain, program, student, tmp_path, after_four
):
    """Rollouts on a host, their server on a GPU. The node dies first, in another command the
    server."""
    node = two_nodes.add_node(num_cpus=0, num_gpus=1)
    server = {
        "python": str(program), "arguments": ["engine"], "placement": "ray", "retries": 1,
        "backoff": 0.01, "context": 4096, "during_training": True,
    }  # fmt: skip
    path = recipe(
        student, tmp_path / "recipe", engine="vllm", server=server, placement="ray", hosts=1
    )
    command = ("run", path, "--out", tmp_path / "run", "--quiet", "--ray", two_nodes.address)
    logs = tmp_path / "run/servers"

    def kill_node():
        two_nodes.remove_node(node, allow_graceful=False)
        wait_for(lambda: not any(map(lives, engines(logs))))

    killed = after_four(kill_node)
    done = eef(*command)
    assert done.exit_code == 2
    assert "has ended" in done.stderr
    assert "hint: run the same command again" in done.stderr
    stored = texts(tmp_path / "run")
    assert 4 <= len(stored) < len(texts(plain))

    node = two_nodes.add_node(num_cpus=0, num_gpus=1)
    try:
        killed.clear()
        after_four(lambda: os.kill(parent_of(engines(logs)[-1]), signal.SIGKILL))
        started = len(engines(logs))
        done = eef(*command)
        assert done.exit_code == 0, done.stderr
        assert len(engines(logs)) == started + 2
        assert stored.items() <= texts(tmp_path / "run").items()
        assert are_those_of(tmp_path / "run", plain)
        wait_for(lambda: not any(map(lives, engines(logs))))
    finally:
        two_nodes.remove_node(node)


def free_ports():
    """A port that is free, and probably the one after it."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def parent_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rsplit(")", 1)[1].split()[1])
