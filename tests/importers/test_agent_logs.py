"""What the logs of deployed agents hold: refusals, nulls, results in any order, failing replays."""

from __future__ import annotations

import pytest

from eef.envs.toy import ToyEnv, make_toy_expert
from eef.errors import ConfigError, DataError
from eef.importers.calls import as_actions
from eef.importers.conversations import parse_messages, split_episode
from eef.importers.episode import ParseError
from eef.importers.formats import read_row
from eef.importers.importer import Importer, RewardSource
from eef.importers.verify import TaskIndex
from eef.policy import Sampling
from eef.rollouts.runner import RolloutParameters, play
from eef.rollouts.specs import RolloutSpec
from eef.tools import Call, Tool, Toolset, read_turn, split_results, tool
from eef.trajectory import Trajectory, TrajectorySet
from eef.utils.jsonl import write_jsonl

NULLABLE = {"type": ["string", "null"]}
SET = Toolset((tool("set", "Set a value.", a="string", b=NULLABLE),), text_action="say")


def messages(*texts):
    """Messages from the texts of a user and an agent in turns; a mapping is a whole message."""
    roles = ("user", "assistant")
    return [
        text if isinstance(text, dict) else {"role": roles[number % 2], "content": text}
        for number, text in enumerate(texts)
    ]


def steps_of(log, tools=None):
    prompt, steps, final = split_episode(parse_messages(log))
    return prompt, as_actions(steps, tools), final


def called(*calls):
    """A message of the agent with calls, each (id, name, arguments)."""
    return {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": id, "function": {"name": name, "arguments": arguments}}
            for id, name, arguments in calls
        ],
    }


@pytest.mark.parametrize(
    "answer", ["Sure, what is your e-mail address?", "OK, one moment please.", "Got it! Which one?"]
)
def test_an_answer_to_the_first_message_is_a_turn(answer):
    log = messages("Please refund the coat.", answer, "sam@x.org", "Action: refund[coat]")
    prompt, steps, _ = steps_of(log)
    assert prompt == ""
    assert [step.observation for step in steps] == ["Please refund the coat.", "sam@x.org"]


@pytest.mark.parametrize("answer", ["OK", "Ok.", "OK. I'll follow your instructions and try."])
def test_instructions_that_are_acknowledged_are_prompt_without_a_system_message(answer):
    log = messages("You shop.", answer, "a shop", "Action: buy[]")
    assert steps_of(log)[0] == "You shop."
    system = {"role": "system", "content": "The rules."}
    prompt, steps, _ = steps_of([system, *log])
    assert (prompt, len(steps)) == ("The rules.", 2)
    prompt, steps, _ = steps_of([{"role": "system", "content": ""}, *log])
    assert (prompt, len(steps)) == ("You shop.", 1), "an empty one says nothing"


def test_a_null_that_a_tool_takes_is_kept():
    """OpenAI's strict mode writes optional arguments as null; other data sets fill with nulls."""
    given = {"a": "x", "b": None, "of_another_call": None}
    _, (step,), _ = steps_of([*messages("go"), called(("1", "set", given))], SET)
    assert read_turn(step.completion).calls == (Call("set", {"a": "x", "b": None}),)
    assert step.action == 'set[{"a": "x", "b": null}]'
    optional = {
        "type": "object",
        "properties": {"a": {"type": "string"}, "c": {"type": "object"}},
        "required": ["a"],
    }
    tools = Toolset((Tool("set", "Set a value.", optional),))
    given = {"a": "x", "c": {"deep": None}, "d": None}
    _, (step,), _ = steps_of([*messages("go"), called(("1", "set", given))], tools)
    assert read_turn(step.completion).calls == (Call("set", {"a": "x", "c": {"deep": None}}),)


@pytest.mark.parametrize("order", [("1", "2"), ("2", "1")])
@pytest.mark.parametrize("form", ["openai", "anthropic"])
def test_results_of_parallel_calls_are_in_the_order_of_the_calls(order, form):
    results = {"1": "first", "2": "second"}
    if form == "openai":
        calls = called(("1", "set", {"a": "1"}), ("2", "set", {"a": "2"}))
        answers = [{"role": "tool", "tool_call_id": id, "content": results[id]} for id in order]
    else:
        parts = [
            {"type": "tool_use", "id": id, "name": "set", "input": {"a": id}} for id in results
        ]
        again = [{"id": id, "name": "set", "args": {"a": id}} for id in results]  # LangChain
        calls = {"role": "assistant", "content": parts, "tool_calls": again}
        parts = [{"type": "tool_result", "tool_use_id": id, "content": results[id]} for id in order]
        answers = [{"role": "user", "content": parts}]
    _, steps, final = steps_of([*messages("go"), calls, *answers], SET)
    assert len(steps) == 1
    assert split_results(final, 2) == ["first", "second"]


def test_items_of_the_responses_api_are_joined_with_their_ids():
    log = [
        *messages("go"),
        {"type": "function_call", "call_id": "1", "name": "set", "arguments": '{"a": "1"}'},
        {"type": "function_call", "call_id": "2", "name": "set", "arguments": '{"a": "2"}'},
        {"type": "function_call_output", "call_id": "2", "output": "second"},
        {"type": "function_call_output", "call_id": "1", "output": "first"},
    ]
    _, steps, final = steps_of(log, SET)
    assert len(read_turn(steps[0].completion).calls) == 2
    assert split_results(final, 2) == ["first", "second"]


def test_results_without_ids_keep_their_order():
    calls = called((None, "set", {"a": "1"}), (None, "set", {"a": "2"}))
    answers = [{"role": "tool", "content": text} for text in ("b", "a")]
    assert split_results(steps_of([*messages("go"), calls, *answers], SET)[2], 2) == ["b", "a"]


def test_the_words_of_a_refusal_are_the_turn():
    refused = {"role": "assistant", "content": None, "refusal": "I can't help."}
    calls = called(("1", "set", {"a": "1", "b": "2"}))
    _, steps, _ = steps_of([*messages("go"), refused, *messages("please"), calls], SET)
    assert (steps[0].completion, steps[0].action) == ("I can't help.", "say[I can't help.]")
    assert steps[0].weight == 1.0


@pytest.mark.parametrize("nested", [False, True])
def test_messages_of_langchain_are_read(nested):
    call = {"name": "set", "args": {"a": "1", "b": "2"}, "id": "1", "type": "tool_call"}
    log = [
        {"type": "system", "content": "Rules."},
        {"type": "human", "content": "go"},
        {"type": "ai", "content": "", "tool_calls": [call]},
        {"type": "tool", "content": "done", "tool_call_id": "1"},
    ]
    if nested:
        log = [{"type": each["type"], "data": each} for each in log]
    prompt, (step,), final = steps_of(log, SET)
    assert (prompt, step.observation, final) == ("Rules.", "go", "done")
    assert step.action == 'set[{"a": "1", "b": "2"}]'


def test_an_action_that_no_turn_can_hold_is_named():
    entries = [{"action": "write[a\nb", "observation": "o"}]
    with pytest.raises(ParseError, match="no turn in ReAct can hold the action"):
        read_row({"initial_observation": "shop", "steps": entries, "reward": 1})


def test_values_that_are_null_hide_no_others():
    log = messages("go", "Action: a[]")
    row = {"messages": log, "reward": None, "score": 1.0, "task": None, "task_idx": 3}
    assert (read_row(row).reward, read_row(row).task) == (1.0, 3)
    row = {"messages": log, "reward": 1.0, "task": "toy/1", "meta": {"reward": None, "task": "x"}}
    assert (read_row(row).reward, read_row(row).task) == (1.0, "toy/1")


def test_thoughts_and_arguments_of_react_rows_are_read():
    entries = [
        {"thought": "I look.", "action": "search", "action_input": "mug", "observation": "a mug"},
        {"action": "buy", "action_input": {"id": 1, "n": 2}, "observation": "bought"},
        {"action": "click[red]", "action_input": "", "observation": "red"},
    ]
    steps = read_row({"initial_observation": "shop", "steps": entries, "reward": 1}).steps
    assert steps[0].completion == "Thought: I look.\nAction: search[mug]"
    assert steps[1].action == 'buy[{"id": 1, "n": 2}]'
    assert steps[1].observation == "a mug"
    assert steps[2].action == "click[red]"


def test_a_file_of_rewards_that_contradicts_itself_is_refused(tmp_path):
    rewards = [{"id": "a", "reward": 1}, {"id": "a", "reward": 1}, {"id": "a", "reward": 0}]
    write_jsonl(tmp_path / "rewards.jsonl", rewards)
    with pytest.raises(DataError, match=r"rewards\.jsonl:3` gives 'a' the reward 0"):
        RewardSource(str(tmp_path / "rewards.jsonl"))


# replays


class Down(ToyEnv):
    """The service behind it fails on one task, and on another in a way that concerns all rows."""

    def reset(self, task):
        if task.index == 41:
            raise ConnectionRefusedError("no service")
        if task.index == 42:
            raise ConfigError("no key")
        return super().reset(task)


def rows(env, tasks):
    """One winning episode per task, as rows of messages."""
    specs = [RolloutSpec(f"e/{task.id}", task, None, 0, 0) for task in tasks]
    played = play(
        specs,
        env=env,
        policy=make_toy_expert(env, "flawless"),
        trajectories=TrajectorySet(),
        parameters=RolloutParameters(sampling=Sampling(), step_limit=10, batch_size=8),
    )
    return [
        {
            "id": item.task,
            "task": item.task,
            "reward": item.reward,
            "messages": messages(
                *(text for step in item.steps for text in (step.observation, step.completion)),
                item.final_observation,
            ),
        }
        for item in sorted(played, key=lambda item: item.task)
    ]


def read(path, data, index, **options):
    write_jsonl(path, data)
    importer = Importer(index, **options)
    return list(importer.trajectories([path])), importer.report


def test_a_replay_that_fails_costs_only_its_row(tmp_path):
    env = Down()
    index = TaskIndex(env, {"train": env.tasks("train")})
    data = rows(ToyEnv(), env.tasks("train")[:2])
    items, report = read(tmp_path / "a.jsonl", data, index)
    assert (report.replayed, report.unverified) == (1, 1)
    assert report.differences == [
        f"{tmp_path / 'a.jsonl'}:2: toy/41: the environment failed: ConnectionRefusedError: no "
        "service"
    ]
    assert [item.reward for item in items] == [1.0, 1.0]
    data = rows(ToyEnv(), env.tasks("train")[2:3])
    with pytest.raises(ConfigError, match="no key"):
        read(tmp_path / "b.jsonl", data, index)


def test_an_end_that_the_environment_contradicts_is_not_verified(tmp_path):
    env = ToyEnv()
    index = TaskIndex(env, {"train": env.tasks("train")})
    good, bad = rows(env, env.tasks("train")[:2])
    bad["messages"][-1]["content"] = "ERROR 500: the chest stays shut."
    (whole, partly), report = read(tmp_path / "a.jsonl", [good, bad], index)
    assert (whole.verified_steps, partly.verified_steps) == (None, len(partly.steps) - 1)
    assert "recorded 'ERROR 500" in report.differences[0]
    good["messages"][-1]["content"] += "\n\nTERMINATE"
    del good["reward"]
    (whole,), _ = read(tmp_path / "b.jsonl", [good], index)
    assert (whole.verified_steps, whole.success) == (None, True)


def test_a_task_that_is_no_id_is_none(tmp_path):
    env = ToyEnv()
    index = TaskIndex(env, {"train": env.tasks("train")})
    row = {"task": {"id": 3}, "messages": messages("Hello.", "Action: wait"), "reward": 0.5}
    (item,), report = read(tmp_path / "a.jsonl", [row], index)
    assert (report.unverified, item.task.startswith("text/")) == (1, True)


def test_an_evaluation_task_is_held_out_of_what_an_import_has_written(tmp_path):
    """An unverified row keeps the task that it names, so that the second import knows it."""
    env = ToyEnv()
    index = TaskIndex(env, {split: env.tasks(split) for split in ("train", "test")})
    (row,) = rows(env, env.tasks("test")[:1])
    row["messages"][0]["content"] = f"[10:02] {row['messages'][0]['content']} Hurry."
    (item,), report = read(tmp_path / "a.jsonl", [row], index)
    assert isinstance(item, Trajectory)
    assert (item.replayable, item.task) == (False, row["task"])
    held_out = {row["task"]: "it is evaluated on"}
    for data in (row, item.to_record()):
        _, report = read(tmp_path / "b.jsonl", [data], index, held_out=held_out)
        assert (report.imported, report.held_out) == (0, 1)
