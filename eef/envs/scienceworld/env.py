"""The ScienceWorld environment: tasks, splits, observations, rewards.

Episodes are played in workers (`eef.envs.simulators.pool`), each with its own JVM.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eef.config import unknown_name
from eef.envs.scienceworld.prompt import REACT_PROMPT
from eef.envs.scienceworld.settings import ScienceWorldSettings
from eef.envs.scienceworld.simulator import EpisodeSpec, ScienceWorldFactory
from eef.envs.scienceworld.tasks import (
    ETO_LIMITS,
    HELD_OUT,
    Part,
    Simplifications,
    choose_tasks,
    from_index,
    index_of,
    interleave,
    part_of,
)
from eef.envs.scienceworld.thoughts import think
from eef.envs.simulators.env import PooledEnv
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

    A reward is what an action adds to the simulator's score. The final reward is that score, or 0
    for a failure (a wrong `focus on`, which ends the episode). `reset task` is refused.
    """

    name = "scienceworld"

    def __init__(self, settings: ScienceWorldSettings | None = None) -> None:
        settings = settings or ScienceWorldSettings()
        self._preset, self._names = choose_tasks(settings.tasks)
        given = settings.simplifications
        self._simplifications = Simplifications.of(
            self._preset.simplifications if given is None else given, self._names
        )
        self._limits = settings.limits or self._preset.limits
        self._train = settings.train
        self._prompt_name = settings.prompt
        self._flags = CONSTANT_HASH if settings.deterministic else ()
        self.prompt = REACT_PROMPT if settings.prompt == "react" else ""
        if len(set(self._train)) != len(self._train):
            raise ConfigError(
                f"`env.train` is {list(self._train)}; expected official parts, each once"
            )
        longest = max(ETO_LIMITS.values()) if self._limits == "eto" else 100
        self.step_limit = longest if settings.step_limit is None else settings.step_limit
        self.success_threshold = settings.success_threshold
        edition = f"{PACKAGE}-{VERSION}"
        self.edition = edition if settings.deterministic else f"{edition}-free"
        jvm = JvmSettings(
            find_java(),
            find_jar(PACKAGE, VERSION, JAR),
            settings.memory,
            settings.timeout,
            (*self._flags, *_OPEN_RANDOM),
        )
        super().__init__(ScienceWorldFactory(jvm, settings.deterministic), settings)

    def think(self, first_observation: str, action: str) -> str:
        return think(first_observation, action)

    def tasks(self, split: str) -> TaskSet:
        """The tasks of a split: one variation of each task, then the next of each, and so on.

        Raises EnvError for an unknown split, and for one that overlaps with `train`.
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
        """One variation of a task. Raises ConfigError if it does not exist."""
        return Task(
            id=f"{self.name}/{name}/{variation}",
            env=self.name,
            index=index_of(name, variation),
            split=split,
            instruction=f"{name.replace('-', ' ')}, variation {variation}",
            step_limit=ETO_LIMITS.get(name) if self._limits == "eto" else None,
        )

    def episode_spec(self, task: Task) -> EpisodeSpec:
        if task.env != self.name:
            raise EnvError(f"{task.id} is not a ScienceWorld task")
        name, variation = from_index(task.index)
        return EpisodeSpec(name, variation, self._simplifications.for_task(name))

    def can_branch_at(self, steps: Sequence[Step], t: int) -> bool:
        """All states except those in which the simulator awaits a clarification.

        The simulator answers an ambiguous action with a question that expects a number, and only
        the author of the action can tell which object was meant. Some actions leave the question
        open.
        """
        waiting = False
        for index in range(t + 1):
            before = steps[index - 1].action.lower() if index else ""
            observation = steps[index].observation if index < len(steps) else ""
            waiting = observation.startswith(_QUESTION) or (waiting and before in _NO_ANSWERS)
        return not waiting

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
            known = ("train", "dev", "test", *HELD_OUT, "held-out")
            raise unknown_name("split", split, known, error=EnvError)
        part: Part = HELD_OUT.get(split) or ("dev" if split == "dev" else "test")
        if part in self._train:
            raise EnvError(
                f"split {split!r} overlaps with `train`, "
                f"which is drawn from {' and '.join(self._train)}",
                hint='set `env.train` to ["train"], or evaluate on another split',
            )
        found = list(part_of(name, part))
        return found[: self._preset.held_out] if split in HELD_OUT else found
