"""The simulator in its JVM, for many episodes at once. Runs in a worker process.

The package keeps part of an episode's state in objects that all episodes of a JVM share: the random
number generator that drives the world, and the next free id. When another episode continues, that
state is saved and the other episode's is restored. A test verifies that episodes which take turns
are the same as episodes played alone.

The protocol of an episode is fixed so that a replay gives the recorded observations: load, `look
around` (until then the score is the previous episode's), then the raw actions. The list of valid
actions is never requested, because generating it changes the world.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from eef.env import AFTER_END, StepResult
from eef.envs.simulators.jvm import CONSTANT_HASH, INSTALL_HOTSPOT, Jvm, JvmSettings
from eef.errors import ConfigError, EnvError

REFUSED = "The task cannot be reset. Go on from here."
_ARTICLES = ("a", "an", "the")  # which the simulator ignores
_SCRAMBLE = 0x5DEECE66D
"""`java.util.Random.setSeed` stores its argument xor this number (java.util.Random, "setSeed")."""


class EpisodeSpec(NamedTuple):
    """The start of an episode; `simplifications` is in the simulator's own form."""

    task: str
    variation: int
    simplifications: str


@dataclass(slots=True)
class Game:
    """One episode: the simulator's object, the last score, and its saved shared state."""

    interface: Any
    score: float = 0.0
    over: bool = False
    shared: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class ScienceWorldFactory:
    """Creates the simulator in a worker.

    With `deterministic`, a JVM whose sets do not keep their order is refused.
    """

    jvm: JvmSettings
    deterministic: bool

    def __call__(self) -> ScienceWorldSimulator:
        return ScienceWorldSimulator(self.jvm, self.deterministic)


class ScienceWorldSimulator:
    """Implements `eef.envs.simulators.worker.Simulator`."""

    def __init__(self, settings: JvmSettings, deterministic: bool) -> None:
        self._jvm = Jvm(settings)
        if deterministic and not self._jvm.has_constant_hash():
            self._jvm.end()
            raise ConfigError(
                f"`{settings.java}` ignores `{CONSTANT_HASH[-1]}`, so episodes would not repeat",
                hint=INSTALL_HOTSPOT,
            )
        self._games: dict[int, Game] = {}
        self._playing: Game | None = None
        with self._jvm.translate_errors():
            self._shared = _Shared(self._jvm.view)

    def reset(self, slot: int, spec: EpisodeSpec) -> str:
        with self._jvm.translate_errors():
            game = self._games.get(slot) or self._new_game()
            self._games[slot] = game
            seen = self._load(game, spec, gold=False)
            game.score, game.over = 0.0, False
            getattr(game.interface, "taskMaker_$eq")(None)  # 10 MB that only loading needs
            return f"{str(game.interface.getTaskDescription()).strip()}\n\n{seen}"

    def step(self, slot: int, action: str) -> StepResult:
        game = self._games[slot]
        if game.over:
            return AFTER_END
        if [word for word in action.lower().split() if word not in _ARTICLES] == ["reset", "task"]:
            return StepResult(REFUSED, 0.0, False)
        with self._jvm.translate_errors():
            self._enter(game)
            seen = str(game.interface.step(action)).strip()
            score, completed = (
                round(float(game.interface.getScore()), 6),
                bool(game.interface.getCompleted()),
            )
        game.over = completed or score < 0
        gained, game.score = round(score - game.score, 6), score
        return StepResult(seen, gained, game.over)

    def release(self, slot: int) -> None:
        game = self._games.pop(slot, None)
        if game is not None and game is self._playing:
            self._playing = None

    def gold_actions(self, spec: EpisodeSpec) -> list[str]:
        """The oracle agent's actions.

        They need an object of their own: once requested, an object generates them on every load.
        """
        with self._jvm.translate_errors():
            game = self._new_game()
            self._load(game, spec, gold=True)
            return [str(action) for action in game.interface.getGoldActionSequence()]

    def is_alive(self) -> bool:
        return self._jvm.is_alive()

    def close(self) -> None:
        self._jvm.end()

    def variations(self) -> dict[str, list[list[int]]]:
        """Training, development and test variations of each task according to the package."""
        with self._jvm.translate_errors():
            game = self._new_game()
            found = {}
            for name in list(game.interface.getTaskNames()):
                self._load(game, EpisodeSpec(str(name), 0, ""), gold=False)
                parts = (
                    game.interface.getVariationsTrain,
                    game.interface.getVariationsDev,
                    game.interface.getVariationsTest,
                )
                found[str(name)] = [[int(number) for number in part()] for part in parts]
            return found

    def _new_game(self) -> Game:
        self._enter(None)
        return Game(self._jvm.view.scienceworld.runtime.pythonapi.PythonInterface())

    def _load(self, game: Game, spec: EpisodeSpec, *, gold: bool) -> str:
        self._enter(game)
        game.interface.load(spec.task, spec.variation, spec.simplifications, gold)
        seen = str(game.interface.step("look around")).strip()
        if seen.startswith("ERROR"):
            raise EnvError(f"ScienceWorld cannot load {spec}: {seen}")
        return seen

    def _enter(self, game: Game | None) -> None:
        """Make `game` the current episode: save the shared state and restore that of `game`."""
        if game is self._playing:
            return
        if self._playing is not None:
            self._playing.shared = self._shared.read()
        if game is not None and game.shared is not None:
            self._shared.write(game.shared)
        self._playing = game


class _Shared:
    """The state that all episodes of a JVM share: random number generator and next free id."""

    def __init__(self, view: Any) -> None:
        self._random = _scala_object(view, "scala.util.Random$").self()
        self._ids = _scala_object(view, "util.UniqueIdentifier$")
        self._state = view.java.lang.Class.forName("java.util.Random").getDeclaredField("seed")
        self._state.setAccessible(True)

    def read(self) -> tuple[int, int]:
        return int(self._state.get(self._random)), int(self._ids.count())

    def write(self, values: tuple[int, int]) -> None:
        self._random.setSeed(values[0] ^ _SCRAMBLE)
        getattr(self._ids, "count_$eq")(values[1])


def _scala_object(view: Any, name: str) -> Any:
    """A Scala singleton by the name of its class."""
    return view.java.lang.Class.forName(name).getField("MODULE$").get(None)
