"""ApiPolicy: no failure of a server loses responses, exceeds the budget or reveals the key."""

from __future__ import annotations

import json
import logging
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from itertools import pairwise
from pathlib import Path

import openai
import pytest

from eef.envs.toy import ToyEnv, make_toy_expert
from eef.errors import BudgetError, ConfigError, ModelError
from eef.pipeline.context import RunContext
from eef.pipeline.pipeline import Pipeline
from eef.pipeline.run_directory import RunDirectory
from eef.pipeline.stages import COLLECT, Stage
from eef.policies.openai import ApiPolicy
from eef.policies.response_cache import CACHE_FILE, ResponseCache
from eef.policies.settings import ApiSettings
from eef.policy import Sampling
from eef.react import cut_completion
from eef.report.status import stage_status
from eef.rollouts.into_store import play_into_store
from eef.rollouts.runner import RolloutParameters
from eef.rollouts.specs import RolloutSpec
from eef.rollouts.store import Store, read_trajectories
from eef.trajectory import Author
from tests.fakes.served import FAULTS, Proxy, chat_answer, serving
from tests.fakes.small_run import as_recipe, eef, small_recipe, write_recipe

KEY = "sk-very-secret-0123456789"
SAMPLING = Sampling(temperature=0.7, max_tokens=40)
TALK = [{"role": "system", "content": "rules"}, {"role": "user", "content": "see"}]


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def settings(base, **changes):
    return ApiSettings(base_url=f"{base}/v1", **{"backoff": 0.001, "timeout": 20.0, **changes})


def expert_server(path, headers, body):
    """The toy's flawless expert behind an API: what it writes depends on the conversation alone."""
    asked = json.loads(body)
    completion = (
        make_toy_expert(ToyEnv(), "flawless").act([asked["messages"]], [0], SAMPLING)[0].text
    )
    prompt = sum(len(message["content"]) // 4 + 5 for message in asked["messages"])
    return chat_answer(completion + "\nObservation: I made this up.", prompt=prompt, written=12)


def collected(directory, base, count=6, batch_size=6, **changes):
    env = ToyEnv()
    tasks = env.tasks("train").head(count)
    planned = [
        RolloutSpec(f"e/{task.id}", task, None, number, 0) for number, task in enumerate(tasks)
    ]
    policy = ApiPolicy(
        "m", settings(base, **changes), author=Author("expert", "m"), cache=directory / CACHE_FILE
    )
    with Store.open(directory) as store:
        play_into_store(
            planned,
            store,
            env,
            policy,
            RolloutParameters(sampling=SAMPLING, step_limit=10, batch_size=batch_size),
        )
        return {item.id: item for item in store.trajectories}, ResponseCache(
            directory / CACHE_FILE, settings(base)
        ).usage


def completions_of(trajectories):
    return {
        name: (item.status, item.reward, [s.completion for s in item.steps])
        for name, item in trajectories.items()
    }


# faults


def test_no_failure_of_a_server_loses_a_rollout(tmp_path):
    with serving(expert_server) as (base, _):
        (tmp_path / "plain").mkdir()
        plain, spent = collected(tmp_path / "plain", base)
        assert spent.failures == {}
        assert all(item.success for item in plain.values())
        proxy = Proxy(base, share=0.45, seed=3, pause=3.0)
        with serving(proxy) as (faulty, seen):
            (tmp_path / "faulty").mkdir()
            got, spent = collected(tmp_path / "faulty", faulty, retries=30, timeout=2.0)
    assert completions_of(got) == completions_of(plain)
    assert set(proxy.injected) == set(FAULTS)
    assert spent.failures.total() == proxy.injected.total()
    assert (
        spent.requests
        == len(seen)
        == sum(len(item.steps) for item in got.values()) + proxy.injected.total()
    )
    assert spent.failures["429"] == proxy.injected["429"]
    assert spent.failures["time-out"] >= 1
    broken = sum(proxy.injected[kind] for kind in ("malformed", "cut", "closed", "slow"))
    assert (
        spent.failures["malformed"] + spent.failures["connection"] + spent.failures["time-out"]
        == broken
    )


def test_a_request_that_never_succeeds_fails_its_rollout_only(tmp_path):
    with serving(lambda path, headers, body: FAULTS["503"]()) as (base, seen):
        got, spent = collected(tmp_path, base, count=1, retries=2)
    assert {item.status for item in got.values()} == {"error"}  # the first try and the second
    assert got["e/toy/40"].error == "policy: no completion after 3 requests (3 × 503): overloaded"
    assert (spent.requests, len(seen), spent.completion_tokens) == (6, 6, 0)


def test_retry_after_is_respected(tmp_path):
    times = []

    def busy(path, headers, body):
        times.append(time.monotonic())
        return (
            (429, {"Retry-After": "0.3"}, b"{}") if len(times) == 1 else chat_answer("Action: left")
        )

    with serving(busy) as (base, _):
        policy = ApiPolicy(
            "m", settings(base), author=Author("expert", "m"), cache=tmp_path / "a.jsonl"
        )
        policy.act([TALK], [0], SAMPLING)
    assert times[1] - times[0] >= 0.29


@pytest.mark.parametrize(
    ("status", "words", "error"),
    [
        (401, f"Incorrect API key provided: {KEY}", "refuses the key"),
        (404, "no model m", "refuses a request for 'm'"),
    ],
)
def test_an_error_that_no_retry_can_fix_ends_the_call(status, words, error, tmp_path):
    body = json.dumps({"error": {"message": words}}).encode()
    with serving(lambda *asked: (status, {}, body)) as (base, seen):
        policy = ApiPolicy(
            "m", settings(base), author=Author("expert", "m"), cache=tmp_path / "a.jsonl"
        )
        with pytest.raises(ModelError, match=error) as caught:
            policy.act([TALK], [0], SAMPLING)
    assert len(seen) == 1
    assert KEY not in caught.value.message + caught.value.hint


def test_a_rejected_option_is_never_sent_again(tmp_path):
    def picky(path, headers, body):
        asked = json.loads(body)
        for name in ("seed", "stop", "max_tokens", "temperature"):
            if name in asked:
                return (
                    400,
                    {},
                    json.dumps({"error": {"message": f"Unsupported parameter: '{name}'"}}).encode(),
                )
        return chat_answer("Action: left")

    with serving(picky) as (base, seen):
        policy = ApiPolicy(
            "m",
            settings(base, retries=0, concurrency=4),
            author=Author("expert", "m"),
            cache=tmp_path / "a.jsonl",
        )
        answers = policy.act([TALK] * 8, list(range(8)), SAMPLING)
        first = len(seen)
        policy.act([TALK] * 8, list(range(8, 16)), SAMPLING)
    assert {answer.text for answer in answers} == {"Action: left"}
    assert len(seen) - first == 8  # found out once
    assert json.loads(seen[-1][2])["max_completion_tokens"] == 40


def test_a_full_context_ends_the_rollout_as_truncated(tmp_path):
    body = b'{"error": {"message": "This model\'s maximum context length is 10 tokens"}}'
    with serving(lambda *asked: (400, {}, body)) as (base, _):
        policy = ApiPolicy(
            "m", settings(base), author=Author("expert", "m"), cache=tmp_path / "a.jsonl"
        )
        assert policy.act([TALK], [0], SAMPLING)[0].finish == "overflow"


def test_completions_are_cut_after_the_action(tmp_path):
    assert (
        cut_completion("Thought: a\nAction:\nsearch[b]\nObservation: c")
        == "Thought: a\nAction:\nsearch[b]"
    )
    assert cut_completion("no action at all \n") == "no action at all"
    with serving(expert_server) as (base, _):
        got, _ = collected(tmp_path, base, count=2)
    assert not any(
        "made this up" in step.completion for item in got.values() for step in item.steps
    )


def answers_with(tmp_path, choice, retries=6):
    """What the policy makes of a server that always answers with `choice`; the request count."""
    usage = {"prompt_tokens": 9, "completion_tokens": 40}
    body = json.dumps({"choices": [choice], "usage": usage}).encode()
    tmp_path.mkdir(exist_ok=True)
    with serving(lambda *asked: (200, {}, body)) as (base, seen):
        policy = ApiPolicy(
            "m",
            settings(base, retries=retries),
            author=Author("expert", "m"),
            cache=tmp_path / "a.jsonl",
        )
        (completion,) = policy.act([TALK], [0], SAMPLING)
    return completion, len(seen)


TEXT = {"type": "text", "text": "Thought: on.\nAction: right"}


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": [TEXT]}, "Thought: on.\nAction: right"),
        (
            {"content": [{"type": "text", "text": "Thought: on.\n"}, "Action: right"]},
            "Thought: on.\nAction: right",
        ),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "I go on."}]},
                    TEXT,
                ]
            },
            "<think>\nI go on.\n</think>\n\nThought: on.\nAction: right",
        ),
        (
            {"content": TEXT["text"], "reasoning_content": "I go on."},
            "<think>\nI go on.\n</think>\n\nThought: on.\nAction: right",
        ),
        (
            {"content": TEXT["text"], "reasoning_content": None, "reasoning": "I go on."},
            "<think>\nI go on.\n</think>\n\nThought: on.\nAction: right",
        ),
    ],
)
def test_an_answer_in_parts_or_with_reasoning_is_read(message, text, tmp_path):
    choice = {"message": {"role": "assistant", **message}, "finish_reason": "stop"}
    completion, requests = answers_with(tmp_path, choice)
    assert (completion.text, completion.finish, requests) == (text, "stop", 1)


@pytest.mark.parametrize(
    "broken",
    [
        {"finish_reason": "error", "error": {"code": 502, "message": "Provider disconnected"}},
        {"finish_reason": "error"},
        {"finish_reason": "stop", "error": {"code": 502, "message": "Provider disconnected"}},
    ],
)
def test_an_interrupted_answer_is_a_failed_attempt(broken, tmp_path):
    choice = {"message": {"role": "assistant", "content": "Thought: on.\nAction: rig"}, **broken}
    completion, requests = answers_with(tmp_path, choice, retries=2)
    assert (completion.finish, requests) == ("error", 3)
    words = ": Provider disconnected" if "error" in broken else ""
    assert completion.text == f"no completion after 3 requests (3 × interrupted){words}"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "Thought: on.\nAction: rig"}, "Thought: on."),
        ({"content": "Thought: on.\nAction: click[buy n"}, "Thought: on."),
        ({"content": "Action: rig"}, ""),
        ({"content": "Action: reply[Dear,\nyour"}, ""),
        ({"content": "Action: click[buy now]"}, "Action: click[buy now]"),
        ({"content": "Action: right\nObservation: Room"}, "Action: right"),
        ({"content": "<think>so</think>Action: rig"}, "<think>so</think>"),
    ],
)
def test_an_action_that_is_cut_is_not_played(message, text, tmp_path):
    for finish in ("length", "MAX_TOKENS"):
        choice = {"message": {"role": "assistant", **message}, "finish_reason": finish}
        completion, requests = answers_with(tmp_path / finish, choice)
        assert (completion.text, completion.finish, requests) == (text, "length", 1)


@pytest.mark.parametrize("text", [None, "Thought: on.\nAction: right"])
def test_a_filtered_answer_is_a_failed_attempt(text, tmp_path):
    message = {"role": "assistant", "content": text}
    choice = {"message": message, "finish_reason": "content_filter"}
    completion, requests = answers_with(tmp_path, choice, retries=1)
    assert (completion.finish, requests) == ("error", 2)
    assert "2 × filtered" in completion.text


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": None, "reasoning_content": "Let me see"}, "<think>\nLet me see\n</think>"),
        ({"content": ""}, ""),
        ({"content": None}, ""),
    ],
)
def test_a_model_whose_reasoning_takes_all_tokens_is_asked_once(message, text, tmp_path):
    choice = {"message": {"role": "assistant", **message}, "finish_reason": "length"}
    completion, requests = answers_with(tmp_path, choice)
    assert (completion.text, completion.finish, requests) == (text, "length", 1)
    assert (completion.prompt_tokens, completion.generated_tokens) == (9, 40)


def test_each_request_starts_with_the_previous_one(tmp_path):
    with serving(expert_server) as (base, seen):
        collected(tmp_path, base, count=1)
    sent = [json.loads(body)["messages"] for _, _, body in seen]
    assert len(sent) > 2
    for before, after in pairwise(sent):
        assert after[: len(before)] == before
        assert len(after) == len(before) + 2


# budget, resume


PRICES = {"prompt_price": 1.0, "completion_price": 1.0}


@pytest.mark.parametrize(
    "limit", [{"max_requests": 10}, {"max_tokens": 3000}, {"max_cost": 0.003, **PRICES}]
)
def test_a_budget_is_never_exceeded_and_responses_are_kept(limit, tmp_path):
    with serving(expert_server) as (base, seen):
        with pytest.raises(BudgetError, match="the budget is spent") as caught:
            collected(tmp_path, base, **limit)
        spent = ResponseCache(tmp_path / CACHE_FILE, settings(base, **limit)).usage
        assert f"expert.api.{next(iter(limit))}" in caught.value.hint
        assert 0 < spent.requests == len(seen) <= limit.get("max_requests", 99)
        assert spent.tokens <= limit.get("max_tokens", 10**9)
        assert spent.cost <= limit.get("max_cost", 10**9)
        asked = {body for _, _, body in seen}
        got, after = collected(tmp_path, base)
        assert (
            len({body for _, _, body in seen}) == len(seen) == after.requests
        )  # nothing was asked twice
        assert asked <= {body for _, _, body in seen}
        (tmp_path / "at once").mkdir()
        assert completions_of(got) == completions_of(collected(tmp_path / "at once", base)[0])


def test_a_spent_budget_can_be_raised_and_the_collection_continued(recipe, tmp_path):
    run = tmp_path / "my run"
    with serving(expert_server) as (base, seen):
        options = ("--policy", "openai/m", "--base-url", f"{base}/v1", "--out", run)
        spent = eef("collect", recipe, *options, "--set", "expert.api.max_requests=5")
        assert (spent.exit_code, len(seen)) == (2, 5)
        (command,) = re.findall(r"`eef (collect .*?)` continues", " ".join(spent.stderr.split()))
        assert command == f"collect '{run}' --set expert.api.max_requests=10"
        again = eef(*shlex.split(command))
        assert (again.exit_code, len(seen)) == (2, 10)
        more = ("expert.api.max_requests=null", "expert.api.retries=9", "expert.api.concurrency=2")
        same = eef(
            "collect", recipe, *options, *(part for each in more for part in ("--set", each))
        )
        assert same.exit_code == 0, same.stderr
        assert len({body for _, _, body in seen}) == len(seen)  # no request was sent twice
    stored = RunDirectory.open(run).recipe.expert.api
    assert (stored.max_requests, stored.retries, stored.concurrency) == (None, 9, 2)
    other = eef("collect", run, "--set", "sampling.temperature=0.1")
    assert "whose recipe is fixed" in other.stderr


def test_the_settings_of_a_server_may_change_where_none_were_given(recipe, tmp_path):
    run = tmp_path / "run"
    refused = eef("collect", recipe, "--policy", "openai/m", "--out", run, "--dry-run")
    assert refused.exit_code == 0
    with serving(expert_server) as (base, _):
        settings = {**json.loads(Path(recipe).read_text()), "expert": {"names": ["openai/m"]}}
        pipeline = Pipeline.create(run, as_recipe(settings))
        (run / "expert").mkdir()
        assert pipeline.run.recipe.expert.api is None
        done = eef("collect", run, "--base-url", f"{base}/v1")
        assert done.exit_code == 0, done.stderr
    assert RunDirectory.open(run).recipe.expert.api.base_url == f"{base}/v1"


def test_a_dry_run_estimates_and_sends_nothing(recipe, tmp_path):
    with serving(expert_server) as (base, seen):
        done = eef(
            "collect",
            recipe,
            "--policy",
            "openai/m",
            "--base-url",
            f"{base}/v1",
            "--dry-run",
            "--set",
            "expert.api.prompt_price=2.0",
            "--out",
            tmp_path / "run",
        )
        assert (done.exit_code, seen) == (0, [])
        assert not (tmp_path / "run").exists()
        likely, most = re.findall(
            r"(?:likely|at most) +([\d,]+) requests, ([\d,]+) prompt tokens", done.stdout
        )
        assert "no request was sent" in done.stdout
        real = eef(
            "collect",
            recipe,
            "--policy",
            "openai/m",
            "--base-url",
            f"{base}/v1",
            "--out",
            tmp_path / "run",
        )
    assert real.exit_code == 0
    assert int(likely[0]) <= int(most[0]) == 8 * 7
    assert len(seen) <= int(most[0])


def test_a_dry_run_warns_if_the_budget_will_not_suffice(recipe, tmp_path):
    options = ("collect", recipe, "--policy", "openai/m", "--base-url", "http://127.0.0.1:9/v1")
    assert "cost unknown: set `expert.api.prompt_price`" in eef(*options, "--dry-run").stderr
    priced = ("--set", "expert.api.prompt_price=100.0", "--dry-run")
    for limit, warning in (
        ("max_requests=5", "`expert.api.max_requests` is 5"),
        ("max_tokens=50", "`expert.api.max_tokens` is 50"),
        ("max_cost=0.01", "`expert.api.max_cost` is 0.01"),
        ("max_requests=5000", None),
    ):
        done = eef(*options, *priced, "--set", f"expert.api.{limit}")
        assert done.exit_code == 0
        assert "cost unknown" not in done.stderr
        assert ("warning: " in done.stderr) == (warning is not None)
        assert (warning or "") in done.stderr


def test_a_dry_run_estimates_each_expert_with_its_own_sampling(recipe):
    settings = {**json.loads(Path(recipe).read_text())}
    own = {"openai/n": {"sampling": {"max_tokens": 3000}}}
    settings["expert"] = {"names": ["openai/m", "openai/n"], "own": own}
    changed = write_recipe(Path(recipe).with_name("own.json"), settings)
    done = eef("collect", changed, "--dry-run", "--set", "expert.api.max_tokens=100")
    assert done.exit_code == 0, done.stderr
    most = re.findall(r"at most +[\d,]+ requests, .* ([\d,]+) completion tokens", done.stdout)
    assert most == [f"{8 * 7 * 8:,}", f"{8 * 7 * 3000:,}"]
    likely = re.findall(r"likely +.* ([\d,]+) prompt tokens, ([\d,]+) comp", done.stdout)
    total = sum(int(each.replace(",", "")) for pair in likely for each in pair)
    assert f"likely tokens {total:,}," in done.stderr


def test_an_expert_is_sampled_in_its_own_way(recipe, tmp_path):
    own = ("expert.sampling.max_tokens=3000", "expert.sampling.temperature=1.0")
    with serving(expert_server) as (base, seen):
        options = ("--policy", "openai/m", "--base-url", f"{base}/v1")
        plain = eef("collect", recipe, *options, "--out", tmp_path / "plain")
        asked = [json.loads(body) for _, _, body in seen]
        assert {(each["max_tokens"], each["temperature"]) for each in asked} == {(8, 0.7)}
        seen.clear()
        changes = [part for each in own for part in ("--set", each)]
        done = eef("collect", recipe, *options, *changes, "--out", tmp_path / "own")
        asked = [json.loads(body) for _, _, body in seen]
        assert {(each["max_tokens"], each["temperature"]) for each in asked} == {(3000, 1.0)}
        assert {each["top_p"] for each in asked} == {1.0}
    assert (plain.exit_code, done.exit_code) == (0, 0)
    context = RunContext(RunDirectory.open(tmp_path / "own"))
    assert context.sampling(Stage("expert", 0, "evaluate")) == Sampling(
        temperature=0.0, max_tokens=3000
    )
    assert context.sampling(Stage("eef", 1, "explore")) == Sampling(max_tokens=8)
    assert context.sampling(Stage("eef", 1, "evaluate")) == Sampling(temperature=0, max_tokens=8)
    refused = eef("collect", recipe, "--set", "expert.sampling.top_p=0.9", "--dry-run")
    assert "`expert`: `sampling` has no effect" in refused.stderr


def test_experts_have_prompts_servers_and_sampling_of_their_own(student, tmp_path):
    with serving(expert_server) as (one, seen_one), serving(expert_server) as (two, seen_two):
        settings = small_recipe(student, methods=["bc"], tasks={"train": 3, "test": 2}) | {
            "options": {},
            "expert": {
                "names": ["openai/m", "openai/n"],
                "api": {"base_url": f"{one}/v1"},
                "own": {
                    "openai/n": {
                        "prompt": "Be brief.",
                        "base_url": f"{two}/v1",
                        "sampling": {"temperature": 0.1},
                    }
                },
            },
        }
        pipeline = Pipeline.create(tmp_path / "run", as_recipe(settings))
        pipeline.execute(COLLECT)
    assert {json.loads(body)["model"] for _, _, body in seen_one} == {"m"}
    asked = [json.loads(body) for _, _, body in seen_two]
    assert {(each["model"], each["temperature"]) for each in asked} == {("n", 0.1)}
    assert all(each["messages"][0]["content"].endswith("\n\nBe brief.") for each in asked)
    assert not any(b"Be brief." in body for _, _, body in seen_one)


def test_requests_are_spread_over_servers_and_move_on_when_one_fails(tmp_path):
    with serving(expert_server) as (one, seen_one), serving(expert_server) as (two, seen_two):
        collected(tmp_path, one, count=12, batch_size=12, more_urls=[f"{two}/v1"])
        starts = [
            {json.dumps(json.loads(body)["messages"][:2]) for _, _, body in seen}
            for seen in (seen_one, seen_two)
        ]
        assert all(starts), "both servers were asked"
        assert not starts[0] & starts[1], "each conversation stays with one server"
    down = lambda *_: (503, {}, b"{}")  # noqa: E731
    with serving(expert_server) as (one, _), serving(down) as (two, seen_two):
        (tmp_path / "again").mkdir()
        again, spent = collected(
            tmp_path / "again", one, count=12, batch_size=12, more_urls=[f"{two}/v1"]
        )
    assert all(item.success for item in again.values())
    assert spent.failures["503"] == len(seen_two) > 0


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"openai/x": {"prompt": "p"}}, "settings of 'openai/x'"),
        ({"scripted/weak": {"prompt": "p"}}, "'scripted/weak'; scripted experts have none"),
        ({"hf/m": {"base_url": "http://127.0.0.1:1/v1"}}, "'hf/m', which uses none"),
        ({"openai/m": {"base_url": "here"}}, "`base_url` is not an address"),
    ],
)
def test_own_settings_without_effect_are_refused(own, message):
    names = ["openai/m", "hf/m", "scripted/weak"]
    with pytest.raises(ConfigError, match=re.escape(message)):
        as_recipe(small_recipe("s", expert={"names": names, "own": own}))


def test_the_rate_limit_is_respected(tmp_path):
    times = []

    def clocked(path, headers, body):
        times.append(time.monotonic())
        return chat_answer("Action: left")

    with serving(clocked) as (base, _):
        policy = ApiPolicy(
            "m",
            settings(base, requests_per_minute=600),
            author=Author("expert", "m"),
            cache=tmp_path / "a.jsonl",
        )
        policy.act([TALK] * 5, list(range(5)), SAMPLING)
    assert max(times) - min(times) >= 0.35


# what a server states


def failing(status, message="no", **fields):
    return status, {}, json.dumps({"error": {"message": message, **fields}}).encode()


def policy_at(base, tmp_path, **changes):
    return ApiPolicy(
        "m", settings(base, **changes), author=Author("expert", "m"), cache=tmp_path / "a.jsonl"
    )


def one_refused(refusal):
    """A server that refuses the conversation about "red", and answers all others."""

    def server(path, headers, body):
        asked = json.loads(body)
        if "red" in asked["messages"][1]["content"]:
            return refusal
        return chat_answer("Action: left")

    return server


RED = [TALK[0], {"role": "user", "content": "red"}]


@pytest.mark.parametrize(
    "refusal",
    [
        failing(400, "the content management policy", code="content_filter"),
        failing(400, "Input data may contain inappropriate content", code="data_inspection_failed"),
        failing(403, "your input was flagged"),
        failing(413, "no: too much"),
        failing(400, "no: the server does not state why"),
        (200, {}, b'{"error": {"message": "flagged by moderation"}}'),
    ],
)
@pytest.mark.parametrize("red_first", [True, False])
def test_a_refusal_of_one_conversation_ends_one_rollout(refusal, red_first, tmp_path):
    talks = [RED, TALK, TALK] if red_first else [TALK, TALK, RED]
    with serving(one_refused(refusal)) as (base, seen):
        policy = policy_at(base, tmp_path, concurrency=1, retries=5)
        done = {
            talk[1]["content"]: each
            for talk, each in zip(talks, policy.act(talks, [1, 2, 3], SAMPLING), strict=True)
        }
    assert (done["see"].text, done["see"].finish) == ("Action: left", "stop")
    assert done["red"].finish == "error"
    assert json.loads(refusal[2])["error"]["message"] in done["red"].text
    assert len(seen) <= 3 + 3  # no retries; at most the trials without `seed` and `stop`
    assert policy._cache.usage.dropped == {}
    assert {"seed", "stop"} <= set(json.loads(seen[-1][2]))
    assert len(policy._cache._completions) == 2


def test_a_limit_per_minute_is_waited_for_and_what_never_fits_is_cut(tmp_path):
    words = "Request too large for model `m` on tokens per minute (TPM): Limit 6000, "
    waits = []

    def server(path, headers, body):
        if "red" in json.loads(body)["messages"][1]["content"]:
            return failing(413, f"{words}Requested 6510", code="rate_limit_exceeded")
        waits.append(time.monotonic())
        if len(waits) > 1:
            return chat_answer("Action: left")
        status, _, content = failing(413, f"{words}Used 5900, Requested 400")
        return status, {"Retry-After": "0.2"}, content

    with serving(server) as (base, seen):
        policy = policy_at(base, tmp_path, concurrency=1, retries=5)
        red, talk = policy.act([RED, TALK], [1, 2], SAMPLING)
    assert (red.finish, red.text) == ("overflow", "")
    assert (talk.finish, talk.text) == ("stop", "Action: left")
    assert waits[1] - waits[0] >= 0.19
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("answer", "message", "hint"),
    [
        (failing(401, "bad key"), r"refuses the key \(401\): bad key", "OPENAI_API_KEY"),
        (failing(402, "more credits"), r"used up \(402\): more credits", "add credit"),
        (failing(429, "see your plan", code="insufficient_quota"), "see your plan", "add credit"),
        (failing(404, "no model m"), r"'m' \(404\): no model m", "the model's name"),
        ((404, {}, b'{"detail": "Not Found"}'), "Not Found", "/v1"),
        ((400, {}, b'[{"error": {"message": "API key not valid"}}]'), "API key not valid", "KEY"),
        ((403, {}, b"<title>Just a moment</title>"), "Just a moment", "KEY"),
        ((400, {}, b"plain words"), "plain words", "/v1"),
        ((200, {}, b'{"error": "Unexpected endpoint or method."}'), "Unexpected endpoint", "/v1"),
        ((200, {}, b"<html><title>Sign in</title></html>"), "Sign in", "/v1"),
        ((200, {}, b"it works"), "it works", "/v1"),
        ((200, {}, b'{"object": "list", "data": []}'), "object", "/v1"),
        ((200, {}, b'{"choices": [], "message": "no such model"}'), "no such model", "/v1"),
        (failing(400, "max_tokens: at most 8", param="max_tokens"), "at most 8", "max_tokens"),
    ],
)  # fmt: skip
def test_a_refusal_of_every_request_ends_the_run_with_the_servers_words(
    answer, message, hint, tmp_path
):
    with (
        serving(lambda *asked: answer) as (base, seen),
        pytest.raises(ModelError, match=message) as caught,
    ):
        policy_at(base, tmp_path, concurrency=1).act([TALK], [0], SAMPLING)
    assert hint in caught.value.hint
    assert len(seen) <= 4  # the first, and trials without `seed` and `stop`


def test_a_host_that_does_not_answer_ends_the_run(tmp_path, monkeypatch):
    class ConnectTimeout(Exception):  # as httpx and its successor call it
        pass

    def request(self, *arguments, **options):
        raise openai.APITimeoutError(request=None) from ConnectTimeout()

    monkeypatch.setattr(openai.OpenAI, "request", request)
    policy = policy_at("http://127.0.0.1:9", tmp_path, retries=1)
    with pytest.raises(ModelError, match=r"no connection to the server .*does not answer"):
        policy.act([TALK] * 2, [0, 1], SAMPLING)


def test_a_server_that_cannot_be_reached_ends_the_run(tmp_path):
    with serving(lambda *asked: None) as (base, _):
        pass
    policy = policy_at(base, tmp_path, retries=2)
    with pytest.raises(ModelError, match=r"no connection to the server at .*: .*refused") as caught:
        policy.act([TALK], [0], SAMPLING)
    assert "`expert.api.base_url`" in caught.value.hint
    assert policy._cache.usage.failures == {"connection": 3}


@pytest.mark.parametrize(
    ("status", "reject"),
    [
        (400, lambda name: {"error": {"message": "Unsupported parameter", "param": name}}),
        (400, lambda name: {"error": {"message": f"Unrecognized request argument: {name}"}}),
        (422, lambda name: {"detail": [{"loc": ["body", name], "msg": "Extra inputs"}]}),
        (400, lambda name: [{"error": {"message": f'Unknown name "{name}": Cannot find field.'}}]),
        (200, lambda name: {"error": f"unknown field `{name}`"}),
        (400, lambda name: {"error": {"message": "Bad request"}}),  # found by trials
    ],
)
@pytest.mark.parametrize("name", ["seed", "stop", "top_p", "temperature"])
def test_a_rejected_option_is_named_and_left_out(status, reject, name, tmp_path, caplog):
    def picky(path, headers, body):
        if name in json.loads(body):
            return status, {}, json.dumps(reject(name)).encode()
        return chat_answer("Action: left")

    if reject(name) == {"error": {"message": "Bad request"}} and name not in ("seed", "stop"):
        pytest.skip("only `seed` and `stop` decide nothing and are tried")
    with serving(picky) as (base, seen):
        policy = policy_at(base, tmp_path, concurrency=1, retries=0)
        done = policy.act([TALK] * 3, [0, 1, 2], SAMPLING)
        assert [each.text for each in done] == ["Action: left"] * 3
        requests = len(seen)
        again = policy_at(base, tmp_path)  # an interrupted collection continues without it
        again.act([TALK], [3], SAMPLING)
        assert len(seen) == requests + 1
    assert requests <= 3 + 2
    assert again._cache.usage.dropped == {"m": [name]}
    assert caplog.text.count(f"does not take `{name}`") == 1
    others = {"seed", "stop", "top_p", "temperature", "max_tokens"} - {name}
    assert others <= set(json.loads(seen[-1][2]))


def test_dropped_options_are_in_the_summary_of_the_stage(recipe, tmp_path):
    def picky(path, headers, body):
        if "top_p" in json.loads(body):
            return failing(400, "Unsupported parameter", param="top_p")
        return expert_server(path, headers, body)

    with serving(picky) as (base, _):
        options = ("--policy", "openai/m", "--base-url", f"{base}/v1", "--out", tmp_path / "run")
        assert eef("collect", recipe, *options).exit_code == 0
    run = RunDirectory.open(tmp_path / "run")
    assert run.summary(COLLECT)["sources"]["api"]["dropped"] == {"m": ["top_p"]}
    assert "`top_p` not supported by the server of m" in stage_status(run, COLLECT)


def test_a_stream_is_read_as_an_answer(tmp_path):
    events = [
        {"choices": [{"delta": {"reasoning_content": "Hm."}}]},
        {"choices": [{"delta": {"content": "Thought: on.\nAct"}}]},
        {"choices": [{"delta": {"content": "ion: left"}, "finish_reason": "stop"}]},
        {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}},
    ]
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    with serving(lambda *asked: (200, {}, body.encode())) as (base, _):
        (done,) = policy_at(base, tmp_path).act([TALK], [0], SAMPLING)
    assert done.text == "<think>\nHm.\n</think>\n\nThought: on.\nAction: left"
    assert (done.prompt_tokens, done.generated_tokens) == (9, 4)


# what is paid for


@pytest.mark.parametrize(
    ("choice", "requests", "failure"),
    [
        ({"message": {"content": None}, "finish_reason": "stop"}, 3, {"empty": 3}),
        ({"message": {"content": "half"}, "finish_reason": "content_filter"}, 3, {"filtered": 3}),
        ({"message": {"content": "half"}, "finish_reason": "error"}, 3, {"interrupted": 3}),
        ({"message": {"content": None, "refusal": "I can't."}}, 1, {"refused": 1}),
        ({"message": {"content": None}, "finish_reason": "length"}, 1, {}),
        ({"message": {"content": "Action: left"}, "finish_reason": "stop"}, 1, {}),
    ],
)
@pytest.mark.parametrize("reported", [True, False])
def test_tokens_of_every_answer_are_counted(choice, requests, failure, reported, tmp_path):
    body = {"choices": [choice]}
    if reported:
        body["usage"] = {"prompt_tokens": 100, "completion_tokens": 30}
    content = json.dumps(body).encode()
    with serving(lambda *asked: (200, {}, content)) as (base, seen):
        policy_at(base, tmp_path, retries=2).act([TALK], [0], SAMPLING)
    spent = ResponseCache(tmp_path / "a.jsonl", settings("http://x", **PRICES)).usage
    assert (len(seen), spent.requests, dict(spent.failures)) == (requests, requests, failure)
    if reported:
        assert (spent.prompt_tokens, spent.completion_tokens) == (100 * requests, 30 * requests)
    else:
        assert spent.prompt_tokens == requests * (5 // 3 + 3 // 3 + 2 + 16)
        message = choice["message"].get("content")
        cut = choice.get("finish_reason") == "length"
        written = 40 if cut else len(message) // 3 + 1 if message else 0
        assert spent.completion_tokens == requests * written
    assert spent.cost == pytest.approx(spent.tokens / 1e6)


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": 100, "completion_tokens": 64},
        {"prompt_tokens": 100, "total_tokens": 164},
        {"input_tokens": 100, "output_tokens": 64},
    ],
)
@pytest.mark.parametrize("limit", [{"max_tokens": 1000}, {"max_cost": 0.001}])
def test_empty_answers_spend_the_budget(usage, limit, tmp_path):
    choice = {"message": {"content": None}, "finish_reason": "stop"}
    body = json.dumps({"choices": [choice], "usage": usage}).encode()
    prices = PRICES if "max_cost" in limit else {}
    with serving(lambda *asked: (200, {}, body)) as (base, seen):
        policy = policy_at(base, tmp_path, retries=50, concurrency=1, **limit, **prices)
        with pytest.raises(BudgetError):
            policy.act([TALK], [0], Sampling(max_tokens=64))
    # the server counts more tokens than estimated: noticed with the first answer
    assert len(seen) == 6
    assert policy._cache.usage.tokens == 6 * 164 <= 1000


# the key


def test_the_key_is_never_shown_or_written(recipe, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    echo = json.dumps({"error": {"message": f"you sent Bearer {KEY}"}}).encode()
    answers = iter([(500, {}, echo)])

    def server(path, headers, body):
        assert {name.lower(): value for name, value in headers.items()}[
            "authorization"
        ] == f"Bearer {KEY}"
        return next(answers, None) or expert_server(path, headers, body)

    with serving(server) as (base, _):
        done = eef(
            "collect",
            recipe,
            "--policy",
            "openai/m",
            "--base-url",
            f"{base}/v1",
            "--out",
            tmp_path / "run",
            "--set",
            "expert.api.backoff=0.01",
        )
        assert done.exit_code == 0, done.stderr
        with serving(lambda *asked: (403, {}, echo)) as (refusing, _):
            refused = eef(
                "collect",
                recipe,
                "--policy",
                "openai/m",
                "--base-url",
                f"{refusing}/v1",
                "--out",
                tmp_path / "refused",
            )
    assert refused.exit_code == 2
    shown = done.stdout + done.stderr + refused.stdout + refused.stderr + caplog.text
    assert KEY not in shown
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any(KEY.encode() in path.read_bytes() for path in files)


def test_settings_that_would_hold_a_key_are_refused(monkeypatch):
    for wrong in (
        {"key": KEY},
        {"base_url": f"http://user:{KEY}@host/v1"},
        {"base_url": f"http://host/v1?key={KEY}"},
    ):
        with pytest.raises(ValueError, match="environment"):
            ApiSettings(**wrong)
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ConfigError, match="`OPENAI_API_KEY` is not set"):
        ApiPolicy("m", ApiSettings(), author=Author("expert", "m"), cache=None)


def test_a_missing_package_is_named(recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "eef.policies.openai", None)
    done = eef("collect", recipe, "--policy", "openai/m", "--out", tmp_path / "run")
    assert done.exit_code == 2
    assert "hint: install it: `pip install 'eef[api]'`" in done.stderr


# a real server


@pytest.fixture(scope="module")
def transformers_serve(tmp_path_factory):
    """`transformers serve` with the shipped student, on loopback."""
    from eef.models.location import BASE_STUDENT

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(sys.executable).with_name("transformers")
    command = [str(program), "serve", "--host", "127.0.0.1", "--port", str(port)]
    log_file = tmp_path_factory.mktemp("serve") / "log"
    with log_file.open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        for _ in range(600):
            assert process.poll() is None, log_file.read_text()[-2000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}", str(BASE_STUDENT)
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.long
def test_expert_data_from_a_real_server_with_faults(transformers_serve, student, tmp_path):
    base, model = transformers_serve
    shop = {
        "name": "webshop",
        "data": "synthetic",
        "goals": "human",
        "prompt": "none",
        "products_per_page": 4,
        "step_limit": 6,
        "synthetic": {"seed": 7, "products": 120},
    }
    proxy = Proxy(base, share=0.3, seed=1, faults=[kind for kind in FAULTS if kind != "slow"])
    with serving(proxy) as (faulty, seen):
        recipe = as_recipe(
            {
                **small_recipe(
                    student,
                    methods=["bc"],
                    expert={
                        "names": [f"openai/{model}"],
                        "api": {"base_url": f"{faulty}/v1", "backoff": 0.05, "retries": 20},
                    },
                ),
                "env": shop,
                "options": {},
                "rollouts": {"batch_size": 4},
                "sampling": {"temperature": 0.0, "max_tokens": 96},
            }
        )
        pipeline = Pipeline.create(tmp_path / "run", recipe)
        pipeline.execute(COLLECT)
    outcome = pipeline.run.summary(COLLECT)
    assert (outcome["rollouts"], outcome["errors"]) == (8, 0)
    api = outcome["sources"]["api"]
    assert api["requests"] == len(seen)
    assert sum(api["failures"].values()) == proxy.injected.total() > 0
    stored = list(read_trajectories(pipeline.run.store("expert")))
    assert sum(len(item.steps) for item in stored) == len(seen) - proxy.injected.total()
    assert any(step.action for item in stored for step in item.steps)
    print(outcome)
