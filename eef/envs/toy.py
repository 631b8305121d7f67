"""ToyEnv: a small environment, the example of the protocol and the one of the tests; with players for it.

A corridor of rooms, with three keys lying in it and a chest in its last room. The task: open the chest with
the key of the right colour. A hand holds one key, so a wrong one can be put right by taking another; a wrong
key in the chest breaks the lock, and nothing can put that right.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from eef.chat import format_completion
from eef.config import unknown_name
from eef.env import StepResult
from eef.envs.spec import Behavior, EnvSpec
from eef.errors import EnvError
from eef.policy import Conversation, ScriptedPolicy
from eef.task import Task, TaskSet
from eef.trajectory import Author, Step

_COLOURS = ("blue", "green", "red", "white")
_VIEW = re.compile(r"Room (\d+) of (\d+).*Keys here: (.*)\. You hold: (?:the )?(\w+)")
PROMPT = (
    "You walk along a corridor to a chest in its last room. Actions: `left`, `right`, `take <colour>` (a key "
    "lying in your room; the one you hold is put down), `open` (the chest, with the key you hold; one try).\n"
    "Answer with `Thought: …` and then `Action: …` on a line of its own."
)


@dataclass(frozen=True, slots=True)
class Corridor:
    """An episode at one moment, and so its own snapshot. `keys[r]` are the keys lying in room r."""

    keys: tuple[frozenset[str], ...]
    wanted: str
    room: int = 0
    held: str | None = None
    over: bool = False

    def describe(self) -> str:
        chest = " with the chest" if self.room == len(self.keys) - 1 else ""
        here = ", ".join(sorted(self.keys[self.room])) or "none"
        held = f"the {self.held} key" if self.held else "nothing"
        return (
            f"Room {self.room + 1} of {len(self.keys)}{chest}. Keys here: {here}. You hold: {held}."
        )

    def take(self, colour: str) -> Corridor:
        here = self.keys[self.room] - {colour} | ({self.held} if self.held else set())
        return replace(
            self, held=colour, keys=(*self.keys[: self.room], here, *self.keys[self.room + 1 :])
        )


class ToyEnv:
    """Episodes in corridors of 4 to 6 rooms. Reward 1.0 for opening the chest, 0.5 for breaking its lock.

    Each split holds `tasks_per_split` tasks, the test split those with the lower indices.
    """

    name = "toy"
    success_threshold = 1.0
    supports_snapshot = True
    concurrent = False
    worker_restarts = 0
    prompt = PROMPT

    def __init__(self, *, tasks_per_split: int = 40, step_limit: int = 10) -> None:
        self.tasks_per_split = tasks_per_split
        self.step_limit = step_limit
        self._now: Corridor | None = None

    def tasks(self, split: str) -> TaskSet:
        if split not in ("train", "test"):
            raise unknown_name("split", split, ("train", "test"), error=EnvError)
        first = 0 if split == "test" else self.tasks_per_split
        return TaskSet.of(
            [_task(index, split) for index in range(first, first + self.tasks_per_split)]
        )

    def reset(self, task: Task) -> str:
        self._now = _corridor(task.index)
        return f"{task.instruction}\n{self._now.describe()}"

    def step(self, action: str) -> StepResult:
        now = self._playing()
        if now.over:
            return StepResult("The episode is over.", 0.0, True)
        verb, _, colour = action.strip().lower().partition(" ")
        if verb == "open" and now.held and now.room == len(now.keys) - 1:
            return self._open(now)
        if verb == "take" and colour in now.keys[now.room]:
            self._now = now.take(colour)
        elif verb in ("left", "right") and not colour:
            room = now.room + (1 if verb == "right" else -1)
            self._now = replace(now, room=min(max(room, 0), len(now.keys) - 1))
        words = "" if self._now != now else "Nothing happens. "
        return StepResult(words + self._playing().describe(), 0.0, False)

    def _open(self, now: Corridor) -> StepResult:
        self._now = replace(now, over=True)
        if now.held == now.wanted:
            return StepResult("The chest opens.", 1.0, True)
        return StepResult(f"The {now.held} key breaks off in the lock.", 0.5, True)

    def score(self, rewards: Iterable[float]) -> float:
        return max(rewards, default=0.0)

    def snapshot(self) -> Corridor:
        return self._playing()

    def restore(self, snapshot: Any) -> None:
        self._now = snapshot

    def can_branch_at(self, steps: Sequence[Step], t: int) -> bool:
        return True

    def clone(self) -> ToyEnv:
        other = copy(self)
        other._now = None
        return other

    def fingerprint(self) -> dict[str, Any]:
        return {
            "env": self.name,
            "tasks_per_split": self.tasks_per_split,
            "step_limit": self.step_limit,
            "success_threshold": self.success_threshold,
            "prompt": self.prompt,
        }

    def close(self) -> None:
        self._now = None

    def _playing(self) -> Corridor:
        if self._now is None:
            raise EnvError("no episode has begun", hint="call `reset` first")
        return self._now


def toy_player(author: Author, skill: float) -> ScriptedPolicy:
    """A policy that takes the right action with probability `skill` (drawn from the seed), else another."""

    def script(conversation: Conversation, seed: int) -> str:
        chance = random.Random(seed)
        right = _right_action(conversation)
        if chance.random() < skill:
            return format_completion("This brings me nearer.", right)
        moves = ["left", "right", "open", *(f"take {colour}" for colour in _COLOURS)]
        return format_completion(
            "Let me try this.", chance.choice([move for move in moves if move != right])
        )

    return ScriptedPolicy(author, script)


PRESETS = {"flawless": 1.0, "strong": 0.9, "weak": 0.7}


def make_toy_expert(env: ToyEnv, preset: str) -> ScriptedPolicy:
    """The scripted expert `expert:<preset>`; the presets differ in skill."""
    if preset not in PRESETS:
        raise unknown_name("scripted expert", preset, PRESETS, error=EnvError)
    return toy_player(Author("expert", preset), PRESETS[preset])


def _task(index: int, split: str) -> Task:
    goal = f"Open the chest with the {_corridor(index).wanted} key."
    return Task(id=f"toy/{index}", env="toy", index=index, split=split, instruction=goal)


def _corridor(index: int) -> Corridor:
    chance = random.Random(f"corridor {index}")
    keys: list[frozenset[str]] = [frozenset() for _ in range(chance.randint(4, 6))]
    colours = chance.sample(_COLOURS, 3)
    for colour in colours:
        room = chance.randrange(len(keys))
        keys[room] |= {colour}
    return Corridor(tuple(keys), wanted=colours[0])


def _right_action(conversation: Conversation) -> str:
    """The first step of the shortest way as far as it is known: unseen rooms lie to the right."""
    seen = [message["content"] for message in conversation if message["role"] == "user"]
    wanted = seen[0].split("with the ")[1].split()[0]
    views = [view.groups() for view in map(_VIEW.search, seen) if view]
    room, rooms, here, held = views[-1]
    if held == wanted:
        return "open" if room == rooms else "right"
    if wanted in here.split(", "):
        return f"take {wanted}"
    lying = [int(view[0]) for view in views if wanted in view[2].split(", ")]
    return "left" if lying and lying[-1] < int(room) else "right"


SPEC = EnvSpec(
    make=ToyEnv,
    make_expert=make_toy_expert,
    behaviors=(Behavior("Step back", "left"), Behavior("Another key", r"take \w+", free=1)),
)
