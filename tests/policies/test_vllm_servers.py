"""The life of servers: started, watched, restarted once, ended however the program ends."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from itertools import pairwise

import pytest

pytest.importorskip("torch")

from eef.errors import ConfigError, ModelError
from eef.policies import vllm_servers
from eef.policies.settings import ServerSettings
from eef.policies.vllm_servers import Serving, VllmServers, vllm_version
from eef.utils.guard import Guarded
from tests.fakes import ROOT
from tests.fakes.fake_vllm import write_program
from tests.fakes.small_run import lives

SERVING = Serving(model="/some/model", dtype="bfloat16", context=512, rank=9)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    return write_program(tmp_path_factory.mktemp("vllm") / "python")


def make_servers(program, logs, *, gpus=(), serving=SERVING, **changes):
    settings = ServerSettings(python=str(program), **changes)
    return VllmServers(settings, serving, gpus=list(gpus), logs=logs)


def engines(logs):
    """The ids of all engines that servers have started so far."""
    found = []
    for path in sorted(logs.glob("*.log")):
        found += [int(each) for each in re.findall(r"engine (\d+)", path.read_text())]
    return found


def ends(pids, seconds=10.0):
    deadline = time.monotonic() + seconds
    while any(map(lives, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(lives, pids))


def command_of(pid):
    with open(f"/proc/{pid}/cmdline") as file:
        return file.read().split("\0")


def environment_of(pid):
    with open(f"/proc/{pid}/environ") as file:
        return dict(each.split("=", 1) for each in file.read().split("\0") if "=" in each)


def test_servers_are_started_on_loopback_with_a_key_and_ended(program, tmp_path):
    servers = make_servers(program, tmp_path, gpus=["3", "5"])
    servers.start()
    assert len(servers.urls) == 2
    assert all(url.startswith("http://127.0.0.1:") for url in servers.urls)
    started = engines(tmp_path)
    assert [environment_of(pid)["CUDA_VISIBLE_DEVICES"] for pid in started] == ["3", "5"]
    assert {environment_of(pid)["VLLM_API_KEY"] for pid in started} == {servers.key}
    command = command_of(os.getpgid(started[0]))
    assert servers.key not in command
    options = dict(pairwise(command))
    assert options["--max-lora-rank"] == "16"
    assert (options["--max-model-len"], options["--dtype"]) == ("512", "bfloat16")
    assert options["--host"] == "127.0.0.1"
    servers.stop()
    assert ends(started)
    assert servers.urls == []


def test_servers_end_with_their_object(program, tmp_path):
    servers = make_servers(program, tmp_path)
    servers.start()
    del servers
    assert ends(engines(tmp_path))


def test_a_server_that_ends_is_started_again_once_without_leaving_its_engine(program, tmp_path):
    servers = make_servers(program, tmp_path)
    servers.start()
    (url,) = servers.urls
    asyncio.run(servers.revive(url))
    assert servers.restarted() == 0, "it answers"
    (first,) = engines(tmp_path)
    os.kill(os.getpgid(first), signal.SIGKILL)  # the server alone
    assert ends([first]), "the engine goes with its server"
    asyncio.run(servers.revive(url))
    assert (servers.restarted(), servers.urls) == (1, [url])
    second = engines(tmp_path)[-1]
    os.killpg(os.getpgid(second), signal.SIGKILL)
    with pytest.raises(ModelError, match="a vLLM server ended twice"):
        asyncio.run(servers.revive(url))
    servers.stop()
    assert ends([first, second])


def test_a_busy_server_is_not_ended_and_a_silent_one_is(program, tmp_path, monkeypatch):
    servers = make_servers(program, tmp_path)
    servers.start()
    (url,), (engine,), answers = servers.urls, engines(tmp_path), servers._answers
    busy = iter([False, False])
    monkeypatch.setattr(servers, "_answers", lambda server: next(busy, True))
    asyncio.run(servers.revive(url))
    assert (servers.restarted(), lives(engine)) == (0, True)
    monkeypatch.setattr(vllm_servers, "_BUSY_SECONDS", 0.3)
    monkeypatch.setattr(servers, "_answers", lambda each: each.restarts > 0 and answers(each))
    asyncio.run(servers.revive(url))
    assert (servers.restarted(), ends([engine])) == (1, True)
    servers.stop()


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ("OSError: [Errno 98] Address already in use", "port is in use", "server.port"),
        ("ValueError: Free memory on device (1/80 GiB) …", "memory", "server.context"),
        ("ValueError: max_model_len (9) is greater", "of this length", "server.context"),
        ("api_server.py: error: unrecognized arguments: --x", "arguments", "server.arguments"),
        ("RuntimeError: something else", "RuntimeError: something else", "0.log"),
    ],
)
def test_a_server_that_does_not_start_is_one_line(program, tmp_path, words, message, hint):
    servers = make_servers(program, tmp_path, arguments=[f"fail:{words}"])
    with pytest.raises(ModelError, match="did not start") as caught:
        servers.start()
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message


def test_settings_that_cannot_be_used_are_one_line(program, tmp_path):
    assert vllm_version(ServerSettings(python=str(program))) == "9.9.9"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} is in use"):
            make_servers(program, tmp_path, port=port).start()
    large = Serving(model="/m", dtype="float32", context=None, rank=600)
    with pytest.raises(ConfigError, match=r"`model\.lora\.rank` is 600"):
        make_servers(program, tmp_path, serving=large).start()
    slow = make_servers(program, tmp_path, start_timeout=0.01, arguments=["slow"])
    with pytest.raises(ModelError, match=r"has not started in 0\.01 seconds"):
        slow.start()
    assert ends(engines(tmp_path))


SCRIPT = """
import sys, time
from pathlib import Path
from eef.policies.settings import ServerSettings
from eef.policies.vllm_servers import Serving, VllmServers
serving = Serving(model="/m", dtype="float32", context=None)
servers = VllmServers(ServerSettings(python=sys.argv[1]), serving, gpus=[], logs=Path(sys.argv[2]))
servers.start()
print("up", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_is_left_however_the_program_ends(program, tmp_path, number):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(program), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    (engine,) = engines(tmp_path)
    group = os.getpgid(engine)
    assert lives(engine)
    os.killpg(process.pid, number)
    process.wait()
    process.stdout.close()
    assert ends([engine, group])


CALLER = """
import os, sys, time
from pathlib import Path
from eef.utils.guard import Guarded
guarded = Guarded(["sh", "-c", "sleep 600 & sleep 600"], Path(sys.argv[1]), os.environ)
print(guarded._guard.pid, guarded._group, flush=True)
time.sleep(60)
"""


def test_nothing_is_left_if_the_children_of_the_program_are_killed_with_it(tmp_path):
    """Ray does that when the process of an actor ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", CALLER, str(tmp_path / "log")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    child, group = map(int, process.stdout.readline().split())
    os.kill(child, signal.SIGKILL)
    process.kill()
    process.wait()
    process.stdout.close()
    assert ends([child, group])


def test_a_guard_that_is_killed_takes_nothing_along_and_leaves_nothing(tmp_path):
    guarded = Guarded(["sh", "-c", "sleep 600 & sleep 600"], tmp_path / "log", os.environ)
    group = guarded._group
    guarded._guard.kill()
    guarded._guard.wait()
    assert lives(group)
    assert not guarded.runs
    guarded.end()
    assert ends([group])
    missing = Guarded(["/no/such/program"], tmp_path / "missing", os.environ)
    missing._guard.wait()
    missing.end()
    assert "No such file" in (tmp_path / "missing").read_text()


def test_the_reason_is_that_of_the_last_start(program, tmp_path):
    """Its arguments, and what an earlier start wrote, are not the reason."""
    (tmp_path / "0.log").write_text("torch.OutOfMemoryError: CUDA out of memory\n")
    words = "INFO non-default args: {'max_model_len': 512} OSError: 401 Client Error"
    servers = make_servers(program, tmp_path, arguments=[f"fail:{words}"])
    with pytest.raises(ModelError, match=r"did not start: .*401 Client Error"):
        servers.start()
    assert "out of memory" in (tmp_path / "0.log").read_text(), "the log is kept"


def test_a_proxy_is_not_asked_for_servers_of_this_machine(program, tmp_path, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    servers = make_servers(program, tmp_path, start_timeout=30)
    servers.start()
    servers.stop()


def test_a_port_that_is_taken_before_the_server_binds_it_is_left(program, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        find, found = vllm_servers._port, [taken]
        monkeypatch.setattr(
            vllm_servers, "_port", lambda *given: found.pop() if found else find(*given)
        )
        servers = make_servers(program, tmp_path)
        servers.start()
        (url,) = servers.urls
        assert f":{taken}/" not in url
        servers.stop()
    assert "in use" in (tmp_path / "0.log").read_text().lower()
