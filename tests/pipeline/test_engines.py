"""Runs through servers: what a run leaves, adapters per round, and every server it refuses."""

from __future__ import annotations

import json
import socket
import sys

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("aiohttp")

from eef.pipeline.context import RunContext  # noqa: E402
from eef.pipeline.run_directory import RunDirectory  # noqa: E402
from eef.policies.vllm_servers import VllmServers  # noqa: E402
from tests.fakes.fake_engine import fake_engine  # noqa: E402
from tests.fakes.fake_vllm import write_program  # noqa: E402
from tests.fakes.small_run import (  # noqa: E402
    as_recipe,
    eef,
    rollouts,
    small_recipe,
    write_recipe,
)

pytestmark = pytest.mark.torch
ADAPTERS = {"lora": {"rank": 4}}


def settings(student, **changes):
    """A run whose student trains adapters, round by round."""
    return small_recipe(
        student,
        **{
            "methods": ["bc", "eef"],
            "model": {"name": str(student), **ADAPTERS},
            "train": {"updates": 2},
            "tasks": {"train": 8, "test": 2},
            "budget": {"rollouts_per_task": 2},
            "sampling": {"max_tokens": 4},
            **changes,
        },
    )


def remote(student, *urls, in_flight=3, **server):
    server = {"urls": list(urls), "backoff": 0.01, **server}
    rollouts = {"engine": "remote", "in_flight": in_flight, "server": server, "step_limit": 7}
    return settings(student, rollouts=rollouts)


@pytest.fixture(scope="module")
def local(student, tmp_path_factory):
    """The same run with the model in this process."""
    directory = tmp_path_factory.mktemp("local")
    recipe = write_recipe(directory / "r.json", settings(student))
    assert eef("run", recipe, "--out", directory / "run", "--quiet").exit_code == 0
    return directory / "run"


def texts(directory):
    return {
        each["id"]: [step["completion"] for step in each["steps"]]
        for each in rollouts(directory, "eef")
    }


def test_a_run_through_a_server_with_faults_plays_what_a_local_one_plays(student, local, tmp_path):
    faults = [None, "500", None, "429", "closed", "cut", None, "malformed", None, "503"]
    with fake_engine(student, faults=faults) as (url, engine):
        recipe = write_recipe(tmp_path / "r.json", remote(student, url))
        done = eef("run", recipe, "--out", tmp_path / "run", "--quiet")
        assert done.exit_code == 0, done.stderr
        asked = len(engine.requests)
        again = eef("run", tmp_path / "run", "--quiet")
        assert (again.exit_code, len(engine.requests)) == (0, asked)
    ours, theirs = texts(tmp_path / "run"), texts(local)
    assert ours.keys() == theirs.keys()
    # the last bits of a completion depend on its batch, which may change a token here and there
    assert sum(ours[name] == theirs[name] for name in ours) >= 0.9 * len(ours)
    loads = [name for what, name in engine.history if what == "load"]
    unloads = [name for what, name in engine.history if what == "unload"]
    assert [name.rpartition("-")[0] for name in loads] == ["bc@round0", "eef@round1"]
    assert unloads == loads[:1]
    fingerprint = json.loads((tmp_path / "run" / "fingerprint.json").read_text())
    assert fingerprint["inference"] == "remote"
    assert (fingerprint["inference_version"], fingerprint["dtype"]) == ("fake-1", "float32")
    assert "fake-1" in (tmp_path / "run" / "report.html").read_text()


def test_a_server_that_is_gone_ends_the_stage_and_the_run_resumes(student, tmp_path):
    with fake_engine(student) as (url, engine):
        recipe = write_recipe(tmp_path / "r.json", remote(student, url, retries=1))
        engine.faults = [None] * 20 + ["closed"] * 1000
        done = eef("run", recipe, "--out", tmp_path / "run", "--quiet")
        assert done.exit_code == 2
        assert "no connection to the server" in done.stderr
        assert "hint: " in done.stderr
        engine.faults = []
        done = eef("run", tmp_path / "run", "--quiet")
        assert done.exit_code == 0, done.stderr


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ({"key": "secret"}, {}, "refuses the key (401)"),
        ({"adapters_enabled": False}, {}, "cannot load adapters while it runs"),
        ({"most_adapters": 0}, {}, "refuses the adapters"),
        ({"context": 12}, {}, "takes conversations of 12 tokens"),
        ({}, {"model": "other"}, "does not serve 'other'; it lists 'student'"),
    ],
)
def test_a_server_that_cannot_be_used_is_one_line(
    student, tmp_path, monkeypatch, options, changes, message
):
    monkeypatch.setenv("EEF_SERVER_KEY", "wrong-secret")
    with fake_engine(student, **options) as (url, _):
        recipe = write_recipe(tmp_path / "r.json", remote(student, url, **changes))
        done = eef("run", recipe, "--out", tmp_path / "run", "--quiet")
    assert done.exit_code == 2
    error, hint = done.stderr.strip().splitlines()[-2:]
    assert message in error
    assert hint.startswith("hint: ")
    assert "wrong-secret" not in done.stderr


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"lora": None}}, "training changes all weights"),
        ({"rollouts": {"server": {"urls": ["http://192.0.2.1/v1"]}}}, "no key for the server"),
        ({"rollouts": {"server": {"urls": ["ftp://x"]}}}, "`urls` is not an address"),
        ({"rollouts": {"server": {"urls": []}}}, "`server.urls` is empty"),
        ({"rollouts": {"server": {"port": 1}}}, "`server.port` has no effect"),
        ({"rollouts": {"engine": "local"}}, "`server.urls` has no effect with `engine` 'local'"),
        ({"rollouts": {"server": {"key": "sk-1"}}}, "not the name of an environment variable"),
    ],
)
def test_settings_that_cannot_be_used_are_one_line(student, tmp_path, change, message):
    changed = remote(student, f"http://127.0.0.1:{free_port()}/v1", retries=0)
    for group, values in change.items():
        values = dict(values)
        server = {**changed[group].get("server", {}), **values.pop("server", {})}
        changed[group] = {**changed[group], **values}
        if group == "rollouts":
            changed[group]["server"] = server
    if change.get("rollouts", {}).get("engine") == "local":
        changed["rollouts"].pop("in_flight")
    done = eef("run", write_recipe(tmp_path / "r.json", changed), "--out", tmp_path / "run")
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (tmp_path / "run" / "bc").exists()


def test_no_server_is_one_line_before_anything_is_played(student, tmp_path):
    recipe = remote(student, f"http://127.0.0.1:{free_port()}/v1")
    done = eef("run", write_recipe(tmp_path / "r.json", recipe), "--out", tmp_path / "run")
    assert done.exit_code == 2
    assert "no connection to the server at http://127.0.0.1" in done.stderr
    assert not (tmp_path / "run" / "expert").exists()


def test_memory_is_released_before_a_server_starts(student, tmp_path, monkeypatch):
    rollouts = {"engine": "vllm", "server": {"python": str(write_program(tmp_path / "python"))}}
    recipe = as_recipe(settings(student, rollouts=rollouts))
    context = RunContext(RunDirectory(tmp_path / "run", recipe))
    calls = []
    monkeypatch.setattr("eef.models.loading.release_memory", lambda: calls.append("released"))
    start = VllmServers.start
    monkeypatch.setattr(VllmServers, "start", lambda self: (calls.append("started"), start(self)))
    client = context.engines._serve(str(student))
    assert context.engines._serve(str(student)) is client, "it is up"
    assert calls == ["released", "started"]
    context.engines.release()
    assert context.engines._serve(str(student)) is not client
    context.close()
    assert calls == ["released", "started"] * 2


def test_a_python_without_vllm_is_one_line(student, tmp_path):
    rollouts = {"engine": "vllm", "server": {"python": sys.executable}}
    for python, message in ((sys.executable, "no vLLM in the"), ("/no/python", "cannot run")):
        rollouts["server"]["python"] = python
        recipe = write_recipe(tmp_path / "r.json", settings(student, rollouts=rollouts))
        done = eef("run", recipe, "--out", tmp_path / "run")
        assert done.exit_code == 2
        assert message in done.stderr
        assert "hint: " in done.stderr
