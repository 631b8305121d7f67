"""States as prompts: each opens at a server as recorded; TRL trains from them for a few steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

pytest.importorskip("torch")

from eef.envs.registry import make_env
from eef.envs.toy import ToyEnv
from eef.exporters import trl_grpo
from eef.exporters.prompts import _flat, state_prompts
from eef.pipeline.pipeline import Pipeline
from eef.pipeline.stages import COLLECT
from eef.selection import PlannedState
from eef.trajectory import TrajectorySet
from tests.fakes.env_server import listening, sessions_of
from tests.fakes.families import byte_tokenizer
from tests.fakes.small_run import as_recipe, eef, small_recipe

SHOP = {"synthetic": {"products": 100}, "tagger": "words", "data": "synthetic"}


@pytest.fixture(scope="module")
def collected(student, tmp_path_factory):
    """A run whose expert has played."""
    recipe = small_recipe(
        student,
        env={"name": "webshop", **SHOP},
        tasks={"train": 6, "test": 2},
        rollouts={"step_limit": 10},
    )
    pipeline = Pipeline.create(tmp_path_factory.mktemp("prompts") / "run", as_recipe(recipe))
    pipeline.execute(COLLECT)
    return pipeline.run


def rows_of(run, tmp_path, *arguments):
    done = eef("export", run.path, "--to", "trl", "--as", "prompts", "--out", tmp_path, *arguments)
    assert done.exit_code == 0, done.stderr
    return [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]


def test_each_state_opens_at_a_server_as_it_was_recorded(collected, tmp_path):
    rows = rows_of(collected, tmp_path, "--method", "eef")
    inside = [row for row in rows if row["state"]]
    assert len({row["task"] for row in rows if not row["state"]}) == 6
    assert inside
    assert len({(row["task"], row["state"]) for row in rows}) == len(rows)
    with listening(sessions_of(make_env("webshop", SHOP))) as client:
        number = client.post("/create").json()
        for row in rows:
            record = {key: row[key] for key in ("actions", "observations")}
            sent = {"env_idx": number, "session_id": row["task_index"], **record}
            answer = client.post("/restore", json=sent).json()
            assert answer == [row["prompt"][-1]["content"], None]
            assert row["steps_left"] == 10 - len(row["actions"])
            agent = [each["content"] for each in row["prompt"] if each["role"] == "assistant"]
            assert len(agent) == len(row["actions"])


def test_the_readme_serves_the_environment_of_the_run(collected, tmp_path):
    rows_of(collected, tmp_path, "--method", "rft4")
    readme = (tmp_path / "README.md").read_text()
    assert "# 6 states for TRL's GRPO" in readme
    assert "eef env serve webshop" in readme
    assert "--set synthetic.products=100" in readme
    assert f"--model {collected.recipe.model.name.removeprefix('hf/')} " in readme
    assert "eef" not in [
        line.split()[1].split(".")[0]
        for line in (tmp_path / "train.py").read_text().splitlines()
        if line.lstrip().startswith(("import ", "from "))
    ]


def test_settings_are_written_so_that_a_shell_and_eef_read_them():
    settings = {"tasks": ["boil", "melt"], "prompt": "it's", "synthetic": {"seed": 7}, "x": None}
    flat = _flat(settings | {"flag": True})
    assert flat == [
        'tasks=["boil", "melt"]',
        "prompt=it's",
        "synthetic.seed=7",
        "flag=true",
    ]


def test_a_tasks_own_step_limit_bounds_the_steps_that_are_left():
    task = replace(ToyEnv().tasks("train")[0], step_limit=3)
    planned = [PlannedState(task.id, None, 1)]
    (row,) = state_prompts(
        planned,
        TrajectorySet(),
        {task.id: task},
        lambda task: ("Room 1.", 0),
        prompt="",
        step_limit=30,
    )
    assert row.steps_left == 3


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}<E>{% endfor %}<assistant>",
        "{% for m in messages %}<{{ m.role }}>{{ m.content.split('</think>')[-1] }}<E>"
        "{% endfor %}<assistant>",
    ],
)
def test_the_text_between_turns_is_the_templates_whatever_it_does_to_a_turn(template):
    """Templates trim turns, or drop their thoughts; the conversation must not be repeated."""
    tokenizer = byte_tokenizer(template, "<B>", "<E>")
    messages = [
        {"role": "user", "content": "page 1"},
        {"role": "assistant", "content": "<think>hm</think>\nAction: go\n"},
        {"role": "user", "content": "page 2"},
    ]
    assert trl_grpo._text_after_turn(tokenizer, messages) == "<E><user>page 2<E><assistant>"


def test_prompts_for_verl_hold_the_replay(collected, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    arguments = ("--to", "verl", "--as", "prompts", "--method", "eef", "--out", tmp_path)
    assert eef("export", collected.path, *arguments).exit_code == 0
    rows = parquet.read_table(tmp_path / "prompts.parquet").to_pylist()
    known = rows_of(collected, tmp_path / "trl", "--method", "eef")
    assert [row["prompt"] for row in rows] == [row["prompt"] for row in known]
    kwargs = rows[-1]["extra_info"]["interaction_kwargs"]
    assert kwargs["observations"] == known[-1]["observations"]
    assert set(rows[0]) == {"data_source", "prompt", "ability", "reward_model", "extra_info"}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--to", "axolotl", "--method", "eef"), "unknown target of prompts 'axolotl'"),
        (("--to", "trl"), "several methods explore: rft4, eef"),
        (("--to", "trl", "--method", "bc"), "behavior cloning explores nothing"),
        (("--to", "trl", "--method", "eef", "--round", "7"), "has no round 7"),
    ],
)
def test_a_mistake_is_one_line(collected, arguments, problem):
    done = eef("export", collected.path, "--as", "prompts", *arguments)
    assert done.exit_code == 2
    assert problem in done.stderr
    assert "hint: " in done.stderr


def test_conversations_with_tool_calls_are_refused(student, tmp_path):
    recipe = small_recipe(
        student,
        env={"name": "webshop", **SHOP},
        tasks={"train": 2, "test": 2},
        chat={"format": "tools"},
    )
    pipeline = Pipeline.create(tmp_path / "run", as_recipe(recipe))
    pipeline.execute(COLLECT)
    done = eef("export", tmp_path / "run", "--to", "trl", "--as", "prompts", "--method", "eef")
    assert done.exit_code == 2
    assert "writes ReAct conversations" in done.stderr


@pytest.mark.long
def test_trl_trains_from_the_states(collected, student, tmp_path):
    rows_of(collected, tmp_path, "--method", "eef")
    with listening(sessions_of(make_env("webshop", SHOP))) as client:
        options = ["--steps", "2", "--group", "2", "--batch", "4", "--turn-tokens", "12"]
        done = subprocess.run(
            [
                sys.executable,
                tmp_path / "train.py",
                *("--model", str(student), "--server", str(client.base_url)),
                *("--out", str(tmp_path / "out"), *options),
            ],
            capture_output=True,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
        assert client.get("/list_envs").json() == []
    assert done.returncode == 0, done.stderr
    assert "rewards/episode_reward/mean" in done.stdout
    assert (tmp_path / "out" / "model.safetensors").is_file()
