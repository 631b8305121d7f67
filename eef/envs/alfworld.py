"""ALFWorld's household tasks, in its text engine (extra `alfworld`).

The games are the user's: `alfworld-download` fetches them, and `data` is the directory that holds
`json_2.1.1`. The engine is deterministic: a game and its commands give the same episode.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field

from eef.config import Settings, unknown_name
from eef.env import AFTER_END, BaseEnv, StepResult
from eef.envs.foreign import react_rules
from eef.envs.spec import EnvSpec, group_in_id
from eef.errors import ConfigError, EnvError
from eef.task import Task, TaskSet
from eef.utils.extras import missing_package

TYPES = (
    "pick_and_place_simple",
    "look_at_obj_in_light",
    "pick_clean_then_place_in_recep",
    "pick_heat_then_place_in_recep",
    "pick_cool_then_place_in_recep",
    "pick_two_obj_and_place",
)
_GAME = "game.tw-pddl"


class AlfWorldSettings(Settings):
    """Settings of `alfworld`."""

    data: str
    """Directory with ALFWorld's games (`json_2.1.1`, or the directory that holds it)."""

    test_games: Literal["valid_seen", "valid_unseen"] = "valid_unseen"
    """Games of the split `test`; those of `train` are the split `train`."""

    task_types: tuple[str, ...] = Field(default=TYPES, strict=False)
    """Types of the tasks that are played."""

    show_commands: bool = False
    """Show the commands that are possible now after each observation."""

    step_limit: int = Field(default=50, ge=1)
    """Default step limit of a rollout."""


class AlfWorld(BaseEnv):
    """One game at a time. ConfigError if the package or the games are missing."""

    name = "alfworld"

    def __init__(self, settings: AlfWorldSettings) -> None:
        try:
            import alfworld.agents.environment.alfred_tw_env  # noqa: F401
        except ImportError as error:
            raise missing_package("alfworld", "the environment `alfworld`") from error
        self._settings = settings
        self.step_limit = settings.step_limit
        self.prompt = react_rules(
            "`go to <place>`, `open <place>`, `close <place>`, `take <thing> from <place>`, "
            "`move <thing> to <place>`, `clean <thing> with <place>`, `heat <thing> with <place>`, "
            "`cool <thing> with <place>`, `use <thing>`, `examine <thing>`, `inventory`, `look`"
        )
        for each in settings.task_types:
            if each not in TYPES:
                raise unknown_name("task type", each, TYPES)
        root = Path(settings.data).expanduser()
        root = root / "json_2.1.1" if (root / "json_2.1.1").is_dir() else root
        self._root = root
        self._games = {
            "train": _games(root / "train", settings.task_types),
            "test": _games(root / settings.test_games, settings.task_types),
        }
        if not any(self._games.values()):
            raise ConfigError(
                f"environment 'alfworld': no game in `{root}` (`train/*/*/{_GAME}`)",
                hint="run `alfworld-download`, and set `env.data` to its directory",
            )
        self._game: Any = None
        self._over = True

    def tasks(self, split: str) -> TaskSet:
        if split not in self._games:
            raise unknown_name("split", split, self._games, error=EnvError)
        first = 0 if split == "test" else len(self._games["test"])
        return TaskSet.of(
            [
                Task(
                    id=f"alfworld/{_kind(path)}/{index}",
                    env=self.name,
                    index=index,
                    split=split,
                    instruction=_goal(path),
                )
                for index, path in enumerate(self._games[split], start=first)
            ]
        )

    def reset(self, task: Task) -> str:
        import textworld
        from alfworld.agents.environment.alfred_tw_env import AlfredDemangler

        self.close()
        first = 0 if task.split == "test" else len(self._games["test"])
        games = self._games.get(task.split, [])
        if not 0 <= task.index - first < len(games):
            raise EnvError(f"alfworld has no task {task.id}")
        infos = textworld.EnvInfos(won=True, admissible_commands=True)
        path = games[task.index - first]
        self._game = textworld.start(str(path), infos, wrappers=[AlfredDemangler()])
        state = self._game.reset()
        self._over = False
        return self._shown(state)

    def step(self, action: str) -> StepResult:
        if self._over:
            return AFTER_END
        line = " ".join(action.split())
        if not line:
            return StepResult("Nothing happens.", 0.0, False)
        state, _, _ = self._game.step(line)
        self._over = bool(state["won"])
        return StepResult(self._shown(state), float(self._over), self._over)

    def clone(self) -> Self:
        other = super().clone()
        other._game, other._over = None, True
        return other

    def fingerprint(self) -> dict[str, Any]:
        from importlib.metadata import version

        return {
            "env": self.name,
            **self._settings.model_dump(mode="json", exclude={"data"}),
            "games": {split: len(games) for split, games in self._games.items()},
            "alfworld": version("alfworld"),
            "prompt": self.prompt,
        }

    def close(self) -> None:
        if self._game is not None:
            self._game.close()
            self._game = None

    def _shown(self, state: Any) -> str:
        text = "\n".join(line for line in str(state["feedback"]).splitlines() if line.strip())
        if text.startswith("-= Welcome"):
            text = text.partition("\n")[2]
        if self._settings.show_commands:
            text += f"\nPossible commands: {', '.join(sorted(state['admissible_commands']))}"
        return text


def _games(directory: Path, kinds: Sequence[str]) -> list[Path]:
    """The games of a directory that can be solved, in a fixed order."""
    found = []
    for path in sorted(directory.rglob(_GAME)):
        name = str(path.relative_to(directory))
        known = "movable" not in name and "Sliced" not in name
        if known and _kind(path) in kinds and _read(path).get("solvable"):
            found.append(path)
    return found


def _kind(path: Path) -> str:
    """The kind of a game's task, which its directory's name starts with."""
    return path.parent.parent.name.partition("-")[0]


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ConfigError(f"environment 'alfworld': `{path}` cannot be read: {error}") from None


def _goal(path: Path) -> str:
    """The goal in words, as the first observation states it."""
    _, found, goal = str(_read(path).get("grammar", "")).partition("Your task is to: ")
    return goal.split("\n")[0].split('"')[0].strip(" .;") if found else _kind(path)


SPEC = EnvSpec(
    settings=AlfWorldSettings,
    make=AlfWorld,
    group_of=group_in_id,
    describe=lambda fingerprint: f"ALFWorld, {fingerprint['test_games']}",
)
