"""An environment with tools: reach a number by adding and doubling, then stop."""

from __future__ import annotations

from typing import Any

from eef.config import Settings
from eef.env import StepResult, ToolEnv
from eef.envs.spec import EnvSpec
from eef.policy import Conversation, ScriptedPolicy
from eef.react import format_completion
from eef.task import Task, TaskSet
from eef.tools import tool
from eef.trajectory import Author


class Counter(ToolEnv):
    """Reward 1 for stopping at the wanted number; words alone are noted and change nothing."""

    name = "counter"
    rules = "Reach the number, then stop."
    tools = (
        tool("add", "Add to the number.", amount="integer"),
        tool("label", "Write on the number.", text="string"),
        tool("stop", "Stop here."),
    )
    text_action = "say"
    step_limit = 5

    def __init__(self) -> None:
        self._wanted = self._now = 0

    def tasks(self, split: str) -> TaskSet:
        first = 0 if split == "train" else 100
        return TaskSet.of([_task(index, split) for index in range(first, first + 10)])

    def reset(self, task: Task) -> str:
        self._wanted, self._now = 1 + task.index % 7, 0
        return task.instruction

    def call(self, name: str, arguments: dict[str, Any]) -> StepResult:
        if name == "stop":
            return StepResult("Stopped.", float(self._now == self._wanted), True)
        if name == "add":
            self._now += arguments["amount"]
        return StepResult(f"It is {self._now}.", 0.0, False)

    def fingerprint(self) -> dict[str, Any]:
        return {"env": self.name, "step_limit": self.step_limit}


def _task(index: int, split: str) -> Task:
    instruction = f"Reach {1 + index % 7}."
    return Task(
        id=f"counter/{index}", env="counter", index=index, split=split, instruction=instruction
    )


def make_expert(env: Any, preset: str) -> ScriptedPolicy:
    """Adds one at a time, in ReAct; too slow for the larger numbers."""

    def write(conversation: Conversation, seed: int) -> str:
        seen = [each["content"] for each in conversation if each["role"] == "user"]
        wanted = int(seen[0].split()[-1].rstrip("."))
        now = len(seen) - 1
        action = "stop[]" if now == wanted else 'add[{"amount": 1}]'
        return format_completion(f"It is {now}.", action)

    return ScriptedPolicy(Author("expert", preset), write)


SPEC = EnvSpec(settings=Settings, make=lambda settings: Counter(), make_expert=make_expert)
