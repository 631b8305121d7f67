"""ScienceWorld: the environment as the rest of the project sees it – tasks, splits, observations, rewards.

The front of the package. Episodes are played in workers (`eef.envs.simulators.pool`), each with a JVM of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from eef.config import unknown_name
from eef.envs.scienceworld.prompt import REACT_PROMPT
from eef.envs.scienceworld.simulator import Opener, Start
from eef.envs.scienceworld.tasks import (
    ETO_LIMITS,
    HELD_OUT,
    Limits,
    Part,
    Simplifications,
    at_index,
    choose_tasks,
    index_of,
    interleave,
    part_of,
)
from eef.envs.scienceworld.thoughts import think
from eef.envs.simulators.env import PooledEnv, PoolSettings
from eef.envs.simulators.jvm import CONSTANT_HASH, JvmSettings, find_jar, find_java
from eef.errors import ConfigError, EnvError
from eef.task import Task, TaskSet
from eef.trajectory import Step

ENGINE_VERSION = 1
PACKAGE, VERSION, JAR = "scienceworld", "1.2.3", "scienceworld/scienceworld.jar"
_OPEN_RANDOM = ("--add-opens", "java.base/java.util=ALL-UNNAMED")

_QUESTION = "Ambiguous request"
_NO_ANSWERS = frozenset(("", "task", "help", "objects", "reset task"))


class ScienceWorld(PooledEnv):
    """An elementary science task in a text world of rooms, things, plants and animals.

    tasks              a preset ("all", "eto-24", "agentgym-23"), a task ("boil"), or a list of tasks
    simplifications    "none", "easy", "eto" ("easy" with open containers) or a list of the simulator's own; the
                       preset's when left out
    limits             steps of an episode by task: "eto" (ETO's) or "none" (`step_limit` for all); the preset's when
                       left out
    step_limit         default limit of a rollout's steps; 100, or the highest of the limits, when left out
    train              the official parts that the split `train` is drawn from: ["train"], or ["train", "dev"]; what it
                       takes can then not be evaluated on
    success_threshold  final reward from which on an episode is won
    prompt             "react" (the actions and the answer's form in words) or "none"
    workers            processes in which episodes are played, each with a JVM of some 0.5 GB
    memory             heap of a JVM in MB at most
    patience           seconds until an action counts as hung
    deterministic      refuse a JVM in which an episode would not go the same way twice; false: do without

    Splits: `train`, `dev`, `test` (the official ones), `seen` and `unseen` (of each task the first ten of `dev` and of
    `test`), `held-out` (both; reports tell them apart). A reward is what an action adds to the simulator's score; the
    final reward is that score, 0 for a failure (a wrong `focus on`, which ends the episode). `reset task` is refused.
    """

    name = "scienceworld"

    def __init__(
        self,
        *,
        tasks: str | tuple[str, ...] = "all",
        simplifications: str | tuple[str, ...] | None = None,
        limits: Limits | None = None,
        step_limit: int | None = None,
        train: tuple[Part, ...] = ("train",),
        success_threshold: float = 1.0,
        prompt: Literal["react", "none"] = "react",
        workers: int = 1,
        memory: int = 512,
        patience: float = 120.0,
        deterministic: bool = True,
    ) -> None:
        self._preset, self._names = choose_tasks(tasks)
        given = simplifications if simplifications is not None else self._preset.simplifications
        self._simplifications = Simplifications.of(given, self._names)
        self._limits = limits or self._preset.limits
        self._train = train
        self._prompt_name = prompt
        self._flags = CONSTANT_HASH if deterministic else ()
        self.prompt = REACT_PROMPT if prompt == "react" else ""
        if not train or len(set(train)) != len(train):
            raise ConfigError(
                f"`env.train` is {list(train)}, expected one or more official parts, each once"
            )
        if not 0.0 < success_threshold <= 1.0:
            raise ConfigError(
                f"`env.success_threshold` is {success_threshold}, expected above 0 and up to 1"
            )
        longest = max(ETO_LIMITS.values()) if self._limits == "eto" else 100
        self.step_limit = longest if step_limit is None else step_limit
        self.success_threshold = success_threshold
        settings = PoolSettings(workers, memory, patience)
        jar = find_jar(PACKAGE, VERSION, JAR)
        jvm = JvmSettings(find_java(), jar, memory, patience, (*self._flags, *_OPEN_RANDOM))
        super().__init__(Opener(jvm, deterministic), settings)
        self.edition = f"{PACKAGE}-{VERSION}" if deterministic else f"{PACKAGE}-{VERSION}-free"

    def think(self, first_observation: str, action: str) -> str:
        return think(first_observation, action)

    def tasks(self, split: str) -> TaskSet:
        """The tasks of a split, one variation of each kind in turn.

        Raises EnvError for an unknown split, and for one whose tasks `train` takes as well.
        """
        splits = list(HELD_OUT) if split == "held-out" else [split]
        variations = {
            name: list(interleave({each: self._variations(name, each) for each in splits}))
            for name in self._names
        }
        return TaskSet.of(
            [self.task(name, number, each) for name, (each, number) in interleave(variations)]
        )

    def task(self, name: str, variation: int, split: str = "") -> Task:
        """One variation of a task. ConfigError where there is none such."""
        return Task(
            id=f"{self.name}/{name}/{variation}",
            env=self.name,
            index=index_of(name, variation),
            split=split,
            instruction=f"{name.replace('-', ' ')}, variation {variation}",
            step_limit=ETO_LIMITS.get(name) if self._limits == "eto" else None,
        )

    def start_of(self, task: Task) -> Start:
        if task.env != self.name:
            raise EnvError(f"{task.id} is no task of ScienceWorld")
        name, variation = at_index(task.index)
        return Start(name, variation, self._simplifications.told(name))

    def can_branch_at(self, steps: Sequence[Step], t: int) -> bool:
        """All states but those in which the simulator awaits a clarification.

        It answers an ambiguous action with a question, to be answered by a number. Only the author of
        the action knows which object it meant. The question stays open over actions that do not
        answer it.
        """
        asked = False
        for index in range(t + 1):
            before = steps[index - 1].action.lower() if index else ""
            observation = steps[index].observation if index < len(steps) else ""
            asked = observation.startswith(_QUESTION) or (asked and before in _NO_ANSWERS)
        return not asked

    def fingerprint(self) -> dict[str, Any]:
        return {
            "env": self.name,
            "engine": ENGINE_VERSION,
            "package": VERSION,
            "java_flags": " ".join(self._flags),
            "deterministic": bool(self._flags),
            "tasks": list(self._names),
            "simplifications": ",".join(self._simplifications.names),
            "limits": self._limits,
            "train": list(self._train),
            "success_threshold": self.success_threshold,
            "prompt": self._prompt_name,
        }

    def _variations(self, name: str, split: str) -> list[int]:
        if split == "train":
            found = [number for part in self._train for number in part_of(name, part)]
            return found[: self._preset.train]
        if split not in ("dev", "test", *HELD_OUT):
            raise unknown_name("split", split, ("train", "dev", "test", *HELD_OUT), error=EnvError)
        part: Part = HELD_OUT.get(split) or ("dev" if split == "dev" else "test")
        if part in self._train:
            raise EnvError(
                f"split {split!r} overlaps with `train`, which is drawn from {' and '.join(self._train)}",
                hint='leave `env.train` as it is (["train"]), or evaluate on another split',
            )
        found = list(part_of(name, part))
        return found[: self._preset.held_out] if split in HELD_OUT else found
