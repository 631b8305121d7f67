"""Imports: every published format, detection per row, replay, masks, and every kind of bad file."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import subprocess
import sys
import tempfile
import zipfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eef.chat import build_conversation
from eef.envs.registry import make_env
from eef.envs.toy import ToyEnv, make_toy_expert
from eef.errors import ConfigError, DataError, EnvError, MethodError
from eef.exporters.tables import write_table
from eef.importers.calls import ActionMap, as_actions, call_as_action
from eef.importers.conversations import parse_message, split_episode
from eef.importers.episode import ParseError
from eef.importers.formats import FORMATS, detect, read_row
from eef.importers.importer import Importer, RewardSource
from eef.importers.react import read_react
from eef.importers.rows import Rejection, Row
from eef.importers.rows import read_rows as rows_in
from eef.importers.verify import TaskIndex
from eef.methods.registry import make_method
from eef.pipeline.execution.collect import collect
from eef.pipeline.pipeline import Pipeline
from eef.pipeline.stages import Stage, stages_of
from eef.policy import Sampling
from eef.rollouts.into_store import play_into_store
from eef.rollouts.runner import RolloutParameters, play
from eef.rollouts.specs import RolloutSpec
from eef.rollouts.store import Store, read_trajectories
from eef.tools import read_turn, split_results
from eef.trajectory import StateRef, Step, Trajectory, TrajectorySet
from eef.utils.jsonl import read_jsonl
from tests.fakes.small_run import as_recipe, eef, small_recipe

PARAMETERS = RolloutParameters(sampling=Sampling(), step_limit=10, batch_size=8)
REACT = Path(os.environ.get("EEF_REACT_LOG", "recordings/react.jsonl"))


@pytest.fixture(scope="module")
def env():
    return ToyEnv()


@pytest.fixture(scope="module")
def task_index(env):
    return TaskIndex(env, {split: env.tasks(split) for split in ("train", "test")})


@pytest.fixture(scope="module")
def played(env):
    """Episodes of the toy's weak expert; the rows below record them in other formats."""
    specs = [
        RolloutSpec(f"expert:weak/{task.id}", task, None, n, 0)
        for n, task in enumerate(env.tasks("train").head(8))
    ]
    ended = play(
        specs,
        env=env,
        policy=make_toy_expert(env, "weak"),
        trajectories=TrajectorySet(),
        parameters=PARAMETERS,
    )
    return sorted(ended, key=lambda item: item.task)


def messages_of(item, system=True):
    messages = [{"role": "system", "content": "The rules."}] if system else []
    for step in item.steps:
        messages += [
            {"role": "user", "content": step.observation},
            {"role": "assistant", "content": step.completion},
        ]
    return messages


def rows_of(item, format):
    """A trajectory as a row of another format."""
    number = int(item.task.split("/")[1])
    named = [
        {"from": {"user": "human", "assistant": "gpt"}[each["role"]], "value": each["content"]}
        for each in messages_of(item, system=False)
    ]
    agreed = [
        {"from": "human", "value": "You walk along a corridor."},
        {"from": "gpt", "value": "OK"},
    ]
    if format == "sharegpt":
        return {
            "id": f"toy_{number}",
            "conversations": agreed + named,
            "reward": item.reward,
            "task_idx": number,
        }
    if format == "agentgym":
        masked = [{**each, "loss": None if each["from"] == "human" else True} for each in named]
        return {"item_id": f"toy_{number}", "conversations": masked, "reward": item.reward}
    if format == "messages":
        return {
            "id": item.id,
            "messages": messages_of(item),
            "reward": item.reward,
            "task": item.task,
        }
    if format == "react":
        first, *_ = item.steps
        seen = [*(step.observation for step in item.steps[1:]), item.final_observation]
        steps = []
        for step, after in zip(item.steps, seen, strict=True):
            steps += [
                {"action": "think[hm]", "observation": "OK."},
                {"action": step.action, "observation": after},
            ]
        return {
            "task_idx": number,
            "session": f"fixed_{number}",
            "initial_observation": first.observation,
            "steps": steps,
            "reward": item.reward,
        }
    if format == "verifiers":
        messages = messages_of(item)
        nodes = [
            {"parent": n - 1 if n else None, "message": message, "sampled": False}
            for n, message in enumerate(messages)
        ]
        trace = {
            "version": 1,
            "id": f"trace{number}",
            "task": {"type": "T", "data": {"idx": number}},
            "nodes": nodes,
            "rewards": {"win": {"score": item.reward}},
            "errors": [],
        }
        return {"env": {"id": "toy"}, "task": trace["task"], "traces": [trace], "ok": True}
    if format == "inspect":
        return {
            "id": number,
            "epoch": 1,
            "messages": messages_of(item),
            "scores": {"match": {"value": item.reward}},
        }
    assert format == "eef"
    return item.to_record()


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path, task_index=None, **options):
    importer = Importer(task_index, **options)
    items = list(importer.trajectories([path] if isinstance(path, Path) else path))
    imported = [item for item in items if isinstance(item, Trajectory)]
    return imported, [item for item in items if isinstance(item, Rejection)], importer.report


# --- formats -------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", FORMATS)
def test_a_format_is_detected_replayed_and_read_back(format, played, task_index, tmp_path):
    imported, rejected, report = read(
        write(tmp_path / "a.jsonl", [rows_of(item, format) for item in played]), task_index
    )
    assert rejected == []
    assert report.formats == {format: 8}
    assert (report.imported, report.replayed, report.won) == (
        8,
        8,
        sum(item.success for item in played),
    )
    for item, original in zip(imported, played, strict=True):
        assert item.by_expert
        assert item.replayable
        assert (item.task, item.reward, item.success, item.status) == (
            original.task,
            original.reward,
            original.success,
            original.status,
        )
        assert [(s.observation, s.action, s.reward) for s in item.steps] == [
            (s.observation, s.action, s.reward) for s in original.steps
        ]
        if format == "react":
            assert all(step.completion.startswith("Thought: hm\nAction: ") for step in item.steps)
        else:
            assert [step.completion for step in item.steps] == [
                step.completion for step in original.steps
            ]


@pytest.mark.parametrize("format", FORMATS)
def test_without_an_environment_it_is_unverified(format, played, tmp_path):
    imported, _, report = read(
        write(tmp_path / "a.jsonl", [rows_of(item, format) for item in played])
    )
    assert (report.imported, report.replayed, report.unverified) == (8, 0, 8)
    assert not any(item.replayable for item in imported)
    assert all(item.task.startswith("text/") for item in imported)
    assert [item.reward for item in imported] == [item.reward for item in played]
    assert all(
        item.source == f"{tmp_path / 'a.jsonl'}:{line}"
        for line, item in enumerate(imported, start=1)
    )
    again, _, _ = read(write(tmp_path / "b.jsonl", [item.to_record() for item in imported]))
    assert again == imported


@pytest.mark.parametrize("change", ["observation", "action", "reward", "more"])
def test_an_episode_that_replays_differently_is_unverified_and_the_difference_reported(
    change, played, task_index, tmp_path
):
    row = rows_of(played[0], "messages")
    messages = row["messages"]
    if change == "observation":
        messages[3]["content"] = messages[3]["content"].replace("Room", "Hall")
    elif change == "action":
        messages[2]["content"] = "Thought: no.\nAction: dance"
    elif change == "reward":
        row["reward"] = 0.25
    else:
        messages += [
            {"role": "user", "content": "more"},
            {"role": "assistant", "content": "Action: left"},
        ]
    (item,), _, report = read(write(tmp_path / "a.jsonl", [row]), task_index)
    if change == "more":  # the last state that the log and the environment share
        assert (item.replayable, item.verified_steps) == (True, played[0].length - 1)
        assert (report.replayed, report.partly, report.unverified) == (0, 1, 0)
    else:
        assert not item.replayable
    assert played[0].task in report.differences[0]
    expected = {
        "observation": "recorded 'Hall",
        "action": "at step 1",
        "reward": "recorded 'reward 0.25'",
        "more": "recorded",
    }
    assert expected[change] in report.differences[0]


def test_masked_turns_are_never_trained(played, task_index, tmp_path):
    won = next(item for item in played if item.success)
    row = rows_of(won, "agentgym")
    row["conversations"][1]["loss"] = False
    (item,), _, report = read(write(tmp_path / "a.jsonl", [row]), task_index)
    assert [step.weight for step in item.steps] == [0.0, *[1.0] * (len(item.steps) - 1)]
    assert report.masked == 1
    for method in ("bc", "eef"):
        options = {"expert_filter": "all"} if method == "eef" else {}
        (example,) = (
            make_method(method, options).select(TrajectorySet([item]), [item.task], 1).examples
        )
        assert example.weights[0] == 0
        assert example.reasons[0] == "masked"
        assert set(example.weights[1:]) == {1.0}


def episode_of(messages, tools=None):
    """(prompt, steps, final observation) of messages."""
    parsed = [parse_message(message, number) for number, message in enumerate(messages)]
    prompt, steps, final = split_episode(parsed)
    return prompt, as_actions(steps, tools), final


@given(
    st.lists(
        st.tuples(st.sampled_from(["weight", "train", "loss", "loss_weight"]), st.booleans()),
        min_size=1,
    )
)
def test_a_mask_is_read_under_each_of_its_names(masks):
    messages = []
    for name, trained in masks:
        messages += [
            {"role": "user", "content": "see"},
            {"role": "assistant", "content": "Action: go", name: trained},
        ]
    _, steps, _ = episode_of(messages)
    assert [step.weight for step in steps] == [float(trained) for _, trained in masks]


def test_tool_calls_are_actions():
    call = {"function": {"name": "search", "arguments": '{"query": "red mug"}'}}
    messages = [
        {"role": "user", "content": "find it"},
        {"role": "assistant", "content": "A mug.", "tool_calls": [call]},
        {"role": "tool", "content": "a page", "tool_call_id": "1"},
    ]
    _, (step,), final = episode_of(messages)
    assert (step.completion, step.action, final) == (
        "Thought: A mug.\nAction: search[red mug]",
        "search[red mug]",
        "a page",
    )
    assert call_as_action("buy", {"item": "B1", "size": "L"}) == 'buy[{"item": "B1", "size": "L"}]'


SEARCH = {"name": "search", "arguments": '{"query": "red mug"}'}
NULLS = {"query": "red mug", "label": None, "filter": None}


@pytest.mark.parametrize(
    "turn",
    [
        {"content": None, "tool_calls": [{"id": "1", "type": "function", "function": SEARCH}]},
        {"content": "", "tool_calls": [json.dumps({"id": "1", "function": SEARCH})]},
        {"content": None, "tool_calls": json.dumps([{"id": "1", "function": SEARCH}])},
        {"content": None, "tool_calls": [{"type": "function", "function": json.dumps(SEARCH)}]},
        {"content": None, "tool_calls": {"function": SEARCH}},
        {"content": None, "tool_calls": [SEARCH]},
        {
            "content": None,
            "tool_calls": [{"function": "search", "arguments": {"query": "red mug"}}],
        },
        {"content": None, "tool_calls": [{"function": {"name": "search", "arguments": NULLS}}]},
        {
            "content": None,
            "tool_calls": [{"function": {"name": "search", "arguments": json.dumps(NULLS)}}],
        },
        {"content": None, "function_call": SEARCH},
        {"content": None, "tool_calls": None, "function_call": json.dumps(SEARCH)},
        {"content": None, "tool_calls": [{"function": SEARCH}], "function_call": SEARCH},
        {"content": [{"type": "tool_use", "name": "search", "input": {"query": "red mug"}}]},
        {
            "content": '{"thought": "", "function_name": "search", '
            '"arguments": {"query": "red mug"}}'
        },
        {
            "content": '```json\n{"function_name": "search", '
            '"arguments": "{\\"query\\": \\"red mug\\"}"}\n```'
        },
        {"content": '{"name": "search", "parameters": {"query": "red mug"}}'},
        {"content": f"<tool_call>\n{json.dumps(SEARCH)}\n</tool_call>"},
        {"from": "function_call", "value": json.dumps(SEARCH)},
        {"tool_calls": [{"type": "custom", "custom": {"name": "search", "input": "red mug"}}]},
        {"role": "model", "parts": [{"functionCall": {"name": "search", "args": NULLS}}]},
        {"content": [{"toolUse": {"toolUseId": "1", "name": "search", "input": NULLS}}]},
        {"role": None, "type": "function_call", **SEARCH, "call_id": "1"},
        {"role": None, "type": "custom_tool_call", "name": "search", "input": "red mug"},
        {"content": '<|python_tag|>{"name": "search", "parameters": {"query": "red mug"}}'},
        {"content": f"[TOOL_CALLS][{json.dumps(SEARCH)}]"},
        {"content": '[TOOL_CALLS]search[ARGS]{"query": "red mug"}'},
        {
            "content": "<tool_call>\n<function=search>\n<parameter=query>\nred mug\n</parameter>\n"
            "</function>\n</tool_call>"
        },
        {"content": "<function=search><parameter=query>red mug</parameter></function>"},
        {
            "content": "<tool_call>search\n<arg_key>query</arg_key>\n"
            "<arg_value>red mug</arg_value>\n</tool_call>"
        },
        {
            "content": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>search\n"
            '```json\n{"query": "red mug"}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
        },
        {
            "content": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>search<｜tool▁sep｜>"
            '{"query": "red mug"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
        },
        {"content": "Action: search\nAction Input: red mug"},
        {"content": '**Action**: search\n**Action Input**: {"query": "red mug"}\nObservation: no'},
        {"content": 'Action:\n```\n{"action": "search", "action_input": "red mug"}\n```'},
    ],
)
def test_a_tool_call_is_read_in_each_of_its_forms(turn):
    messages = [{"role": "user", "content": "find it"}, {"role": "assistant", **turn}]
    if "from" in turn:
        messages[1] = turn
    _, (step,), _ = episode_of(messages)
    assert (step.completion, step.action, step.weight) == (
        "Action: search[red mug]",
        "search[red mug]",
        1.0,
    )


@pytest.mark.parametrize(
    ("content", "action"),
    [
        ('<think>Or <tool_call>{"name": "buy", "arguments": {}}</tool_call></think>\nBuy it?', ""),
        ('<think>Or Action: no</think>\nAction: search\nAction Input: "a"', "search[a]"),
        ('Action: {"name": "move", "arguments": {"x": 1}}', None),
        ('Action: {"x": 1, "action": "move"}', None),
        ("Action: go north\nAction Input: now", "go north[now]"),
        ("Thought: Action Input: is needed.\nAction: search[mug]", "search[mug]"),
        ("<｜tool▁call▁begin｜>search<｜tool▁sep｜>{broken<｜tool▁call▁end｜>", ""),
        ("<think>So.</think><action>search[mug]</action>", "search[mug]"),
        ('Action: book {"name": "Ann", "seats": 2}', None),
        ('Action: type[name] {"name": "a", "arguments": {}}', None),
        (
            'Thought: <tool_call>{"name": "a", "arguments": {}}</tool_call> maybe.\nAction: go[1]',
            "go[1]",
        ),
        ('Here is the record: {"name": "Bob", "age": 3}', ""),
        ("Action: python\nAction Input: x = 1\ny = 2\nObservation: done", "python[x = 1\ny = 2]"),
        ("Action: sql\nAction Input:\n```sql\nSELECT *\nFROM t\n```", "sql[SELECT *\nFROM t]"),
    ],
)
def test_what_resembles_a_call_in_a_text(content, action):
    """None: the action is the JSON text itself, since an environment may take such actions."""
    _, (_, step), _ = episode_of(
        [
            {"role": "user", "content": "see"},
            {"role": "assistant", "content": "Action: look"},
            {"role": "user", "content": "see"},
            {"role": "assistant", "content": content},
        ]
    )
    assert step.action == (content.removeprefix("Action: ") if action is None else action)
    assert step.completion.startswith(content[: content.find("</think>") + 1])


def test_columns_that_are_null_hide_nothing():
    """A table has every column in every message."""
    empty = {"role": None, "from": None, "content": None, "value": None, "output": None}
    _, (step,), final = episode_of(
        [
            {**empty, "from": "human", "value": "see"},
            {**empty, "from": "gpt", "value": "Action: go"},
            {**empty, "type": "function_call_output", "output": "seen"},
        ]
    )
    assert (step.observation, step.action, final) == ("see", "go", "seen")


@pytest.mark.parametrize(
    "result",
    [
        {"role": "user", "parts": [{"functionResponse": {"name": "f", "response": {"n": 2}}}]},
        {"role": "user", "content": [{"toolResult": {"content": [{"json": {"n": 2}}]}}]},
        {"role": "user", "content": [{"toolResult": {"content": [{"text": '{"n": 2}'}]}}]},
        {"type": "function_call_output", "call_id": "1", "output": '{"n": 2}'},
        {"role": "user", "content": [{"type": "tool_result", "content": '{"n": 2}'}]},
        {"role": "user", "parts": [{"text": '{"n": 2}'}]},
    ],
)
def test_the_result_of_a_call_is_an_observation_in_each_of_its_forms(result):
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": SEARCH}]}
    _, (step,), final = episode_of([{"role": "user", "content": "see"}, call, result])
    assert (step.action, final) == ("search[red mug]", '{"n": 2}')


def test_items_of_the_responses_api_are_one_turn():
    items = [
        {"role": "user", "content": "see"},
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "A mug."}]},
        {"type": "function_call", **SEARCH, "call_id": "1"},
        {"type": "function_call_output", "call_id": "1", "output": "a page"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "."}]},
    ]
    _, steps, final = episode_of(items)
    assert [step.action for step in steps] == ["search[red mug]", ""]
    assert "A mug." in steps[0].completion
    assert (steps[1].observation, steps[1].completion, final) == ("a page", ".", "")


@pytest.mark.parametrize(
    ("turn", "completion"),
    [
        ({"content": "Best action: refund."}, "Thought: Best action: refund.\nAction: refund[O-1]"),
        (
            {"content": "Action: left\nObservation: a wall"},
            "Thought: Action: left Observation: a wall\nAction: refund[O-1]",
        ),
        (
            {"content": "So.", "reasoning_content": "Hm.\nAction: no"},
            "<think>\nHm.\nAction: no\n</think>\n\nThought: So.\nAction: refund[O-1]",
        ),
        (
            {"content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "So."}]},
            "<think>\nHm.\n</think>\n\nThought: So.\nAction: refund[O-1]",
        ),
    ],
)
def test_the_text_of_a_turn_with_a_tool_call_is_its_thought(turn, completion):
    call = {"function": {"name": "refund", "arguments": '{"order": "O-1"}'}}
    messages = [{"role": "user", "content": "see"}, {**turn, "role": "agent", "tool_calls": [call]}]
    _, (step,), _ = episode_of(messages)
    assert (step.completion, step.action) == (completion, "refund[O-1]")


@pytest.mark.parametrize(
    ("text", "action"),
    [
        ("Dear customer,\n\nyour [red] mug", "reply[Dear customer,\n\nyour [red] mug]"),
        ("a list:\n[1", 'reply[{"text": "a list:\\n[1"}]'),
        ("Hm.\nThought: no\nbye", 'reply[{"text": "Hm.\\nThought: no\\nbye"}]'),
    ],
)
def test_an_argument_of_several_lines_is_kept_whole(text, action):
    call = {"function": {"name": "reply", "arguments": {"text": text}}}
    messages = [{"role": "user", "content": "see"}, {"role": "agent", "tool_calls": [call]}]
    _, (step,), _ = episode_of(messages)
    assert (step.completion, step.action) == (f"Action: {action}", action)


@pytest.mark.parametrize(
    ("completion", "action"),
    [
        ("<think>\nA mug, then.\n</think>\n\nThought: look.\nAction: search[mug]", "search[mug]"),
        ("I will look for a mug first.\nAction: search[mug]", "search[mug]"),
        ("Thought: my next action: a search for mugs.\nAction: search[mug]", "search[mug]"),
        ("Thought: x\nAction: reply[Dear,\nyours]", "reply[Dear,\nyours]"),
    ],
)
def test_the_action_of_an_imported_turn_is_its_last_action_line(completion, action, tmp_path):
    for ending in ("", "</s>", "\n<|im_end|>\n"):
        messages = [
            {"role": "user", "content": "a shop"},
            {"role": "assistant", "content": completion + ending},
        ]
        (item,), _, _ = read(write(tmp_path / "a.jsonl", [{"messages": messages, "reward": 1.0}]))
        assert [(step.completion, step.action) for step in item.steps] == [(completion, action)]


@pytest.mark.parametrize("content", [None, "", " \n", [], "</s>", "<think>hm</think>"])
def test_a_turn_without_text_is_never_trained(content, tmp_path):
    messages = [
        {"role": "user", "content": "a shop"},
        {"role": "assistant", "content": content, "weight": 1},
        {"role": "user", "content": "no action"},
        {"role": "assistant", "content": "Action: go"},
    ]
    row = {"messages": messages, "reward": 1.0}
    (item,), _, report = read(write(tmp_path / "a.jsonl", [row]))
    assert [step.weight for step in item.steps] == [0.0, 1.0]
    assert report.masked == 1
    blank = replace(item, steps=tuple(replace(step, weight=1.0) for step in item.steps))
    for each in (item, blank):  # a blank turn of our own is not trained either
        selection = make_method("bc", {}).select(TrajectorySet([each]), [each.task], 1)
        (example,) = selection.examples
        assert (example.weights, example.reasons[0]) == ((0.0, 1.0), "masked")
    row["messages"] = messages[:2]
    _, (rejection,), _ = read(write(tmp_path / "a.jsonl", [row]))
    assert "no action in any turn of the agent" in rejection.reason


def test_an_observation_is_not_a_tool_call():
    for text in ('{"name": "mug", "parameters": 2}', "<tool_call>{}</tool_call>"):
        for name in ("user", "tool"):
            assert parse_message({"role": name, "content": text}, 0).text == text


def test_calls_filled_with_nulls_are_none():
    nothing = {"name": None, "arguments": None}
    turn = {"role": "assistant", "content": "Action: go"}
    for calls_ in (None, [], "", "null", [None], [{"id": None, "function": nothing}]):
        message = {**turn, "tool_calls": calls_, "function_call": nothing}
        assert parse_message(message, 0).text == "Action: go"


def test_a_tool_result_in_parts_is_an_observation():
    result = {"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "3"}]}
    assert parse_message({"role": "user", "content": [result]}, 0).text == "3"
    assert parse_message({"role": "user", "content": [{**result, "content": "3"}]}, 0).text == "3"


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ({"tool_calls": [{"function": SEARCH}, {"function": {"name": "buy"}}]}, "2 tool calls"),
        ({"tool_calls": [{"id": "1"}]}, "a tool call has no function name"),
        ({"tool_calls": ["{oops"]}, "a tool call has no function name"),
        ({"content": [{"type": "image_url"}]}, "message 1 has a part that is not text"),
        ({"content": {"image": "a"}}, "message 1 has a part that is not text"),
    ],
)
def test_a_turn_that_cannot_be_read_is_rejected_with_the_reason(turn, reason):
    messages = [{"role": "user", "content": "see"}, {"role": "assistant", **turn}]
    with pytest.raises(ParseError, match=reason):
        episode_of(messages)


@pytest.mark.parametrize("compression", ["ZIP_DEFLATED", "ZIP_ZSTANDARD"])
def test_an_inspect_archive_is_read(compression, played, task_index, tmp_path):
    if sys.version_info < (3, 14):
        pytest.importorskip("zipfile_zstd")
    path = tmp_path / "log.eval"
    with zipfile.ZipFile(path, "w", getattr(zipfile, compression)) as archive:
        archive.writestr("header.json", "{}")
        for number, item in enumerate(played):
            archive.writestr(f"samples/{number}_epoch_1.json", json.dumps(rows_of(item, "inspect")))
    assert read(path, task_index)[2].replayed == 8


# --- bad input -----------------------------------------------------------------------------------


def messages_by(*roles):
    return [
        {"role": role, "content": "Action: go" if role == "assistant" else "see"} for role in roles
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"{oops}", "not JSON"),
        (b"7", "a JSON int; expected an object"),
        (b'{"a": "\xff"}', "not UTF-8: byte 0xff at position 7"),
        (b'{"text": "x"}', "unknown format; the keys of the row: text"),
        (
            json.dumps({"messages": messages_by("user", "assistant")}).encode(),
            "no reward, and no replay that gives one",
        ),
        (
            json.dumps({"messages": messages_by("assistant", "user"), "reward": 1}).encode(),
            "message 0 is a turn of the agent, without an observation",
        ),
        (
            json.dumps(
                {"messages": messages_by("user", "assistant", "assistant"), "reward": 1}
            ).encode(),
            "message 2 is a second turn of the agent in a row",
        ),
        (
            json.dumps(
                {"messages": messages_by("user", "assistant", "system"), "reward": 1}
            ).encode(),
            "system message after the conversation's start",
        ),
        (
            json.dumps({"messages": messages_by("user", "wizard"), "reward": 1}).encode(),
            "unknown role 'wizard' in message 1",
        ),
        (
            json.dumps({"messages": messages_by("user", "assistant"), "reward": 7}).encode(),
            "`reward` is 7; expected a number from 0 to 1",
        ),
        (
            json.dumps({"messages": [3], "reward": 1}).encode(),
            "message 0 is a int; expected an object",
        ),
        (
            json.dumps({"messages": messages_by("user"), "reward": 1}).encode(),
            "no turn of the agent",
        ),
        (json.dumps({"messages": 3, "reward": 1}).encode(), "malformed `messages` row"),
        (
            json.dumps(
                {"messages": messages_by("user", "assistant"), "reward": 0.2, "success": "false"}
            ).encode(),
            "`success` is 'false'; expected true, false or null",
        ),
        (
            json.dumps(
                {
                    "steps": [{"action": "a", "observation": "b"}],
                    "initial_observation": "o",
                    "reward": 0.0,
                    "success": "false",
                }
            ).encode(),
            "`success` is 'false'; expected true, false or null",
        ),
        (
            json.dumps(
                {"messages": messages_by("user", "assistant"), "reward": 1, "truncated": "no"}
            ).encode(),
            "`truncated` is 'no'; expected true, false or null",
        ),
        (
            json.dumps(
                {"steps": [{"action": "a"}], "initial_observation": "o", "reward": 1}
            ).encode(),
            "steps[0]",
        ),
        (
            json.dumps(
                {
                    "messages": [
                        *messages_by("user"),
                        {
                            "role": "assistant",
                            "tool_calls": [
                                {"function": {"name": "go", "arguments": "[" * 100_000}}
                            ],
                        },
                        {"role": "wizard"},
                    ]
                }
            ).encode(),
            "unknown role 'wizard' in message 2",
        ),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "JSON is nested too deep"),
    ],
)
def test_a_bad_row_is_rejected_and_the_others_are_imported(row, reason, tmp_path):
    good = json.dumps(
        {"messages": messages_by("user", "assistant"), "reward": 1.0, "id": "good"}
    ).encode()
    path = tmp_path / "a.jsonl"
    path.write_bytes(good + b"\n" + row + b"\n\n" + good.replace(b"good", b"fine"))
    imported, rejected, report = read(path)
    assert [item.id for item in imported] == ["expert:a/good", "expert:a/fine"]
    assert rejected[0].place == f"{path}:2"
    assert reason in rejected[0].reason
    assert (report.imported, report.rejected) == (2, 1)


@pytest.mark.parametrize(
    "named",
    [
        {"id": "same"},
        {"item_id": 6},
        {"example_id": 3, "prompt": "see", "completion": messages_by("assistant")},
    ],
)
def test_several_trajectories_with_one_id_are_all_imported(named, tmp_path):
    turns = [{**each, "role": each["role"]} for each in messages_by("user", "assistant")]
    key = "conversations" if "item_id" in named else "messages"
    held = {} if "prompt" in named else {key: turns}
    rows = [{**named, **held, "reward": reward} for reward in (0.0, 1.0, 0.0)]
    imported, rejected, report = read(write(tmp_path / "a.jsonl", rows))
    assert (rejected, report.imported, report.renamed) == ([], 3, 2)
    assert [item.reward for item in imported] == [0.0, 1.0, 0.0]
    first, *others = (item.id for item in imported)
    assert others == [f"{first}@a.jsonl:2", f"{first}@a.jsonl:3"]


def test_files_with_equal_ids_are_all_imported_and_get_the_same_ids_again(tmp_path):
    row = {"messages": messages_by("user", "assistant"), "reward": 1.0}
    paths = []
    for name in ("a/0.jsonl", "b/0.jsonl", "c/1.jsonl", "d/0.jsonl"):
        (tmp_path / name).parent.mkdir()
        paths.append(write(tmp_path / name, [row, {**row, "id": 7}]))
    imported, rejected, report = read([*paths, paths[0]], author="gpt-4")
    ids = [item.id for item in imported]
    assert (len(set(ids)), rejected, report.renamed) == (10, [], 8)
    assert ids[:2] == ["expert:gpt-4/line1", "expert:gpt-4/7"]
    assert ids[4] == "expert:gpt-4/line1@1.jsonl:1"
    assert ids[6] == f"expert:gpt-4/line1@{paths[3]}:1"
    assert [item.id for item in read([*paths, paths[0]], author="gpt-4")[0]] == ids


def test_a_rejected_row_has_the_reason_why_it_was_not_replayed(played, task_index, tmp_path):
    row = {"id": "a", "messages": messages_of(played[0])}
    other = {**row, "messages": messages_by("user", "assistant")}
    named = {**other, "task": "toy/none"}
    elsewhere = {**other, "task": played[0].task}
    _, rejected, _ = read(write(tmp_path / "a.jsonl", [row, other, named, elsewhere]), task_index)
    start = "no reward, and no replay that gives one: "
    assert [item.reason for item in rejected] == [
        start + "the row names no `task`, and toy has none with this goal",
        start + "toy has no task 'toy/none', and none with this goal",
        start + f"{played[0].task} has another goal here",
    ]
    (_, rejected, _) = read(write(tmp_path / "b.jsonl", [row]))
    assert rejected[0].reason == start + "no environment to replay it in"


def test_a_seeded_environment_without_a_seed_is_named_as_the_reason(tmp_path):
    env = make_env("tests.fakes.counter:SPEC", {})
    env.seeded = True
    task = env.tasks("train")[0]
    row = {"id": "a", "task": task.id, "messages": messages_by("user", "assistant")}
    tasks = TaskIndex(env, {"train": env.tasks("train")})
    _, rejected, _ = read(write(tmp_path / "a.jsonl", [row]), tasks)
    assert rejected[0].reason.endswith("(replayed with seed 0: the row has no `episode_seed`)")


@pytest.mark.parametrize("source", ["key", "file"])
def test_rewards_come_from_a_key_or_a_file(source, tmp_path):
    messages = messages_by("user", "assistant")
    rewards = {"a": 1.0, "b": 0.25}
    rows = [
        {"id": id, "messages": messages, "grades": {"resolved": reward}}
        for id, reward in rewards.items()
    ]
    path = write(tmp_path / "a.jsonl", [*rows, {"id": "c", "messages": messages}])
    beside = write(
        tmp_path / "rewards.jsonl",
        [{"id": id, "reward": reward} for id, reward in rewards.items()],
    )
    given = RewardSource("grades.resolved" if source == "key" else str(beside))
    imported, rejected, _ = read(path, reward_of=given)
    assert [item.reward for item in imported] == [1.0, 0.25]
    assert rejected[0].place == f"{path}:3"


def test_bad_sources_of_rewards_are_refused(tmp_path):
    for name in (str(tmp_path / "none.jsonl"), "rewards.csv", "rewards.jsonl.gz"):
        with pytest.raises(DataError, match="no such file"):
            RewardSource(name)
    bad = write(tmp_path / "bad.jsonl", [{"id": "a"}])
    with pytest.raises(DataError, match="expected `id` and `reward`"):
        RewardSource(str(bad))
    row = {"id": "a", "messages": messages_by("user", "assistant"), "score": "good"}
    _, rejected, _ = read(write(tmp_path / "a.jsonl", [row]), reward_of=RewardSource("score"))
    assert rejected[0].reason == "`reward` is 'good'; expected a number from 0 to 1"


def test_options_that_change_no_row_are_reported(tmp_path):
    row = {"id": "a", "messages": messages_by("user", "assistant"), "reward": 1}
    path, out = write(tmp_path / "a.jsonl", [row]), ("--out", tmp_path / "out.jsonl")
    done = eef("import", path, *out, "--map", "walk=run", "--map", "go=run", "--reward-from", "R")
    assert "`--map walk=run` rewrites no action" in done.stderr
    assert "--map go=run" not in done.stderr
    assert "`--reward-from R` gives no row a reward" in done.stderr
    done = eef("import", path, *out, "--reward-from", "reward")
    assert done.exit_code == 0, done.stderr
    assert "warning" not in done.stderr
    done = eef("import", path, *out, "--format", "inspect", "--map", "a=b", "--reward-from", "R")
    assert "warning" not in done.stderr, "nothing was asked of either"


def test_a_key_may_hold_a_slash_and_a_file_needs_no_suffix(tmp_path):
    assert RewardSource("eval/reward")({"eval/reward": 0.5}, "a") == 0.5
    write(tmp_path / "rewards", [{"id": "a", "reward": 0.25}])
    assert RewardSource(str(tmp_path / "rewards"))({}, "a") == 0.25


def test_tools_of_another_name_get_a_hint(tmp_path, monkeypatch):
    env = make_env("tests.fakes.counter:SPEC", {})
    task = env.tasks("train")[0]
    call = {"function": {"name": "increase", "arguments": '{"amount": 1}'}}
    messages = [
        {"role": "user", "content": env.reset(task)},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": env.step("add[1]").observation},
    ]
    path = write(tmp_path / "a.jsonl", [{"task": task.id, "messages": messages}])
    monkeypatch.chdir(tmp_path)
    done = eef("import", path, "--env", "tests.fakes.counter:SPEC")
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1] == (
        r"hint: rename the tools of the rows: `--map 'OLD\[(.*)\]=NEW[\1]'`"
    )
    renamed = ("--map", r"increase\[(.*)\]=add[\1]")
    done = eef("import", path, "--env", "tests.fakes.counter:SPEC", *renamed)
    assert (done.exit_code, "verified    1" in done.stderr) == (0, True), done.stderr


def test_closing_words_after_the_end_of_an_episode_are_dropped(played, task_index, tmp_path):
    item = next(item for item in played if item.status == "terminated")
    row = rows_of(item, "messages")
    closing = [
        {"role": "user", "content": item.final_observation},
        {"role": "assistant", "content": "The task is done."},
        {"role": "user", "content": "Thank you."},
        {"role": "assistant", "content": "You are welcome."},
    ]
    rows = [
        {**row, "id": str(count), "messages": [*row["messages"], *closing[:count]]}
        for count in range(5)
    ]
    acted = {"role": "assistant", "content": "Action: right"}
    rows.append({**row, "id": "acted", "messages": [*row["messages"], *closing[:3], acted]})
    imported, rejected, report = read(write(tmp_path / "a.jsonl", rows), task_index)
    assert (rejected, report.replayed, report.closing) == ([], 5, 4)
    assert {each.steps for each in imported[:5]} == {item.steps}
    assert "the end of the episode" in report.differences[0]


def test_one_file_may_hold_rows_of_several_formats(played, task_index, tmp_path):
    rows = [rows_of(item, format) for item, format in zip(played, FORMATS, strict=False)]
    _, rejected, report = read(write(tmp_path / "a.jsonl", rows), task_index)
    assert (rejected, report.formats) == ([], dict.fromkeys(FORMATS, 1))
    _, rejected, report = read(write(tmp_path / "a.jsonl", rows), task_index, wanted="react")
    assert report.formats == {"react": 1}
    assert {item.reason for item in rejected} == {
        f"format is `{name}`; expected `react`" for name in FORMATS if name != "react"
    }


def test_an_array_on_one_line_and_a_truncated_one(tmp_path):
    row = {"messages": messages_by("user", "assistant"), "reward": 1.0}
    path = tmp_path / "a.json"
    path.write_text(json.dumps([row] * 3))
    assert [item.source for item in read(path)[0]] == [f"{path}:row {n}" for n in (1, 2, 3)]
    path.write_text(json.dumps([row] * 3)[:-40])
    imported, (rejection,), _ = read(path)
    assert len(imported) == 2
    assert (rejection.place, "later rows cannot be read" in rejection.reason) == (
        f"{path}:row 3",
        True,
    )


ROW = {"messages": messages_by("user", "assistant"), "reward": 1.0}
ODD = (
    json.dumps({**ROW, "price": float("nan"), "n": 10**30, "low": -float("inf")}),
    json.dumps(ROW),
    json.dumps({**ROW, "id": "cut \ud83d and whole \ud83d\ude00"}),
)


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(ODD),
        "[" + ", ".join(ODD) + "]",
        "[\n" + ",\n".join(ODD) + ",\n]",
        "\ufeff\n " + "\n\n".join(ODD),
        "".join(json.dumps(json.loads(row), indent=2) + "\n" for row in ODD),
        "".join(json.dumps(json.loads(row), indent=0) + "\n" for row in ODD),
    ],
    ids=["lines", "array", "array by lines", "blank lines", "indented", "not indented"],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_rows_are_read_alike_however_they_are_written(text, pack, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(pack(text.encode()))
    imported, rejected, _ = read(path)
    assert (len(imported), rejected) == (3, [])
    assert imported[2].id == "expert:a/cut \ufffd and whole \U0001f600"


@pytest.mark.parametrize(
    ("text", "read_rows", "rejected"),
    [
        ('[{"n": 1}, {"n": tru}, 3, {"n": 2}]', 2, ["row 2", "row 3"]),
        ('[{"n": 1},, {"n": 2}]', 2, ["row 2"]),
        ('[{"n": 1}] [{"n": 2}]', 1, ["row 2"]),
        ('[{"n": 1}, {"n": 2}', 2, ["row 3"]),
        ('{"n": [\n{"n": 1}\n{"n"\n', 1, ["1", "3"]),
        ('{"n":\n1}\n{"n": 1} {"n": 2}\n{"n": 3}\n', 2, ["3"]),
        ('{"n": {\n  "n": 1\n', 0, ["1"]),
        ('{"eval": {}, "samples": []}', 0, ["1"]),
    ],
)
def test_what_cannot_be_read_is_rejected_with_its_place(text, read_rows, rejected, tmp_path):
    path = tmp_path / "a"
    path.write_text(text)
    rows = list(rows_in(path))
    assert sum(isinstance(row, Row) for row in rows) == read_rows
    places = [row.place for row in rows if isinstance(row, Rejection)]
    assert places == [f"{path}:{place}" for place in rejected]


@pytest.mark.parametrize("indent", [None, 2])
def test_an_inspect_log_in_json_is_read_on_one_line_and_indented(indent, tmp_path):
    samples = [{**ROW, "id": n, "epoch": 1, "scores": {"m": {"value": "C"}}} for n in range(2)]
    log = {"version": 2, "eval": {}, "status": "success", "samples": samples}
    path = tmp_path / "log.json"
    text = json.dumps(log, indent=indent)
    for written in (text, text.replace("{", "{ ", 1), text + "\n" + text):
        path.write_text(written)
        imported, rejected, _ = read(path)
        assert (len(imported), rejected) == (2 * written.count('"eval"'), [])


def test_the_output_files_of_eto_are_read(tmp_path):
    turns = [{"from": "human", "value": "see"}, {"from": "gpt", "value": "Action: go"}]
    row = {"meta": {"steps": 1, "reward": 0.5, "success": False}, "conversations": turns}
    (tmp_path / "7.json").write_text(json.dumps(row, indent=4))
    (imported,), rejected, _ = read(tmp_path / "7.json")
    assert (imported.reward, imported.success, rejected) == (0.5, False, [])


@pytest.mark.parametrize(
    ("steps", "actions"), [(1, ["go"]), (2, ["left", "go"]), (9, ["left", "go"])]
)
def test_a_worked_example_before_the_turns_that_a_row_counts_is_prompt(tmp_path, steps, actions):
    """Only turns that the row does not count, and that the agent acknowledged, are an example."""
    texts = ["rules", "OK", "example", "Action: left", "end", "OK", "see", "Action: go"]
    turns = [
        {"from": "gpt" if number % 2 else "human", "value": text}
        for number, text in enumerate(texts)
    ]
    row = {"meta": {"steps": steps, "reward": 0.5, "success": False}, "conversations": turns}
    (tmp_path / "7.json").write_text(json.dumps(row, indent=4))
    (imported,), rejected, _ = read(tmp_path / "7.json")
    assert [step.action for step in imported.steps if step.action] == actions
    assert (imported.steps[0].observation, rejected) == ("see" if steps == 1 else "example", [])


def test_parquet_is_read_and_needs_its_extra(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    write_table(path, [ROW, {"conversations": [{"from": "human", "value": "see"}]}, ROW])
    imported, (rejection,), _ = read(path)
    assert [item.source for item in imported] == [f"{path}:row 1", f"{path}:row 3"]
    assert rejection.place == f"{path}:row 2"
    path.write_bytes(path.read_bytes()[:-20])
    assert "damaged parquet" in read(path)[1][0].reason
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"needs the package `pyarrow`") as caught:
        read(path)
    assert "eef[tables]" in caught.value.hint


def test_damaged_and_unknown_compression_is_reported(tmp_path):
    path = tmp_path / "a.gz"
    packed = gzip.compress(
        b"".join(json.dumps({**ROW, "id": n}).encode() + b"\n" for n in range(999))
    )
    path.write_bytes(packed[:-30])
    assert "damaged compression" in read(path)[1][-1].reason
    path.write_bytes(b"\x28\xb5\x2f\xfd....")
    with pytest.raises(DataError, match="compressed with zstd"):
        read(path)


def test_half_a_surrogate_pair_never_reaches_a_tokenizer():
    step = Step(observation="a \ud83d", completion="Action: \udc00", action="b")
    conversation = build_conversation("p", [step], "\ud83d")
    assert [each["content"] for each in conversation[1:]] == [
        "a \ufffd",
        "Action: \ufffd",
        "\ufffd",
    ]


def test_missing_and_empty_files_are_errors(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(DataError, match="is empty"):
        read(tmp_path / "empty.jsonl")
    (tmp_path / "a.eval").write_bytes(b"PK\x03\x04 broken")
    assert "damaged archive" in read(tmp_path / "a.eval")[1][0].reason


_BOUNDED = """
import resource, sys
from pathlib import Path
from eef.importers.importer import Importer
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]) << 20,) * 2)
importer = Importer()
for item in importer.trajectories([Path(sys.argv[1])]):
    pass
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(importer.report.imported, int(status["VmHWM"].split()[0]) >> 10)
"""


def bounded(path, mebibytes):
    """(trajectories read, peak memory in MiB) of a process limited to `mebibytes`."""
    command = [sys.executable, "-c", _BOUNDED, str(path), str(mebibytes)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    return tuple(int(word) for word in done.stdout.split())


def test_fifty_megabytes_on_one_line_need_little_memory(tmp_path):
    long = {"role": "user", "content": "x" * 50_000}
    row = json.dumps({"messages": [*messages_by("user", "assistant"), long], "reward": 1.0})
    path = tmp_path / "a.json"
    path.write_text("[" + ",".join([row] * 1000) + "]")
    assert path.stat().st_size > 50_000_000
    count, peak = bounded(path, 1024)
    assert count == 1000
    assert peak < 200


@pytest.mark.long
def test_a_hundred_thousand_trajectories_stream(tmp_path):
    path = tmp_path / "a.jsonl"
    with path.open("w") as file:
        for number in range(100_000):
            row = {
                "messages": [
                    *messages_by("user", "assistant"),
                    {"role": "user", "content": "x" * 2000},
                ],
                "reward": 1.0,
            }
            file.write(json.dumps({**row, "id": number}) + "\n")
    count, peak = bounded(path, 1024)
    assert count == 100_000
    assert peak < 250  # of a file of 220 MiB; the ids are kept, to find duplicates


@given(st.binary(max_size=300))
def test_arbitrary_bytes_raise_nothing_but_a_data_error(content):
    with tempfile.TemporaryDirectory() as directory, suppress(DataError):
        path = Path(directory) / "a"
        path.write_bytes(content)
        read(path)


KEYS = [
    "messages",
    "conversations",
    "role",
    "from",
    "content",
    "value",
    "reward",
    "steps",
    "action",
    "observation",
    "initial_observation",
    "traces",
    "nodes",
    "task",
    "scores",
    "epoch",
    "prompt",
    "completion",
    "author",
    "final_observation",
    "weight",
]


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5)
        ),
        max_leaves=30,
    )
)
def test_an_arbitrary_row_raises_nothing_but_a_parse_error(value):
    if isinstance(value, dict):
        assert detect(value) in (None, *FORMATS)
        with suppress(ParseError):
            read_row(value)


# --- a recorded log ------------------------------------------------------------------------------


@pytest.mark.skipif(not REACT.is_file(), reason=f"no log at {REACT}; set EEF_REACT_LOG to it")
def test_a_recorded_react_log_is_imported_completely(tmp_path):
    done = eef("import", REACT, "--out", tmp_path / "react.jsonl")
    assert done.exit_code == 0
    assert done.stdout.strip() == str(tmp_path / "react.jsonl")
    assert "formats     500 react" in done.stderr
    assert "imported    500 of 500 rows" in done.stderr
    assert "won 35.8 % (179), mean reward 0.638, failed 321" in done.stderr
    assert "unverified  500" in done.stderr
    imported, rejected, _ = read(REACT)
    assert rejected == []
    rows = [json.loads(line) for line in REACT.read_text().splitlines()]
    for item, row in zip(imported, rows, strict=True):
        acted = [
            entry["action"] for entry in row["steps"] if not entry["action"].startswith("think[")
        ]
        assert [step.action for step in item.steps if step.action] == acted
        assert sum(step.observation == "Invalid action!" for step in item.steps) == sum(
            entry["observation"] == "Invalid action!" for entry in row["steps"][:-1]
        )
    thoughts = sum(entry["action"].startswith("think[") for row in rows for entry in row["steps"])
    assert thoughts == 1089
    assert all("think[" not in step.completion for item in imported for step in item.steps)


# --- in a run ------------------------------------------------------------------------------------


def test_the_exit_status_reports_whether_all_some_or_no_rows_were_imported(tmp_path):
    row = {"messages": messages_by("user", "assistant"), "reward": 1.0}
    good, mixed, bad = (
        write(tmp_path / name, rows)
        for name, rows in (("good.jsonl", [row]), ("mixed.jsonl", [row, {}]), ("bad.jsonl", [{}]))
    )
    for path, status in ((good, 0), (mixed, 1), (bad, 2)):
        out = tmp_path / f"{path.stem}-out.jsonl"
        done = eef("import", path, "--out", out)
        assert done.exit_code == status
        assert out.exists() == (status < 2)
        accounts = list(read_jsonl(tmp_path / f"{out.name}.accounts.jsonl"))
        outcomes = {0: ["unverified"], 1: ["unverified", "rejected"], 2: ["rejected"]}
        assert [each["outcome"] for each in accounts] == outcomes[status]
    assert f"rejected    {bad}:1: unknown format" in done.stderr
    assert eef("import", good, "--format", "sharegtp").exit_code == 2


def test_a_run_imports_a_file_as_an_expert_and_holds_out_evaluation_tasks(
    played, env, student, tmp_path
):
    test = [
        rows_of(item, "messages")
        for item in play(
            [RolloutSpec("t", env.tasks("test")[0], None, 1, 0)],
            env=env,
            policy=make_toy_expert(env, "flawless"),
            trajectories=TrajectorySet(),
            parameters=PARAMETERS,
        )
    ]
    foreign = {"messages": messages_by("user", "assistant"), "reward": 1.0, "id": "foreign"}
    other = {**rows_of(played[7], "messages"), "id": "other"}
    reworded = {**foreign, "id": "reworded", "task": env.tasks("test")[1].id}
    own = [rows_of(item, "messages") for item in played[:6]]
    path = write(tmp_path / "experts.jsonl", [*own, *test, other, foreign, reworded])
    recipe = as_recipe(
        small_recipe(student, expert={"names": [f"file/{path}"]}, tasks={"train": 6})
    )
    pipeline = Pipeline.create(tmp_path / "run", recipe)
    pipeline.check()
    pipeline.execute(Stage("expert", 0, "collect"))
    outcome = pipeline.run.summary(Stage("expert", 0, "collect"))
    assert (outcome["rollouts"], outcome["unverified"]) == (7, 1)
    source = outcome["sources"][f"file/{path}"]
    assert (source["imported"], source["held_out"], source["replayed"]) == (7, 3, 6)
    pipeline.execute(Stage("bc", 0, "select"))
    trained = {example.task for example in pipeline.run.selection("bc", 0).examples}
    assert any(task.startswith("text/") for task in trained)
    assert trained.isdisjoint(task.id for task in env.tasks("test"))
    assert Stage("expert", 0, "evaluate") not in stages_of(recipe)


def two_expert_files(tmp_path, played):
    """Files of equal name whose rows have equal ids."""
    paths = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        rows = [{**rows_of(item, "messages"), "id": n} for n, item in enumerate(played[:3])]
        paths.append(write(tmp_path / name / "0.jsonl", rows))
    return paths


def test_expert_files_with_equal_ids_are_stored_completely_and_only_once(played, student, tmp_path):
    names = [f"file/{path}" for path in two_expert_files(tmp_path, played)]
    recipe = as_recipe(small_recipe(student, expert={"names": names}, tasks={"train": 8}))
    pipeline, stage = Pipeline.create(tmp_path / "run", recipe), Stage("expert", 0, "collect")
    pipeline.check()
    pipeline.execute(stage)
    outcome = pipeline.run.summary(stage)
    assert outcome["rollouts"] == len(read_trajectories(pipeline.run.store("expert"))) == 6
    assert [outcome["sources"][name]["imported"] for name in names] == [3, 3]
    store = pipeline.run.store("expert") / "trajectories.jsonl"
    stored = store.read_text()
    store.write_text("".join(stored.splitlines(keepends=True)[:4]))  # interrupted
    collect(pipeline.context, stage, lambda _: None)
    assert store.read_text() == stored
    with_other_rows = [{**rows_of(played[4], "messages"), "id": n} for n in range(3)]
    write(tmp_path / "two/0.jsonl", with_other_rows)
    with pytest.raises(DataError, match="has changed since its import started"):
        collect(pipeline.context, stage, lambda _: None)


def test_a_file_and_a_player_of_the_same_name_are_both_stored(played, student, tmp_path):
    path = write(tmp_path / "weak.jsonl", [item.to_record() for item in played[:2]])
    names = [f"file/{path}", "scripted/weak"]
    recipe = as_recipe(small_recipe(student, expert={"names": names}, tasks={"train": 8}))
    pipeline = Pipeline.create(tmp_path / "run", recipe)
    pipeline.execute(Stage("expert", 0, "collect"))
    assert pipeline.run.summary(Stage("expert", 0, "collect"))["rollouts"] == 10


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["hf/a/model", "hf/b/model"], "have the same name, `model`"),
        (["scripted/weak", "scripted/weak"], "is listed twice"),
    ],
)
def test_experts_that_cannot_be_told_apart_are_refused(names, message, student, tmp_path):
    recipe = as_recipe(small_recipe(student, expert={"names": names}, tasks={"train": 8}))
    with pytest.raises(ConfigError, match=message):
        Pipeline.create(tmp_path / "run", recipe).check()


def test_unverified_trajectories_are_refused_for_exploration(played, env, tmp_path):
    imported, _, _ = read(
        write(tmp_path / "a.jsonl", [rows_of(item, "messages") for item in played])
    )
    lost = next(item for item in imported if not item.success)
    store_of = TrajectorySet(imported)
    with pytest.raises(MethodError, match=r"all \d+ are unverified"):
        make_method("eef").plan(store_of, [], 1)
    with Store.open(tmp_path) as store:
        store.append(lost)
        spec = RolloutSpec("x", env.tasks("train")[0], StateRef(lost.id, 1), 0, 1)
        with pytest.raises(EnvError, match=r"that trajectory \(.*a\.jsonl:\d+\) was not verified"):
            play_into_store(
                [spec],
                store,
                env,
                make_toy_expert(env, "weak"),
                PARAMETERS,
            )
    assert len(read_trajectories(tmp_path)) == 1


# --- tool calls, partly verified rows, rewritten actions -----------------------------------------

ADD = {"function": {"name": "add", "arguments": '{"amount": 1}'}}
STOP = {"function": {"name": "stop", "arguments": "{}"}}


def counter_log(*messages, wanted=3):
    """A log of the counter in OpenAI's format; a number is the result of a call, a list calls."""
    row = [{"role": "system", "content": "v1"}, {"role": "user", "content": f"Reach {wanted}."}]
    for item in messages:
        if isinstance(item, list):
            row.append({"role": "assistant", "content": None, "tool_calls": item})
        elif isinstance(item, int):
            row.append({"role": "tool", "tool_call_id": "x", "content": f"It is {item}."})
        else:
            row.append({"role": "assistant", "content": item})
    return {"messages": row}


@pytest.fixture(scope="module")
def counter():
    env = make_env("tests.fakes.counter:SPEC", {})
    return TaskIndex(env, {"train": env.tasks("train")})


def test_logs_with_calls_are_verified_with_their_calls(counter, tmp_path):
    """Text beside calls, parallel calls, messages in a row, and closing words."""
    stopped = {"role": "tool", "content": "Stopped."}
    log = counter_log("I add.", [ADD], 1, [ADD, ADD], 2, 3, [STOP])
    log["messages"] += [stopped, {"role": "assistant", "content": "I am done."}]
    (item,), _, report = read(write(tmp_path / "a.jsonl", [log]), counter)
    assert report.replayed == 1
    assert (item.success, report.closing) == (True, 1)
    turns = [read_turn(step.completion) for step in item.steps]
    assert [len(turn.calls) for turn in turns] == [1, 2, 1]
    assert turns[0].text == "I add."
    assert split_results(item.steps[2].observation, 2) == ["It is 2.", "It is 3."]
    again, _, _ = read(write(tmp_path / "b.jsonl", [item.to_record()]), counter)
    assert [step.action for step in again[0].steps] == [step.action for step in item.steps]


def test_a_log_is_branched_from_up_to_where_it_holds(counter, tmp_path):
    log = counter_log([ADD], 1, [ADD], 2, [ADD], 7, [STOP])
    importer = Importer(counter)
    (item,) = importer.trajectories([write(tmp_path / "a.jsonl", [log])])
    assert (item.replayable, item.verified_steps, item.length) == (True, 2, 4)
    assert not item.success
    (account,) = importer.accounts
    assert (account.outcome, account.verified_steps, account.steps) == ("partly verified", 2, 4)
    assert "recorded 'It is 7.', observed 'It is 3.'" in account.reason
    from eef.pipeline.context import RunContext
    from eef.pipeline.run_directory import RunDirectory
    from eef.selection import PlannedState
    from eef.trajectory import StateRef
    from tests.fakes.small_run import as_recipe, small_recipe

    recipe = as_recipe(small_recipe(tmp_path, env={"name": "tests.fakes.counter:SPEC"}))
    context = RunContext(RunDirectory(tmp_path, recipe))
    trajectories = TrajectorySet([item])
    states = [PlannedState(task=item.task, state=StateRef(item.id, t), count=1) for t in range(5)]
    assert [context._can_start(state, trajectories) for state in states] == [
        *(True, True, True, False, False)
    ]


def test_actions_are_rewritten(counter, tmp_path):
    other = {"function": {"name": "plus", "arguments": '{"n": 1}'}}
    log = counter_log([other], 1, [STOP], wanted=1)
    path = write(tmp_path / "a.jsonl", [log])
    assert read(path, counter)[2].replayed == 0
    rules = ActionMap([r'plus\[(\d+)\]=add[{"amount": \1}]'])
    importer = Importer(counter, action_map=rules)
    (item,) = importer.trajectories([path])
    assert (importer.report.replayed, item.success) == (1, True)
    assert item.steps[0].action == 'add[{"amount": 1}]'
    react = {"messages": messages_by("user", "assistant"), "reward": 1.0}
    episode = read_row(react, action_map=ActionMap(["go=run"]))
    assert (episode.steps[0].completion, episode.steps[0].action) == ("Action: run", "run")
    swapped = ActionMap([r"x\=(\d+)=y=\1", "go=run", r"a\\b=c"])
    assert [swapped(each) for each in ("x=3", "x3", "a\\b", "=")] == ["y=3", "x3", "c", "="]
    assert swapped.unused == ["go=run"]
    assert ActionMap([r"(?\=x)x\=y=z"])("x=y") == "z", "a lookahead"
    for rule in ("go", "(=x", r"go=\3", "=run", r"go\=run"):
        with pytest.raises(ConfigError, match="--map"):
            ActionMap([rule])


def test_a_react_log_states_what_rows_of_every_format_may_state():
    row = {
        "id": "mine",
        "session": None,
        "task": "toy/4",
        "author": "gpt",
        "score": 0.5,
        "success": 1,
        "truncated": True,
        "episode_seed": 7,
        "initial_observation": "a door",
        "steps": [{"action": "click[Buy Now]", "observation": "Your score: 0.5"}],
    }
    episode = read_react(row)
    assert (episode.key, episode.task, episode.author) == ("mine", "toy/4", "gpt")
    assert (episode.reward, episode.success, episode.episode_seed) == (0.5, True, 7)
    assert not episode.terminated, "the row says that it was cut"
    assert read_react({**row, "truncated": None}).terminated
    assert read_react({**row, "id": None, "session": "fixed_3"}).key == "fixed_3"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.csv", b"id,messages,reward\n1,x,1\n", "a.csv` is a table of text; expected JSON"),
        ("a.jsonl", '{"messages": []}'.encode("utf-16"), "a.jsonl` is UTF-16 text"),
    ],
)
def test_a_file_of_another_kind_is_one_error(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message) as refused:
        list(rows_in(tmp_path / name))
    assert "convert it" in refused.value.hint


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["there.jsonl", "missing.jsonl"], "no such file `missing.jsonl`"),
        (["there.jsonl", "folder"], "`folder` is a directory"),
        (["there.jsonl", "--out", ""], "`--out` names no file"),
        (["there.jsonl", "--env", "toy", "--set", "env.step_limit=3"], "leave out `env.`"),
    ],
)
def test_a_mistake_is_found_before_anything_is_read(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "there.jsonl").write_text("")  # reading it would be an error of its own
    done = eef("import", *arguments)
    assert (done.exit_code, message in done.stderr) == (2, True), done.stderr
