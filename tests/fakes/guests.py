"""A small environment with everything that need not repeat: a seeded guest, and a clock."""

from __future__ import annotations

import random
from itertools import count
from typing import Any

from eef.env import BaseEnv, StepResult
from eef.policy import ScriptedPolicy
from eef.react import format_completion
from eef.task import Task, TaskSet
from eef.trajectory import Author

NAMES = ("ada", "bob", "cyd", "dee")
CLOCK = r"\(\d+ ms\)"


class Guests(BaseEnv):
    """`look` shows the guest's name, which the seed decides; `greet NAME` wins or loses.

    Each observation states how long it took, which is never the same: `ignored` declares it.
    """

    name = "guests"
    prompt = "Actions: `look`, `greet <name>`, `wait`."
    step_limit = 6
    seeded = True
    ignored = (CLOCK,)
    _clock = count(1)

    def __init__(self) -> None:
        self._guest, self._over = "", False

    def tasks(self, split: str) -> TaskSet:
        first = {"train": 0, "test": 100}[split]
        return TaskSet.of(
            [
                Task(
                    id=f"guests/{index}",
                    env=self.name,
                    index=index,
                    split=split,
                    instruction=f"Greet the guest of table {index}.",
                )
                for index in range(first, first + 5)
            ]
        )

    def reset(self, task: Task) -> str:
        self._guest = random.Random(f"{task.index} {task.seed}").choice(NAMES)
        self._over = False
        return self._say(task.instruction)

    def step(self, action: str) -> StepResult:
        verb, _, name = action.partition(" ")
        if self._over:
            return StepResult(self._say("The guest has left."), 0.0, True)
        if verb == "look":
            return StepResult(self._say(f"The guest is {self._guest}."), 0.0, False)
        if verb == "greet":
            self._over = True
            return StepResult(self._say("Goodbye."), float(name == self._guest), True)
        return StepResult(self._say("Nothing happens."), 0.0, False)

    def fingerprint(self) -> dict[str, Any]:
        return {"env": self.name}

    def _say(self, text: str) -> str:
        return f"{text} ({next(self._clock)} ms)"


class Drifting(Guests):
    """Declares less than it changes: nothing is ignored."""

    ignored = ()


class Unrepeatable(Guests):
    """Cannot be replayed at all."""

    replayable = False


def host(actions: tuple[str, ...]) -> ScriptedPolicy:
    """Plays fixed actions; `greet` alone greets whom the guest was seen to be."""

    def write(conversation: Any, seed: int) -> str:
        turn = sum(each["role"] == "assistant" for each in conversation)
        action = actions[min(turn, len(actions) - 1)]
        seen = " ".join(each["content"] for each in conversation)
        if action == "greet":
            name = next((each for each in NAMES if f"is {each}." in seen), "nobody")
            action = f"greet {name}"
        return format_completion("", action)

    return ScriptedPolicy(Author("student", "host"), write)
