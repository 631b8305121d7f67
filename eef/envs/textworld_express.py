"""TextWorldExpress: eight small text games in a fast Java simulator. ScienceWorld's quick sibling, made the same way.

Deterministic as it comes. Game, fold and seed make a task: seeds 0 … 999 are `train`, 10000 … `dev`, 20000 … `test`.
Episodes in one JVM share nothing, but for the game `sorting`, where the things of a problem are the same objects in all
episodes: an episode that another one has come between is played again up to where it stood.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from eef.config import unknown_name
from eef.env import StepResult
from eef.envs.simulators.env import PooledEnv, PoolSettings
from eef.envs.simulators.gold_paths import make_gold_expert
from eef.envs.simulators.jvm import Jvm, JvmSettings, find_jar, find_java
from eef.envs.simulators.worker import OVER
from eef.envs.spec import EnvSpec, group_in_id
from eef.errors import ConfigError, EnvError
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
"""Seeds of each split, for every game."""

SHARING = "sorting"
PROMPT = """\
You play a text game. Each turn you see what came of your last action and answer with one action, such as \
`look around`, `move north`, `open door to east`, `open fridge`, `take coin`, `put coin in box`, `read cookbook`.

Answer in two lines:
Thought: your reasoning in a sentence or two
Action: the action"""


class Start(NamedTuple):
    """What an episode begins with; `parameters` as the simulator takes them (`numLocations=3,includeDoors=0`)."""

    game: str
    parameters: str
    fold: str
    seed: int


@dataclass(slots=True)
class Game:
    """One episode: the simulator's own object for it, what was played, and its last score."""

    interface: Any
    start: Start
    played: list[str] = field(default_factory=list)
    score: float = 0.0
    over: bool = False


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens the simulator in a worker."""

    jvm: JvmSettings

    def __call__(self) -> TextWorldSimulator:
        return TextWorldSimulator(self.jvm)


class TextWorldSimulator:
    """Follows `eef.envs.simulators.worker.Simulator`."""

    def __init__(self, settings: JvmSettings) -> None:
        self._jvm = Jvm(settings)
        self._games: dict[int, Game] = {}
        self._sorting: Game | None = None

    def begin(self, seat: int, start: Start) -> str:
        with self._jvm.asked():
            game = self._games[seat] = Game(self._load(start), start)
            first = self._generate(game)
            return f"{str(game.interface.getTaskDescription()).strip()}\n\n{first.strip()}"

    def act(self, seat: int, action: str) -> StepResult:
        game = self._games[seat]
        if game.over:
            return StepResult(OVER, 0.0, True)
        with self._jvm.asked():
            if game.start.game == SHARING and game is not self._sorting:
                self._generate(game)
                for before in game.played:
                    game.interface.stepJSON(before)
            seen = json.loads(game.interface.stepJSON(action))
        game.played.append(action)
        score = round(float(seen["score"]), 6)
        game.over = bool(seen["tasksuccess"] or seen["taskfailure"] or score >= 1.0)
        gained, game.score = round(score - game.score, 6), score
        return StepResult(seen["observation"].strip(), gained, game.over)

    def leave(self, seat: int) -> None:
        self._games.pop(seat, None)

    def gold(self, start: Start) -> list[str]:
        with self._jvm.asked():
            game = Game(self._load(start), start)
            self._generate(game, gold=True)
            return [str(action) for action in game.interface.getGoldActionSequence()]

    def is_alive(self) -> bool:
        return self._jvm.is_alive()

    def close(self) -> None:
        self._jvm.end()

    def _generate(self, game: Game, *, gold: bool = False) -> str:
        """Bring a game to its start; returns what is seen there."""
        if game.start.game == SHARING:
            self._sorting = game
        answer = json.loads(
            game.interface.generateNewGameJSON(game.start.seed, game.start.fold, gold)
        )
        return str(answer["observation"])

    def _load(self, start: Start) -> Any:
        interface = self._jvm.view.textworldexpress.runtime.PythonInterface()
        refused = str(interface.load(start.game, start.parameters))
        if refused:
            raise EnvError(f"TextWorldExpress cannot load {start}: {refused}")
        return interface


class TextWorldExpress(PooledEnv):
    """Small text games: cooking, tidying, finding a coin, reading a map, arithmetic, sorting, following orders.

    games            "all", a game, or a list of games
    parameters       of the games, as the simulator takes them ("numLocations=3,includeDoors=0")
    tasks_per_split  seeds of each game in a split, 1000 at most
    step_limit       default limit of a rollout's steps
    prompt           "react" (the rules and the answer's form in words) or "none"
    workers          processes in which episodes are played, each with a JVM of its own
    memory           heap of a JVM in MB at most
    patience         seconds until an action counts as hung

    Splits: `train`, `dev`, `test`. A reward is what an action adds to the game's score; the final reward is that score.
    """

    name = "textworld-express"
    edition = f"{name}-{VERSION}"

    def __init__(
        self,
        *,
        games: str | tuple[str, ...] = "all",
        parameters: str = "",
        tasks_per_split: int = SEEDS,
        step_limit: int = 50,
        prompt: Literal["react", "none"] = "react",
        workers: int = 1,
        memory: int = 256,
        patience: float = 60.0,
    ) -> None:
        if not 1 <= tasks_per_split <= SEEDS:
            raise ConfigError(f"`env.tasks_per_split` is {tasks_per_split}, expected 1 to {SEEDS}")
        self._games = _choose(games)
        self._parameters, self._seeds = parameters, tasks_per_split
        self._prompt_name = prompt
        self.prompt = PROMPT if prompt == "react" else ""
        self.step_limit = step_limit
        settings = PoolSettings(workers, memory, patience)
        jar = find_jar(PACKAGE, VERSION, JAR)
        super().__init__(Opener(JvmSettings(find_java(), jar, memory, patience)), settings)

    def tasks(self, split: str) -> TaskSet:
        """The tasks of a split, one of each game in turn. Raises EnvError for an unknown split."""
        if split not in FOLDS:
            raise unknown_name("split", split, FOLDS, error=EnvError)
        seeds = range(FOLDS[split], FOLDS[split] + self._seeds)
        return TaskSet.of([_task(game, seed, split) for seed in seeds for game in self._games])

    def start_of(self, task: Task) -> Start:
        if task.env != self.name:
            raise EnvError(f"{task.id} is no task of TextWorldExpress")
        game, seed = divmod(task.index, _STRIDE)
        return Start(GAMES[game], self._parameters, _fold(seed), seed)

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


def _choose(games: str | Sequence[str]) -> tuple[str, ...]:
    """The games a setting names. ConfigError for one there is not."""
    if games == "all":
        return GAMES
    names = (games,) if isinstance(games, str) else tuple(games)
    for name in names:
        if name not in GAMES:
            raise unknown_name("game", name, GAMES)
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"`env.games` is {list(names)}, expected one or more, each once")
    return names


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


SPEC = EnvSpec(make=TextWorldExpress, make_expert=make_gold_expert, group_of=group_in_id)
