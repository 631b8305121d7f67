"""The simulator in its JVM, for many episodes at once. Lives in a worker process (`eef.envs.simulators.worker`).

The package keeps some of an episode's state in objects that all episodes of a JVM share: a random number generator,
which drives the world, and the next free id. Before another episode goes on these are put away, and its own are put
back; a test holds that episodes which take turns go as they go alone.

The protocol of an episode is fixed, for what is recorded must come back: load, `look around` (before it the score is
the previous episode's), then the raw actions. The list of valid actions is never asked for: making it changes the
world.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from eef.env import StepResult
from eef.envs.simulators.jvm import CONSTANT_HASH, INSTALL_HOTSPOT, Jvm, JvmSettings
from eef.envs.simulators.worker import OVER
from eef.errors import ConfigError, EnvError

REFUSED = "The task cannot be reset. Go on from here."
_ARTICLES = ("a", "an", "the")  # the simulator does not read them
_SCRAMBLE = 0x5DEECE66D
"""`java.util.Random.setSeed` keeps its argument xor this number (java.util.Random, "setSeed")."""


class Start(NamedTuple):
    """What an episode begins with; `simplifications` as the simulator is told."""

    task: str
    variation: int
    simplifications: str


@dataclass(slots=True)
class Game:
    """One episode: the simulator's own object for it, its last score, and the shared state that was put away for it."""

    interface: Any
    score: float = 0.0
    over: bool = False
    shared: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Opener:
    """Opens the simulator in a worker. `deterministic`: refuse a JVM whose sets do not keep their order."""

    jvm: JvmSettings
    deterministic: bool

    def __call__(self) -> ScienceWorldSimulator:
        return ScienceWorldSimulator(self.jvm, self.deterministic)


class ScienceWorldSimulator:
    """Follows `eef.envs.simulators.worker.Simulator`."""

    def __init__(self, settings: JvmSettings, deterministic: bool) -> None:
        self._jvm = Jvm(settings)
        if deterministic and not self._jvm.has_constant_hash():
            self._jvm.end()
            raise ConfigError(
                f"`{settings.java}` does not heed `{CONSTANT_HASH[-1]}`: ScienceWorld would never be the same twice",
                hint=INSTALL_HOTSPOT,
            )
        self._games: dict[int, Game] = {}
        self._playing: Game | None = None
        with self._jvm.asked():
            self._shared = _Shared(self._jvm.view)

    def begin(self, seat: int, start: Start) -> str:
        with self._jvm.asked():
            game = self._games.get(seat) or self._new_game()
            self._games[seat] = game
            seen = self._load(game, start, gold=False)
            game.score, game.over = 0.0, False
            getattr(game.interface, "taskMaker_$eq")(None)  # 10 MB, which only loading needs
            return f"{str(game.interface.getTaskDescription()).strip()}\n\n{seen}"

    def act(self, seat: int, action: str) -> StepResult:
        game = self._games[seat]
        if game.over:
            return StepResult(OVER, 0.0, True)
        if [word for word in action.lower().split() if word not in _ARTICLES] == ["reset", "task"]:
            return StepResult(REFUSED, 0.0, False)
        with self._jvm.asked():
            self._enter(game)
            seen = str(game.interface.step(action)).strip()
            score, completed = (
                round(float(game.interface.getScore()), 6),
                bool(game.interface.getCompleted()),
            )
        game.over = completed or score < 0
        gained, game.score = round(score - game.score, 6), score
        return StepResult(seen, gained, game.over)

    def leave(self, seat: int) -> None:
        game = self._games.pop(seat, None)
        if game is not None and game is self._playing:
            self._playing = None

    def gold(self, start: Start) -> list[str]:
        """The oracle agent's actions, in an object of their own: once asked for, an object makes them on each load."""
        with self._jvm.asked():
            game = self._new_game()
            self._load(game, start, gold=True)
            return [str(action) for action in game.interface.getGoldActionSequence()]

    def is_alive(self) -> bool:
        return self._jvm.is_alive()

    def close(self) -> None:
        self._jvm.end()

    def variations(self) -> dict[str, list[list[int]]]:
        """Train, development and test variations of each task, as the package has them."""
        with self._jvm.asked():
            game = self._new_game()
            found = {}
            for name in list(game.interface.getTaskNames()):
                self._load(game, Start(str(name), 0, ""), gold=False)
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

    def _load(self, game: Game, start: Start, *, gold: bool) -> str:
        self._enter(game)
        game.interface.load(start.task, start.variation, start.simplifications, gold)
        seen = str(game.interface.step("look around")).strip()
        if seen.startswith("ERROR"):
            raise EnvError(f"ScienceWorld cannot load {start}: {seen}")
        return seen

    def _enter(self, game: Game | None) -> None:
        """Make an episode the one that is played; its share of what all have in common comes with it."""
        if game is self._playing:
            return
        if self._playing is not None:
            self._playing.shared = self._shared.read()
        if game is not None and game.shared is not None:
            self._shared.write(game.shared)
        self._playing = game


class _Shared:
    """What all episodes of a JVM have in common: state of the random numbers, and the next free id."""

    def __init__(self, view: Any) -> None:
        self._random = _the_one(view, "scala.util.Random$").self()
        self._ids = _the_one(view, "util.UniqueIdentifier$")
        self._state = view.java.lang.Class.forName("java.util.Random").getDeclaredField("seed")
        self._state.setAccessible(True)

    def read(self) -> tuple[int, int]:
        return int(self._state.get(self._random)), int(self._ids.count())

    def write(self, values: tuple[int, int]) -> None:
        self._random.setSeed(values[0] ^ _SCRAMBLE)
        getattr(self._ids, "count_$eq")(values[1])


def _the_one(view: Any, name: str) -> Any:
    """A Scala object, of which there is one in a JVM."""
    return view.java.lang.Class.forName(name).getField("MODULE$").get(None)
