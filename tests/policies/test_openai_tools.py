"""ApiPolicy with tools: requests as OpenAI documents them, and calls in every form of an answer."""

from __future__ import annotations

import json

import pytest

from eef.env import toolset_of
from eef.policies.openai import ApiPolicy
from eef.policies.response_cache import CACHE_FILE
from eef.policies.settings import ApiSettings
from eef.policy import Sampling
from eef.rollouts.runner import RolloutParameters, play
from eef.rollouts.specs import RolloutSpec
from eef.tools import read_turn
from eef.trajectory import Author, TrajectorySet
from tests.fakes.counter import Counter
from tests.fakes.served import serving

PARAMETERS = RolloutParameters(sampling=Sampling(), step_limit=6)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")


def played(tmp_path, answer, index=2):
    """An episode of the counter whose policy is a server, and the bodies of its requests."""
    env = Counter()
    task = env.tasks("train")[index]
    with serving(answer) as (base, seen):
        policy = ApiPolicy(
            "m",
            ApiSettings(base_url=f"{base}/v1", retries=0),
            author=Author("expert", "m"),
            cache=tmp_path / CACHE_FILE,
            tools=toolset_of(env),
        )
        specs = [RolloutSpec("e", task, None, 0, 0)]
        (episode,) = play(
            specs, env=env, policy=policy, trajectories=TrajectorySet(), parameters=PARAMETERS
        )
    return episode, [json.loads(body) for _, _, body in seen]


def message(**fields):
    usage = {"prompt_tokens": 5, "completion_tokens": 3}
    choice = {"message": {"role": "assistant", "content": None, **fields}, "finish_reason": "stop"}
    return 200, {}, json.dumps({"choices": [choice], "usage": usage}).encode()


def call(name, arguments, id="a"):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def counting(path, headers, body):
    """Adds one at a time, twice at once if two are missing; then says so, then stops."""
    asked = json.loads(body)["messages"]
    wanted = int(asked[1]["content"].split()[-1].rstrip("."))
    now = sum(each["role"] == "tool" for each in asked)
    if now < wanted - 1:
        return message(content="Two.", tool_calls=[call("add", '{"amount": 1}', id) for id in "ab"])
    if now < wanted:
        return message(tool_calls=[call("add", '{"amount": 1}')])
    if asked[-1]["role"] == "tool":
        return message(content="I am there.")
    return message(tool_calls=[call("stop", "")])


def test_calls_are_sent_and_read_as_documented(tmp_path):
    episode, bodies = played(tmp_path, counting)
    assert episode.success
    assert [step.action for step in episode.steps] == [
        '{"calls": ["add[{\\"amount\\": 1}]", "add[{\\"amount\\": 1}]"]}',
        'add[{"amount": 1}]',
        "say[I am there.]",
        "stop[]",
    ]
    assert read_turn(episode.steps[0].completion).text == "Two."
    assert [each["function"]["name"] for each in bodies[0]["tools"]] == ["add", "label", "stop"]
    messages = bodies[-1]["messages"]
    roles = [each["role"] for each in messages]
    assert roles == [
        *("system", "user", "assistant", "tool", "tool", "assistant", "tool", "assistant", "user")
    ]
    first = messages[2]["tool_calls"]
    assert [each["id"] for each in first] == [each["tool_call_id"] for each in messages[3:5]]
    assert len({each["id"] for each in (*first, *messages[5]["tool_calls"])}) == 3
    assert json.loads(first[0]["function"]["arguments"]) == {"amount": 1}
    assert messages[5]["content"] is None


def test_answers_are_cached_by_their_tools_too(tmp_path):
    _, first = played(tmp_path, counting)
    _, second = played(tmp_path, counting)
    assert (len(first), len(second)) == (4, 0)


@pytest.mark.parametrize(
    ("fields", "action"),
    [
        ({"tool_calls": [call("add", "{amount: 1}")]}, "format_error[the arguments of `add` are"),
        ({"tool_calls": [call("ad", "{}")]}, "format_error[unknown tool `ad`; did you mean `add`?"),
        ({"content": "Let me think."}, "say[Let me think.]"),
        (
            {"content": '<tool_call>\n{"name": "add", "arguments": {"amount": 2}}\n</tool_call>'},
            'add[{"amount": 2}]',
        ),
        ({"content": '{"name": "add", "parameters": {"amount": 2}}'}, 'add[{"amount": 2}]'),
        (
            {"content": '[TOOL_CALLS] [{"name": "label", "arguments": {"text": "a b"}}]'},
            "label[a b]",
        ),
        ({"content": '{"name": "other", "parameters": {}}'}, "say["),
        ({"reasoning_content": "So.", "tool_calls": [call("stop", "{}")]}, "stop[]"),
    ],
)
def test_calls_in_an_answer(tmp_path, fields, action):
    episode, _ = played(tmp_path, lambda *_: message(**fields))
    assert episode.steps[0].action.startswith(action)
    if "reasoning_content" in fields:
        assert episode.steps[0].completion.startswith("<think>\nSo.\n</think>")


def test_a_call_in_a_stream(tmp_path):
    parts = [
        {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "add", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"amo'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": 'unt": 3}'}}]},
    ]
    events = [{"choices": [{"delta": part}]} for part in parts]
    text = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    episode, _ = played(tmp_path, lambda *_: (200, {}, text.encode()))
    assert episode.steps[0].action == 'add[{"amount": 3}]'
