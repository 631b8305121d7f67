"""The adapter of Inspect tasks, with a task of Inspect's own parts."""

from __future__ import annotations

import os

import pytest

from eef.env import toolset_of
from eef.env_check import check_env
from eef.envs.registry import make_env
from eef.errors import ConfigError, EnvDied
from eef.tools import FORMAT_ERROR_ACTION

TASK = '''
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, system_message, use_tools
from inspect_ai.tool import tool

PRICES = {"mug": "5", "lamp": "40"}

@tool
def price():
    async def execute(item: str) -> str:
        """The price of an item.

        Args:
            item: its name
        """
        return PRICES.get(item, "unknown")
    return execute

@task
def prices(plain: bool = False):
    samples = [
        Sample(input=f"What does the {item} cost?", target=cost)
        for item, cost in [*PRICES.items()] * 3
    ]
    tools = [] if plain else [use_tools(price())]
    return Task(
        dataset=samples,
        solver=[system_message("You know prices."), *tools, generate()],
        scorer=includes(),
    )
'''


def interpreter():
    """The Python interpreter that has Inspect."""
    if "EEF_INSPECT_PYTHON" not in os.environ:
        pytest.skip("EEF_INSPECT_PYTHON names no Python interpreter")
    return os.environ["EEF_INSPECT_PYTHON"]


@pytest.fixture
def task(tmp_path):
    path = tmp_path / "prices.py"
    path.write_text(TASK)
    return {"task": f"{path}:prices", "python": interpreter()}


def test_a_sample_is_an_episode(task):
    env = make_env("inspect", task)
    assert [each.name for each in env.tools] == ["price"]
    assert env.rules == "You know prices."
    assert toolset_of(env).action_of("It costs 5.") == "answer[It costs 5.]"
    assert [len(env.tasks(split)) for split in ("test", "train")] == [3, 3]
    mug = next(each for each in env.tasks("train") if "mug" in each.instruction)
    assert env.reset(mug) == "What does the mug cost?"
    assert env.step("price[mug]").observation == "5"
    assert env.step("prices[mug]").observation.startswith("Unknown action")
    last = env.step("answer[It costs 5 euros.]")
    assert (last.reward, last.terminated) == (1.0, True)
    env.reset(mug)
    assert env.step("answer[It is free.]").reward == 0.0
    assert f"{FORMAT_ERROR_ACTION}" not in env.prompt
    env.close()


def test_it_keeps_the_protocol(task):
    env = make_env("inspect", {**task, "tasks_per_split": 1})
    found = check_env(env, actions=["price[mug]", "answer[40 and 5]"], episodes=0)
    assert found.wins >= 1
    env.close()
    plain = make_env("inspect", {**task, "options": {"plain": True}, "tasks_per_split": 1})
    assert plain.tools == ()
    assert check_env(plain, actions=["I guess 40 or 5."], episodes=0).wins == 1
    plain.close()


def test_a_task_that_cannot_be_loaded_is_one_line(tmp_path):
    task = f"{tmp_path / 'none.py'}:prices"
    with pytest.raises(ConfigError, match="cannot be loaded: FileNotFoundError: no such file"):
        make_env("inspect", {"task": task, "python": interpreter()})


def test_a_loop_that_hangs_is_ended(tmp_path):
    path = tmp_path / "slow.py"
    path.write_text("import time\ndef slow():\n    time.sleep(60)\n")
    with pytest.raises(EnvDied, match="did nothing for 3 s"):
        make_env("inspect", {"task": f"{path}:slow", "timeout": 3, "python": interpreter()})


def test_a_missing_framework_or_interpreter_is_one_line():
    with pytest.raises(ConfigError, match="No module named 'inspect_ai'") as caught:
        make_env("inspect", {"task": "a:b"})
    assert "pip install inspect-ai" in caught.value.hint
    with pytest.raises(ConfigError, match=r"`env\.python` is '/no/python'"):
        make_env("inspect", {"task": "a:b", "python": "/no/python"})
