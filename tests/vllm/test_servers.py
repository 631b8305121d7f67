"""vLLM itself: equal to the local policy, adapters swapped live, restarted once, ended for good."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time

import pytest

torch = pytest.importorskip("torch")

from eef.errors import ConfigError, ModelError  # noqa: E402
from eef.models.checkpoint import save_checkpoint  # noqa: E402
from eef.models.loading import load_model  # noqa: E402
from eef.models.location import locate  # noqa: E402
from eef.models.settings import LoraSettings  # noqa: E402
from eef.policies.completions import CompletionsClient  # noqa: E402
from eef.policies.engine import EnginePolicy  # noqa: E402
from eef.policies.local import LocalPolicy  # noqa: E402
from eef.policies.probe import Probe, probe_servers  # noqa: E402
from eef.policies.settings import ServerSettings  # noqa: E402
from eef.policies.vllm_servers import NAME, Serving, VllmServers  # noqa: E402
from eef.policy import Sampling  # noqa: E402
from eef.renderer import Renderer  # noqa: E402
from eef.trajectory import Author  # noqa: E402
from tests.fakes import ROOT  # noqa: E402
from tests.fakes.real import smollm2, vllm_python  # noqa: E402

pytestmark = pytest.mark.vllm
AUTHOR = Author("student", "x")
GREEDY = Sampling(temperature=0.0, max_tokens=24)
WARM = Sampling(temperature=1.0, max_tokens=24)
TALKS = [
    [
        {"role": "system", "content": "You shop. " * 90},
        {"role": "user", "content": f"i need soft cotton slim fit item number {number}"},
    ]
    for number in range(12)
]


def processes(mark):
    """The processes whose environment or command holds a text, as `ps` lists them."""
    listed = subprocess.run(["ps", "axeww", "-o", "pid,stat,cmd"], capture_output=True, text=True)
    lines = [line for line in listed.stdout.splitlines() if mark in line]
    return [line for line in lines if "ps axeww" not in line and line.split()[1][0] != "Z"]


def settings(**changes):
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    return ServerSettings(
        python=vllm_python(), arguments=("--enforce-eager",), backoff=0.1, **changes
    )


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    serving = Serving(model=locate("base"), dtype="float32", context=1024, rank=4)
    logs = tmp_path_factory.mktemp("logs")
    started = VllmServers(settings(), serving, gpus=[], logs=logs)
    started.start()
    yield started
    started.stop()
    assert processes(started.key) == []


def through(servers, model=NAME, revive=None, name="base"):
    tokenizer = load_model(name)[1]
    client = CompletionsClient(servers.urls, settings(), key=servers.key, revive=revive)
    return EnginePolicy(client, model, Renderer(tokenizer), author=AUTHOR, context=1024)


def local(name):
    model, tokenizer = load_model(str(name))
    return LocalPolicy(model, tokenizer, Renderer(tokenizer), author=AUTHOR)


def ends(completions):
    return [(each.text, each.finish, each.generated_tokens) for each in completions]


def test_greedy_completions_equal_those_of_the_local_policy(servers):
    seeds = range(len(TALKS))
    assert ends(through(servers).act(TALKS, seeds, GREEDY)) == ends(
        local("base").act(TALKS, seeds, GREEDY)
    )


def test_seeded_draws_are_equal_alone_and_in_a_batch(servers):
    policy = through(servers)
    together = policy.act(TALKS, range(len(TALKS)), WARM)
    alone = [policy.act([talk], [seed], WARM)[0] for seed, talk in enumerate(TALKS)]
    assert ends(together) == ends(alone)
    assert sum(each.cached_tokens for each in alone) > 0
    assert ends(together) != ends(policy.act(TALKS, range(100, 100 + len(TALKS)), WARM))
    assert sum(each.cached_tokens for each in alone) > 0


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """Two checkpoints of adapters that change what the base student writes."""
    directories = []
    for seed in (1, 2):
        model, tokenizer = load_model("base", device="cpu", lora=LoraSettings(rank=4), seed=seed)
        torch.manual_seed(seed)
        with torch.no_grad():
            for name, weights in model.named_parameters():
                if "lora_B" in name:
                    weights.normal_(0, 0.3)
        directory = tmp_path_factory.mktemp(f"adapters{seed}") / "checkpoint"
        save_checkpoint(model, tokenizer, directory, base="base")
        directories.append(directory)
    return directories


def test_adapters_are_swapped_in_a_running_server(servers, adapters):
    client = CompletionsClient(servers.urls, settings(), key=servers.key)

    async def load(name, path):
        await client.load_adapter(servers.urls[0], name, str(path))
        listed = await client.models(servers.urls[0])
        await client.disconnect()
        return listed

    async def unload(name):
        await client.unload_adapter(servers.urls[0], name)
        listed = await client.models(servers.urls[0])
        await client.disconnect()
        return listed

    seeds = range(len(TALKS))
    expected = [ends(local(each).act(TALKS, seeds, GREEDY)) for each in adapters]
    base = ends(local("base").act(TALKS, seeds, GREEDY))
    assert expected[0] != expected[1]
    assert base not in expected
    for number, directory in enumerate(adapters):
        assert f"a{number}" in asyncio.run(load(f"a{number}", directory))
    for number in (0, 1, 0):  # no prefix cache of the other one applies
        played = through(servers, f"a{number}").act(TALKS, seeds, GREEDY)
        assert ends(played) == expected[number]
    assert "a0" not in asyncio.run(unload("a0"))
    assert ends(through(servers).act(TALKS, seeds, GREEDY)) == base


def test_a_probe_accepts_the_model_and_refuses_another(servers, adapters):
    renderer = Renderer(load_model("base")[1])

    def probe(source):
        client = CompletionsClient(servers.urls, settings(), key=servers.key)
        wanted = Probe(
            model=NAME, source=source, dtype="float32", conversation=TALKS[0], max_tokens=24
        )

        async def run():
            try:
                return await probe_servers(client, settings(), renderer, wanted)
            finally:
                await client.disconnect()

        return asyncio.run(run())

    assert probe("base") == 1024
    with pytest.raises(ModelError, match="serves a different model"):
        probe(str(adapters[0]))


def test_bad_adapters_and_a_wrong_key_are_errors(servers, tmp_path):
    client = CompletionsClient(servers.urls, settings(), key=servers.key)
    stranger = CompletionsClient(servers.urls, settings(), key="wrong")

    async def ask(client, work):
        try:
            return await work
        finally:
            await client.disconnect()

    with pytest.raises(ModelError, match="refuses the adapters"):
        asyncio.run(ask(client, client.load_adapter(servers.urls[0], "b", str(tmp_path))))
    with pytest.raises(ModelError, match="refuses the key"):
        asyncio.run(ask(stranger, stranger.models(servers.urls[0])))


def test_a_port_in_use_is_an_error(servers, tmp_path):
    port = int(servers.urls[0].split(":")[2].removesuffix("/v1"))
    other = VllmServers(settings(port=port), servers.serving, gpus=[], logs=tmp_path)
    with pytest.raises(ConfigError, match=f"port {port} is in use"):
        other.start()


def test_a_server_that_is_killed_is_started_again_once(servers):
    """The last test of this server: it is killed twice."""
    policy = through(servers, revive=servers.revive)
    before = ends(policy.act(TALKS, range(len(TALKS)), GREEDY))
    mark = servers.key
    group = os.getpgid(engine_of(mark))
    os.killpg(group, signal.SIGKILL)
    assert ends(policy.act(TALKS, range(len(TALKS)), GREEDY)) == before
    assert servers.restarted() == 1
    os.kill(engine_of(mark), signal.SIGKILL)  # the server alone: its engine must not stay
    time.sleep(1)
    with pytest.raises(ModelError, match="ended twice"):
        policy.act(TALKS, range(len(TALKS)), GREEDY)
    assert [line for line in processes(mark) if "api_server" in line] == []


def engine_of(mark):
    """The process id of the server whose environment holds `mark`."""
    lines = [line for line in processes(mark) if "-m vllm.entrypoints" in line]
    assert lines
    return min(int(line.split()[0]) for line in lines if "guard.py" not in line)


SCRIPT = """
import sys, time
from pathlib import Path
from eef.models.location import locate
from eef.policies.settings import ServerSettings
from eef.policies.vllm_servers import Serving, VllmServers
settings = ServerSettings(python=sys.argv[1], arguments=("--enforce-eager",))
serving = Serving(model=locate("base"), dtype="float32", context=256)
servers = VllmServers(settings, serving, gpus=[], logs=Path(sys.argv[2]))
print(servers.key, flush=True)
servers.start()
time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_nothing_is_left_when_eef_is_killed_while_a_server_starts(tmp_path, number):
    settings()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, vllm_python(), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    key = process.stdout.readline().strip()
    deadline = time.monotonic() + 300
    while not any("EngineCore" in line for line in processes(key)) and time.monotonic() < deadline:
        time.sleep(0.5)
    before = processes(key)
    assert len(before) >= 2
    process.send_signal(number)
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 40
    while processes(key) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes(key) == []


def test_smollm2_plays_greedily_as_the_local_policy_does(tmp_path):
    directory = str(smollm2())
    serving = Serving(model=directory, dtype="float32", context=2048)
    started = VllmServers(settings(), serving, gpus=[], logs=tmp_path)
    started.start()
    try:
        talks = TALKS[:4]
        served = through(started, name=directory).act(talks, range(4), GREEDY)
        own = local(directory).act(talks, range(4), GREEDY)
        assert ends(served) == ends(own)
    finally:
        started.stop()
