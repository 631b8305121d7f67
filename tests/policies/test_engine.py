"""EnginePolicy through a server in this process: equal to the local policy, and under faults."""

import asyncio

import pytest

torch = pytest.importorskip("torch")
aiohttp = pytest.importorskip("aiohttp")

from eef.errors import ModelError  # noqa: E402
from eef.models.loading import load_model  # noqa: E402
from eef.policies import probe  # noqa: E402
from eef.policies.completions import CompletionsClient  # noqa: E402
from eef.policies.engine import EnginePolicy  # noqa: E402
from eef.policies.local import LocalPolicy  # noqa: E402
from eef.policies.probe import Probe, probe_servers  # noqa: E402
from eef.policies.settings import ServerSettings  # noqa: E402
from eef.policy import FreePolicy, Sampling  # noqa: E402
from eef.renderer import Renderer  # noqa: E402
from eef.trajectory import Author  # noqa: E402
from tests.fakes.fake_engine import FAULTS, fake_engine  # noqa: E402
from tests.fakes.tiny import save_tiny  # noqa: E402

pytestmark = pytest.mark.torch
AUTHOR = Author("student", "tiny")
TALK = [{"role": "system", "content": "rules"}, {"role": "user", "content": "page 1"}]
SHORT = Sampling(temperature=1.0, max_tokens=8)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"), context=256)


@pytest.fixture
def renderer(directory):
    return Renderer(load_model(str(directory))[1])


def settings(**changes):
    return ServerSettings(**{"urls": ["http://127.0.0.1:1/v1"], "backoff": 0.01, **changes})


def make_policy(urls, renderer, *, key=None, revive=None, context=256, **changes):
    urls = [urls] if isinstance(urls, str) else urls
    client = CompletionsClient(urls, settings(**changes), key=key, revive=revive)
    return EnginePolicy(client, "student", renderer, author=AUTHOR, context=context)


def probed(urls, renderer, directory, **changes):
    """The result of a probe of servers."""
    client = CompletionsClient([urls] if isinstance(urls, str) else urls, settings(**changes))
    about = Probe(
        model="student", source=str(directory), dtype="float32", conversation=TALK, max_tokens=8
    )

    async def run():
        try:
            return await probe_servers(client, settings(**changes), renderer, about)
        finally:
            await client.disconnect()

    return asyncio.run(run())


def test_completions_equal_those_of_the_local_policy(directory, renderer):
    model, tokenizer = load_model(str(directory))
    local = LocalPolicy(model, tokenizer, renderer, author=AUTHOR)
    talks = [[*TALK[:1], {"role": "user", "content": f"page {n}"}] for n in range(6)]
    with fake_engine(directory) as (url, engine):
        policy = make_policy(url, renderer)
        assert isinstance(policy, FreePolicy)
        assert policy.tools is renderer.tools
        for sampling in (SHORT, Sampling(temperature=0.0, max_tokens=8)):
            completions = policy.act(talks, range(6), sampling)
            expected = [local.act([talk], [seed], sampling)[0] for seed, talk in enumerate(talks)]
            assert [(each.text, each.finish, each.generated_tokens) for each in completions] == [
                (each.text, each.finish, each.generated_tokens) for each in expected
            ]
    request = engine.requests[0]
    assert request["prompt"] == renderer.prompt(talks[request["seed"]])
    sent = {name: request[name] for name in ("top_k", "min_p", "repetition_penalty", "ignore_eos")}
    assert sent == {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "ignore_eos": True}
    assert set(request["stop_token_ids"]) == renderer.stop_ids


@pytest.mark.parametrize("fault", FAULTS)
def test_a_request_that_fails_is_repeated(directory, renderer, fault):
    with fake_engine(directory, faults=[fault, fault]) as (url, engine):
        policy = make_policy(url, renderer, timeout=1 if fault == "hang" else 30)
        expected = make_policy(url, renderer)
        (completion,) = policy.act([TALK], [3], SHORT)
        assert completion.text == expected.act([TALK], [3], SHORT)[0].text
    assert completion.finish in ("stop", "length")
    assert len(engine.requests) == 4


@pytest.mark.parametrize("fault", ["500", "cut", "malformed"])
def test_a_request_without_an_answer_fails_one_rollout(directory, renderer, fault):
    with fake_engine(directory, faults=[fault] * 3) as (url, _):
        policy = make_policy(url, renderer, retries=2)
        first, second = (policy.act([TALK], [seed], SHORT)[0] for seed in (1, 2))
    assert first.finish == "error"
    assert first.text.startswith("no completion after 3 requests (3 × ")
    assert second.finish in ("stop", "length")


def test_a_conversation_without_room_overflows(directory, renderer):
    with fake_engine(directory, context=64) as (url, engine):
        long = [{"role": "user", "content": "x" * 300}]
        (completion,) = make_policy(url, renderer).act([long], [0], SHORT)
        assert (completion.finish, engine.requests) == ("overflow", [])
        middle = [{"role": "user", "content": "x" * 100}]  # the server has less room than stated
        (completion,) = make_policy(url, renderer).act([middle], [0], SHORT)
        assert (completion.finish, len(engine.requests)) == ("overflow", 1)
        tight = make_policy(url, renderer, context=len(renderer.prompt(TALK)) + 3)
        assert tight.act([TALK], [0], SHORT)[0].generated_tokens <= 3


def without_ids(answer):
    del answer["choices"][0]["token_ids"]


def with_another_echo(answer):
    answer["choices"][0]["prompt_token_ids"] = [1, 2]


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"changes": without_ids}, "returns no token ids", "return_token_ids"),
        ({"changes": with_another_echo}, "echoed a different prompt", "token ids"),
        ({"name": "other"}, "does not serve the model", "rollouts.server.model"),
        ({"key": "secret"}, "refuses the key", "EEF_SERVER_KEY"),
    ],
)
def test_a_server_that_cannot_be_used_is_an_error(directory, renderer, options, message, hint):
    with (
        fake_engine(directory, **options) as (url, _),
        pytest.raises(ModelError, match=message) as caught,
    ):
        make_policy(url, renderer, key="secret x").act([TALK], [0], SHORT)
    assert hint in caught.value.hint
    assert "secret x" not in caught.value.message


def test_no_server_is_an_error(renderer):
    with pytest.raises(
        ModelError, match=r"no connection to the server at http://127\.0\.0\.1:9/v1"
    ):
        make_policy("http://127.0.0.1:9/v1", renderer, retries=1).act([TALK], [0], SHORT)


def test_sessions_stay_with_their_server_and_leave_one_that_is_gone(directory, renderer):
    with fake_engine(directory) as (one, first), fake_engine(directory) as (two, second):
        policy = make_policy([one, two], renderer)

        async def play(sessions):
            asked = [policy.complete(TALK, 0, SHORT, session) for session in sessions]
            await asyncio.gather(*asked)
            await policy.disconnect()

        asyncio.run(play("abcd"))
        assert (len(first.requests), len(second.requests)) == (2, 2)
        asyncio.run(play("aaaa"))
        assert sorted((len(first.requests), len(second.requests))) == [2, 6]
        first.faults += ["closed"] * 10
        asyncio.run(play("abcd"))
        assert len(second.requests) >= 4


@pytest.mark.parametrize("fault", ["500", "hang"])
def test_a_request_that_fails_is_repeated_at_another_server(directory, renderer, fault):
    with fake_engine(directory) as (one, first), fake_engine(directory) as (two, second):
        first.faults += [fault] * 3
        policy = make_policy([one, two], renderer, timeout=0.5, retries=1)
        [completion] = policy.act([TALK], [0], SHORT)
    assert completion.finish in ("stop", "length")
    assert (len(first.requests), len(second.requests)) == (1, 1)


def test_a_host_that_does_not_answer_is_a_lost_connection(renderer, monkeypatch):
    def post(self, *arguments, **options):
        raise aiohttp.ConnectionTimeoutError("Connection timeout to host")

    monkeypatch.setattr(aiohttp.ClientSession, "post", post)
    with pytest.raises(ModelError, match=r"no connection .*Connection timeout"):
        make_policy("http://127.0.0.1:9/v1", renderer, retries=1).act([TALK], [0], SHORT)


def test_a_server_that_is_lost_is_started_again_once_for_all_requests(directory, renderer):
    revived = []

    async def revive(url):
        revived.append(url)
        await asyncio.sleep(0.05)
        engine.faults.clear()

    with fake_engine(directory) as (url, engine):
        engine.faults += ["closed"] * 4
        policy = make_policy(url, renderer, revive=revive)
        completions = policy.act([TALK] * 4, range(4), SHORT)
    assert revived == [url]
    assert {each.finish for each in completions} <= {"stop", "length"}


def test_a_probe_accepts_the_same_weights_and_returns_the_context(directory, renderer):
    with fake_engine(directory, context=200) as (one, _), fake_engine(directory) as (two, _):
        assert probed([one, two], renderer, directory) == 200
        assert probed([one], renderer, directory, probe=False) == 200


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"context": 20}, "takes conversations of 20 tokens; a first turn has", "max-model-len"),
        ({"name": "other"}, "does not serve 'student'; it lists 'other'", "server.model"),
        ({"changes": without_ids}, "returns no token ids", "return_token_ids"),
        ({"faults": ["500"] * 9}, "returned no completion", "its log"),
    ],
)
def test_a_probe_refuses_a_server(directory, renderer, options, message, hint):
    with (
        fake_engine(directory, **options) as (url, _),
        pytest.raises(ModelError, match=message) as caught,
    ):
        probed(url, renderer, directory)
    assert hint in caught.value.hint


def test_a_probe_refuses_another_model(directory, renderer, tmp_path):
    with fake_engine(save_tiny(tmp_path, seed=1)) as (url, _):
        with pytest.raises(ModelError, match="serves a different model than 'student'") as caught:
            probed(url, renderer, directory)
        assert "`rollouts.server.tolerance`" in caught.value.hint
        assert probed(url, renderer, directory, probe=False) == 4096


def test_a_probe_checks_every_server(directory, renderer, tmp_path):
    """The second server is not the first one under another address."""
    other = save_tiny(tmp_path, seed=1)
    with fake_engine(directory) as (one, first), fake_engine(other) as (two, second):
        with pytest.raises(ModelError, match=f"the server at {two} serves a different model"):
            probed([one, two], renderer, directory)
        assert (len(first.requests), len(second.requests)) == (1, 1)


@pytest.mark.parametrize("fault", ["500", "cut", "hang"])
def test_a_server_whose_engine_died_is_looked_after(directory, renderer, fault):
    """Its last requests fail in other ways than by a lost connection."""
    revived = []

    async def revive(url):
        revived.append(url)

    with fake_engine(directory) as (one, first), fake_engine(directory) as (two, second):
        first.faults += [fault]
        policy = make_policy([one, two], renderer, revive=revive, timeout=0.2, retries=1)
        [completion] = policy.act([TALK], [0], SHORT)
    assert completion.finish in ("stop", "length")
    assert revived == [one]
    assert len(second.requests) == 1, "it is avoided for a while"


def test_a_server_that_failed_once_is_used_again_later(directory, renderer, monkeypatch):
    with fake_engine(directory) as (one, first), fake_engine(directory) as (two, second):
        first.faults += ["500"]
        policy = make_policy([one, two], renderer)

        async def play(sessions):
            await asyncio.gather(*(policy.complete(TALK, 0, SHORT, each) for each in sessions))
            await policy.disconnect()

        asyncio.run(play("a"))
        asyncio.run(play("bcde"))
        assert (len(first.requests), len(second.requests)) == (1, 5)
        monkeypatch.setattr("eef.policies.completions._AVOIDED", 0.0)
        asyncio.run(play("fghi"))
        assert (len(first.requests), len(second.requests)) == (3, 7)


@pytest.mark.parametrize(
    ("place", "files", "left"),
    [
        ("0::/job/step", {"job/memory.max": "300", "job/memory.current": "100"}, 200),
        ("0::/job/step", {"job/step/memory.max": "max", "job/step/memory.current": "9"}, None),
        ("0::/", {"memory.max": "50", "memory.current": "60"}, 0),
        ("3:memory:/job", {}, None),
    ],
)
def test_memory_limits_of_a_job_are_respected(tmp_path, monkeypatch, place, files, left):
    for name, text in files.items():
        (tmp_path / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "groups" / name).write_text(f"{text}\n")
    (tmp_path / "cgroup").write_text(f"{place}\n")
    (tmp_path / "meminfo").write_text("MemAvailable:    1 kB\n")
    monkeypatch.setattr(probe, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(probe, "_CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(probe, "_MEMORY", tmp_path / "meminfo")
    assert probe._left_in_group() == left
    assert probe._available() == (1024 if left is None else left)
