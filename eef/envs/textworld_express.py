"""TextWorldExpress: eight small text games in a fast, deterministic Java simulator.

A task is a game with a seed: seeds 0 … 999 are `train`, 10000 … `dev`, 20000 … `test`. Episodes in
one JVM share nothing, except in the game `sorting`, where all episodes use the same objects for the
things of a problem. When another episode of it was played in between, an episode is replayed before
it continues.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pydantic import Field

from eef.config import ListOf, unknown_name
from eef.env import AFTER_END, StepResult
from eef.envs.simulators.env import PooledEnv
from eef.envs.simulators.gold_paths import make_gold_expert
from eef.envs.simulators.jvm import Jvm, JvmSettings, find_jar, find_java
from eef.envs.simulators.settings import PoolSettings
from eef.envs.spec import EnvSpec, chosen_names, group_in_id
from eef.errors import EnvError
from eef.task import Task, TaskSet

ENGINE_VERSION = 1
PACKAGE, VERSION, JAR = "textworld-express", "1.1.0", "textworld_express/textworld-express.jar"
GAMES = (
    "cookingworld",
    "twc",
    "coin",
    "mapreader",
    "arithmetic",
    "sorting",
    "simonsays",
    "peckingorder",
)
FOLDS = {"train": 0, "dev": 10_000, "test": 20_000}
"""First seed of each split."""

SEEDS = 1_000
"""Seeds per game in each split."""

SHARING = "sorting"
PROMPT = """\
You play a text game. Each turn you see what came of your last action and answer with one \
action, such as `look around`, `move north`, `open door to east`, `open fridge`, `take coin`, \
`put coin in box`, `read cookbook`.

Answer in two lines:
Thought: your reasoning in a sentence or two
Action: the action"""


class EpisodeSpec(NamedTuple):
    """The start of an episode; `parameters` is in the simulator's form."""

    game: str
    parameters: str
    fold: str
    seed: int


@dataclass(slots=True)
class Game:
    """One episode: the simulator's object, the actions played, and the last score."""

    interface: Any
    spec: EpisodeSpec
    played: list[str] = field(default_factory=list)
    score: float = 0.0
    over: bool = False


@dataclass(frozen=True, slots=True)
class TextWorldFactory:
    """Creates the simulator in a worker."""

    jvm: JvmSettings

    def __call__(self) -> TextWorldSimulator:
        return TextWorldSimulator(self.jvm)


class TextWorldSimulator:
    """Implements `eef.envs.simulators.worker.Simulator`."""

    def __init__(self, settings: JvmSettings) -> None:
        self._jvm = Jvm(settings)
        self._games: dict[int, Game] = {}
        self._sorting: Game | None = None

    def reset(self, slot: int, spec: EpisodeSpec) -> str:
        with self._jvm.translate_errors():
            game = self._games[slot] = Game(self._load(spec), spec)
            first = self._generate(game)
            return f"{str(game.interface.getTaskDescription()).strip()}\n\n{first.strip()}"

    def step(self, slot: int, action: str) -> StepResult:
        game = self._games[slot]
        if game.over:
            return AFTER_END
        with self._jvm.translate_errors():
            if game.spec.game == SHARING and game is not self._sorting:
                self._generate(game)
                for earlier in game.played:
                    game.interface.stepJSON(earlier)
            seen = json.loads(game.interface.stepJSON(action))
        game.played.append(action)
        score = round(float(seen["score"]), 6)
        game.over = bool(seen["tasksuccess"] or seen["taskfailure"] or score >= 1.0)
        gained, game.score = round(score - game.score, 6), score
        return StepResult(seen["observation"].strip(), gained, game.over)

    def release(self, slot: int) -> None:
        self._games.pop(slot, None)

    def gold_actions(self, spec: EpisodeSpec) -> list[str]:
        with self._jvm.translate_errors():
            game = Game(self._load(spec), spec)
            self._generate(game, gold=True)
            return [str(action) for action in game.interface.getGoldActionSequence()]

    def is_alive(self) -> bool:
        return self._jvm.is_alive()

    def close(self) -> None:
        self._jvm.end()

    def _generate(self, game: Game, *, gold: bool = False) -> str:
        """Bring a game to its start and return the observation there."""
        if game.spec.game == SHARING:
            self._sorting = game
        answer = json.loads(
            game.interface.generateNewGameJSON(game.spec.seed, game.spec.fold, gold)
        )
        return str(answer["observation"])

    def _load(self, spec: EpisodeSpec) -> Any:
        interface = self._jvm.view.textworldexpress.runtime.PythonInterface()
        refused = str(interface.load(spec.game, spec.parameters))
        if refused:
            raise EnvError(f"TextWorldExpress cannot load {spec}: {refused}")
        return interface


class TextWorldSettings(PoolSettings):
    """Which games are played, and how. Splits: `train`, `dev`, `test`."""

    games: str | ListOf[str] = "all"
    """`all`, one game, or a list of games."""

    parameters: str = ""
    """Parameters of the games in the simulator's form (`numLocations=3,includeDoors=0`)."""

    tasks_per_split: int = Field(default=SEEDS, ge=1, le=SEEDS)
    """Seeds per game in each split."""

    step_limit: int = Field(default=50, ge=1)
    """Default step limit of a rollout."""

    prompt: Literal["react", "none"] = "react"
    """`react`: the system message describes the rules and the form of an answer."""

    memory: int = Field(default=256, ge=64)
    """Maximum heap of each JVM, in MB."""

    timeout: float = Field(default=60.0, gt=0)
    """Seconds after which an action counts as hung."""


class TextWorldExpress(PooledEnv):
    """Small text games: cooking, tidying, finding a coin, reading a map, arithmetic, sorting, ….

    A reward is what an action adds to the game's score; the final reward is that score.
    """

    name = "textworld-express"
    edition = f"{name}-{VERSION}"

    def __init__(self, settings: TextWorldSettings | None = None) -> None:
        settings = settings or TextWorldSettings()
        self._games = chosen_names(settings.games, GAMES, "game", "games")
        self._parameters, self._seeds = settings.parameters, settings.tasks_per_split
        self._prompt_name = settings.prompt
        self.prompt = PROMPT if settings.prompt == "react" else ""
        self.step_limit = settings.step_limit
        jar = find_jar(PACKAGE, VERSION, JAR)
        jvm = JvmSettings(find_java(), jar, settings.memory, settings.timeout)
        super().__init__(TextWorldFactory(jvm), settings)

    def tasks(self, split: str) -> TaskSet:
        """The tasks of a split, one game after the other for each seed.

        Raises EnvError for an unknown split.
        """
        if split not in FOLDS:
            raise unknown_name("split", split, FOLDS, error=EnvError)
        seeds = range(FOLDS[split], FOLDS[split] + self._seeds)
        return TaskSet.of([_task(game, seed, split) for seed in seeds for game in self._games])

    def episode_spec(self, task: Task) -> EpisodeSpec:
        if task.env != self.name:
            raise EnvError(f"{task.id} is not a TextWorldExpress task")
        game, seed = divmod(task.index, _STRIDE)
        return EpisodeSpec(GAMES[game], self._parameters, _fold(seed), seed)

    def fingerprint(self) -> dict[str, Any]:
        return {
            "env": self.name,
            "engine": ENGINE_VERSION,
            "package": VERSION,
            "games": list(self._games),
            "parameters": self._parameters,
            "tasks_per_split": self._seeds,
            "prompt": self._prompt_name,
        }


_STRIDE = 100_000


def _task(game: str, seed: int, split: str) -> Task:
    return Task(
        id=f"textworld-express/{game}/{seed}",
        env="textworld-express",
        index=_STRIDE * GAMES.index(game) + seed,
        split=split,
        instruction=f"{game}, seed {seed}",
    )


def _fold(seed: int) -> str:
    """The split that a seed belongs to."""
    return next(name for name, first in reversed(FOLDS.items()) if seed >= first)


SPEC = EnvSpec(
    settings=TextWorldSettings,
    make=TextWorldExpress,
    make_expert=make_gold_expert,
    group_of=group_in_id,
)
