"""The adapter of verifiers, with environments of its own classes."""

from __future__ import annotations

import os

import pytest

from eef.env_check import check_env
from eef.envs.registry import make_env
from eef.errors import ConfigError

MODULE = '''
import verifiers as vf
from datasets import Dataset

def price(item: str) -> str:
    """The price of an item."""
    return {"mug": "5", "lamp": "40"}.get(item, "unknown")

def correct(completion, answer, **kwargs) -> float:
    return float(answer in (completion[-1]["content"] or ""))

class Dialog(vf.MultiTurnEnv):
    async def env_response(self, messages, state, **kwargs):
        return [{"role": "user", "content": f"Are you sure? ({len(state['trajectory'])})"}]

def load_environment(kind="tools", **kwargs):
    rows = Dataset.from_list([
        {"question": f"What does the {item} cost?", "answer": cost}
        for item, cost in [("mug", "5"), ("lamp", "40")] * 2
    ])
    rubric = vf.Rubric(funcs=[correct])
    shared = {"dataset": rows, "eval_dataset": rows, "rubric": rubric}
    shared["system_prompt"] = "You know prices."
    if kind == "tools":
        return vf.ToolEnv(tools=[price], max_turns=6, **shared)
    return Dialog(max_turns=3, **shared)
'''


@pytest.fixture
def options(tmp_path, monkeypatch):
    if "EEF_VERIFIERS_PYTHON" not in os.environ:
        pytest.skip("EEF_VERIFIERS_PYTHON names no Python interpreter")
    (tmp_path / "eef_prices.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    python = os.environ["EEF_VERIFIERS_PYTHON"]
    return {"task": "eef_prices", "tasks_per_split": 2, "python": python}


def test_an_environment_with_tools_keeps_the_protocol(options):
    env = make_env("verifiers", options)
    assert [each.name for each in env.tools] == ["price"]
    assert env.rules == "You know prices."
    task = env.tasks("train")[0]
    assert env.reset(task) == task.instruction == "What does the mug cost?"
    assert env.step("price[mug]").observation == "5"
    last = env.step("answer[It costs 5 euros.]")
    assert (last.reward, last.terminated) == (1.0, True)
    found = check_env(env, actions=["price[mug]", "price[x]", "answer[40 or 5]"], episodes=1)
    assert found.wins >= 2
    env.close()


def test_an_environment_of_several_turns_keeps_the_protocol(options):
    env = make_env("verifiers", {**options, "options": {"kind": "dialog"}})
    assert env.tools == ()
    env.reset(env.tasks("test")[1])
    assert env.step("40").observation == "Are you sure? (1)"
    assert not env.step("41").terminated
    assert env.step("40").reward == 1.0
    assert check_env(env, actions=["5", "5", "40 or 5"], episodes=1).wins >= 2
    env.close()


def test_an_unknown_environment_is_one_line(options):
    with pytest.raises(ConfigError, match="`no_such_env` cannot be loaded"):
        make_env("verifiers", {**options, "task": "no_such_env"})
