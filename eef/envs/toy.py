"""A small environment that serves as the example of the protocol and in tests, with its experts.

Three keys lie in a corridor of rooms, with a chest in the last room. The task is to open the chest
with the key of a given color. The agent holds one key at a time. Taking a wrong key can be undone
by taking another; trying a wrong key in the chest breaks the lock for good.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, replace
from typing import Any

from pydantic import Field

from eef.config import Settings, unknown_name
from eef.env import AFTER_END, BaseEnv, StepResult
from eef.envs.scripted_roles import ScriptedRole
from eef.envs.spec import Behavior, EnvSpec
from eef.errors import EnvError
from eef.policy import Conversation, ScriptedPolicy
from eef.react import format_completion
from eef.task import Task, TaskSet
from eef.trajectory import Author

_COLORS = ("blue", "green", "red", "white")
_VIEW = re.compile(r"Room (\d+) of (\d+).*Keys here: (.*)\. You hold: (?:the )?(\w+)")
PROMPT = (
    "You walk along a corridor to a chest in its last room. Actions: `left`, `right`, "
    "`take <colour>` (a key lying in your room; the one you hold is put down), "
    "`open` (the chest, with the key you hold; one try).\n"
    "Answer with `Thought: …` and then `Action: …` on a line of its own."
)


@dataclass(frozen=True, slots=True)
class Corridor:
    """The state of an episode, which is also its snapshot. `keys[r]` are the keys in room r."""

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

    def take(self, color: str) -> Corridor:
        here = self.keys[self.room] - {color} | ({self.held} if self.held else set())
        return replace(
            self, held=color, keys=(*self.keys[: self.room], here, *self.keys[self.room + 1 :])
        )


class ToySettings(Settings):
    """Size of the splits, and the step limit."""

    tasks_per_split: int = Field(default=40, ge=1)
    """Number of tasks in each of the splits `train` and `test`."""

    step_limit: int = Field(default=10, ge=1)
    """Default step limit of a rollout."""


class ToyEnv(BaseEnv):
    """Episodes in corridors of 4 to 6 rooms. Reward 1.0 for opening the chest, 0.5 for breaking it.

    The test split holds the tasks with the lower indices.
    """

    name = "toy"
    supports_snapshot = True
    prompt = PROMPT

    def __init__(self, settings: ToySettings | None = None) -> None:
        settings = settings or ToySettings()
        self.tasks_per_split = settings.tasks_per_split
        self.step_limit = settings.step_limit
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
            return AFTER_END
        verb, _, color = action.strip().lower().partition(" ")
        if verb == "open" and now.held and now.room == len(now.keys) - 1:
            return self._open(now)
        if verb == "take" and color in now.keys[now.room]:
            self._now = now.take(color)
        elif verb in ("left", "right") and not color:
            room = now.room + (1 if verb == "right" else -1)
            self._now = replace(now, room=min(max(room, 0), len(now.keys) - 1))
        words = "" if self._now != now else "Nothing happens. "
        return StepResult(words + self._playing().describe(), 0.0, False)

    def _open(self, now: Corridor) -> StepResult:
        self._now = replace(now, over=True)
        if now.held == now.wanted:
            return StepResult("The chest opens.", 1.0, True)
        return StepResult(f"The {now.held} key breaks off in the lock.", 0.5, True)

    def snapshot(self) -> Corridor:
        return self._playing()

    def restore(self, snapshot: Any) -> None:
        self._now = snapshot

    def fingerprint(self) -> dict[str, Any]:
        return {
            "env": self.name,
            "tasks_per_split": self.tasks_per_split,
            "step_limit": self.step_limit,
            "success_threshold": self.success_threshold,
            "prompt": self.prompt,
        }

    def _playing(self) -> Corridor:
        if self._now is None:
            raise EnvError("toy: no episode has started", hint="call `reset` first")
        return self._now


def toy_player(author: Author, skill: float) -> ScriptedPolicy:
    """A policy that takes the right action with probability `skill`, otherwise another."""

    def script(conversation: Conversation, seed: int) -> str:
        chance = random.Random(seed)
        right = _right_action(conversation)
        if chance.random() < skill:
            return format_completion("This brings me nearer.", right)
        moves = ["left", "right", "open", *(f"take {color}" for color in _COLORS)]
        return format_completion(
            "Let me try this.", chance.choice([move for move in moves if move != right])
        )

    return ScriptedPolicy(author, script)


PRESETS = {"flawless": 1.0, "strong": 0.9, "weak": 0.7}


def make_toy_expert(env: ToyEnv, preset: str) -> ScriptedPolicy:
    """Create the scripted expert of a preset; the presets differ in skill."""
    if preset not in PRESETS:
        raise unknown_name("scripted expert", preset, PRESETS, error=EnvError)
    return toy_player(Author("expert", preset), PRESETS[preset])


def make_toy_role(env: ToyEnv, role: str, preset: str) -> ScriptedRole:
    """Create the scripted model of a role, from what the flawless expert would do."""
    return ScriptedRole(env, make_toy_expert(env, "flawless"), role, preset)


def _task(index: int, split: str) -> Task:
    goal = f"Open the chest with the {_corridor(index).wanted} key."
    return Task(id=f"toy/{index}", env="toy", index=index, split=split, instruction=goal)


def _corridor(index: int) -> Corridor:
    chance = random.Random(f"corridor {index}")
    keys: list[frozenset[str]] = [frozenset() for _ in range(chance.randint(4, 6))]
    colors = chance.sample(_COLORS, 3)
    for color in colors:
        room = chance.randrange(len(keys))
        keys[room] |= {color}
    return Corridor(tuple(keys), wanted=colors[0])


def _right_action(conversation: Conversation) -> str:
    """The first step of the shortest known way; unseen rooms are to the right."""
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
    settings=ToySettings,
    make=ToyEnv,
    make_expert=make_toy_expert,
    make_role=make_toy_role,
    behaviors=(Behavior("Step back", "left"), Behavior("Another key", r"take \w+", free=1)),
)
