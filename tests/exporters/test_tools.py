"""Exports of tool calls: every target has them, and they are read back as they were."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("transformers")

from jsonschema import Draft202012Validator
from pydantic import TypeAdapter

from eef.chat import as_calls
from eef.env import toolset_of
from eef.envs.registry import make_env, make_expert
from eef.errors import MethodError
from eef.exporters.examples import render_examples
from eef.exporters.targets import TARGETS, export
from eef.importers.formats import read_row
from eef.policy import Sampling
from eef.renderer import Renderer
from eef.rollouts.runner import RolloutParameters, play
from eef.rollouts.specs import RolloutSpec
from eef.selection import TrainingExample
from eef.tools import read_turn
from eef.trajectory import TrajectorySet
from tests.fakes import ROOT
from tests.fakes.families import tokenizer_of

pytestmark = pytest.mark.torch

OPENAI_ROW = {  # the documented schema of a fine-tuning row with tools
    "type": "object",
    "required": ["messages", "tools"],
    "additionalProperties": False,
    "properties": {
        "tools": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["type", "function"],
                "properties": {"function": {"required": ["name", "parameters"]}},
            },
        },
        "messages": {
            "type": "array",
            "items": {
                "oneOf": [
                    {
                        "properties": {
                            "role": {"enum": ["system", "user"]},
                            "content": {"type": "string"},
                        },
                        "required": ["role", "content"],
                        "additionalProperties": False,
                    },
                    {
                        "properties": {
                            "role": {"const": "tool"},
                            "content": {"type": "string"},
                            "tool_call_id": {"type": "string"},
                        },
                        "required": ["role", "content", "tool_call_id"],
                        "additionalProperties": False,
                    },
                    {
                        "properties": {
                            "role": {"const": "assistant"},
                            "content": {"type": ["string", "null"]},
                            "weight": {"enum": [0, 1]},
                            "tool_calls": {
                                "type": "array",
                                "minItems": 1,
                                "items": {
                                    "required": ["id", "type", "function"],
                                    "properties": {
                                        "type": {"const": "function"},
                                        "function": {
                                            "required": ["name", "arguments"],
                                            "properties": {"arguments": {"type": "string"}},
                                        },
                                    },
                                },
                            },
                        },
                        "required": ["role"],
                        "additionalProperties": False,
                    },
                ]
            },
        },
    },
}


@pytest.fixture(scope="module", params=["tests.fakes.counter:SPEC", "ticket_desk.desk:SPEC"])
def made(request):
    """(example, trajectory, renderer) of an episode that a scripted expert played in ReAct.

    At the ticket desk, the expert also speaks: a turn of text alone.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "examples" / "ticket-desk"))
        env = make_env(request.param, {})
        expert = make_expert(env, "slow" if env.name == "counter" else "careful")
    specs = [RolloutSpec("e", env.tasks("train")[2], None, 0, 0)]
    (episode,) = play(
        specs,
        env=env,
        policy=expert,
        trajectories=TrajectorySet(),
        parameters=RolloutParameters(sampling=Sampling(), step_limit=6),
    )
    assert (env.name == "counter") != any(step.action.startswith("say[") for step in episode.steps)
    tools = toolset_of(env)
    renderer = Renderer(tokenizer_of("qwen2.5"), tools=tools)
    length = episode.length
    example = TrainingExample(
        id="x",
        task=episode.task,
        trajectory="e",
        state=0,
        weights=(1.0, 0.0, *[1.0] * (length - 2)),
        reasons=("win",) * length,
    )
    (rendered,) = render_examples([example], TrajectorySet([episode]), tools.prompt, renderer)
    return rendered, episode, renderer


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_has_the_calls_and_the_tools(target, made, tmp_path):
    example, _, renderer = made
    if not TARGETS[target].calls:
        with pytest.raises(MethodError, match="cannot represent tool calls"):
            export(target, [example], tmp_path, renderer)
        return
    exported = export(target, [example], tmp_path, renderer)
    if exported.comparison is not None:  # the trainer's rendering is ours
        assert exported.comparison.different == 0
    text = b"".join(path.read_bytes() for path in exported.files).decode(errors="replace")
    first = renderer.tools.tools[0]
    assert first.name in text
    if target not in ("prompt-completion", "trl", "verl", "parquet"):
        assert first.description in text


def test_openai_rows_follow_the_documented_schema(made, tmp_path):
    example, _, renderer = made
    export("openai", [example], tmp_path, renderer)
    (row,) = lines(tmp_path / "train.jsonl")
    assert [error.message for error in Draft202012Validator(OPENAI_ROW).iter_errors(row)] == []
    ids = [call["id"] for each in row["messages"] for call in each.get("tool_calls", ())]
    answered = [each["tool_call_id"] for each in row["messages"] if each["role"] == "tool"]
    assert ids[: len(answered)] == answered
    assert len(set(ids)) == len(ids)


def test_openai_messages_have_the_fields_of_the_client_library_and_no_others(made, tmp_path):
    chat = pytest.importorskip("openai.types.chat")
    example, _, renderer = made
    export("openai", [example], tmp_path, renderer)
    (row,) = lines(tmp_path / "train.jsonl")
    for message in row["messages"]:
        if message["role"] == "assistant":  # of fine-tuning rows alone
            assert message.pop("weight") in (0, 1)
    checked = {
        "messages": TypeAdapter(list[chat.ChatCompletionMessageParam]),
        "tools": TypeAdapter(list[chat.ChatCompletionToolParam]),
    }
    for key, adapter in checked.items():
        read = adapter.dump_json(adapter.validate_python(row[key]))  # drops unknown fields
        assert json.loads(read) == row[key]


@pytest.mark.parametrize(
    ("target", "file"),
    [("openai", "train.jsonl"), ("axolotl", "train.jsonl"), ("trl", "messages.jsonl")],
)
def test_exported_rows_are_read_back_as_they_were(target, file, made, tmp_path):
    example, episode, renderer = made
    export(target, [example], tmp_path, renderer)
    (row,) = lines(tmp_path / file)
    steps = read_row({**row, "reward": 1.0}, tools=renderer.tools).steps
    assert [step.action for step in steps] == [step.action for step in episode.steps]
    assert [step.observation for step in steps] == [step.observation for step in episode.steps]
    assert [step.weight for step in steps] == list(example.weights)
    assert [step.completion for step in steps] == [
        as_calls(step.completion, step.action, renderer.tools) for step in episode.steps
    ]
    assert all(read_turn(step.completion).calls or "say[" in step.action for step in steps)


def test_the_rows_for_trl_render_to_what_is_trained(made, tmp_path):
    example, _, renderer = made
    export("trl", [example], tmp_path, renderer)
    (row,) = lines(tmp_path / "messages.jsonl")
    text = renderer.tokenizer.apply_chat_template(
        row["messages"], tools=row["tools"], tokenize=False
    )
    assert text.startswith("".join(span for span, _ in example.spans))


def test_trl_trains_on_the_rows(made, tmp_path):
    """TRL's own preparation takes the tools and the calls, and gives the ids of `eef`."""
    pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    example, _, renderer = made
    export("trl", [example], tmp_path, renderer)
    rows = datasets.load_dataset("parquet", data_files=str(tmp_path / "tokens.parquet"))["train"]
    assert rows[0]["input_ids"] == list(example.rendered.ids)
    from trl.data_utils import apply_chat_template, is_conversational

    (row,) = lines(tmp_path / "messages.jsonl")
    assert is_conversational(row)
    prepared = apply_chat_template(row, renderer.tokenizer, tools=row["tools"])
    assert prepared["text"].startswith("".join(span for span, _ in example.spans))
