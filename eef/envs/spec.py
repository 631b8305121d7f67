"""EnvSpec: how an environment is created, and what reports need to know about it.

Reports are written on machines where the environment itself cannot be created (no Java, no data),
so everything but `make`, `make_expert` and `prepare` works without one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eef.config import Settings, unknown_name
from eef.env import Env
from eef.errors import ConfigError
from eef.policy import Policy
from eef.utils.progress import OnProgress


@dataclass(frozen=True, slots=True)
class Behavior:
    """A class of actions that reports count, such as "turn the page".

    An action belongs to it if `pattern` matches the whole action in lower case. Whatever the
    pattern's groups match must also occur in the observation: otherwise the action had no effect
    and does not count. The first `free` actions of an episode do not count either (every WebShop
    episode starts with a search).
    """

    name: str
    pattern: str
    free: int = 0


def split_lines(observation: str) -> list[str]:
    """The lines of an observation that are not empty."""
    return [line.strip() for line in observation.splitlines() if line.strip()]


def first_line(observation: str) -> str:
    """The first line of an observation that is not empty, or an empty string."""
    return next(iter(split_lines(observation)), "")


def group_in_id(task: str) -> str:
    """The group in a task id of the form `environment/group/number`.

    >>> group_in_id("scienceworld/boil/3")
    'boil'
    """
    return task.split("/")[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvSpec:
    """One environment: how it is created, its scripted expert, and what its reports need.

    settings           its settings class
    make               creates the environment from its settings
    make_expert        creates the scripted expert `scripted/<preset>`; None if there is none
    make_role          creates the scripted model `scripted/<preset>` of a role, or None
    prepare            does the slow work that is needed once before `make`; None if there is none
    behaviors          behaviors that reports count
    behaviors_note     sentence that explains how they are counted
    group_of           task id → task group; None if tasks have no groups
    held_out_part      task id → held-out part, "" if the task belongs to none
    describe           fingerprint → the details without which no score can be read
    split_observation  observation → the parts that reports compare with the previous observation
    find_instruction   first observation of an episode → the task in words
    """

    settings: type[Settings]
    make: Callable[[Any], Env]
    make_expert: Callable[[Any, str], Policy] | None = None
    make_role: Callable[[Any, str, str], Policy] | None = None
    prepare: Callable[[Any, OnProgress], None] | None = None
    behaviors: tuple[Behavior, ...] = ()
    behaviors_note: str = ""
    group_of: Callable[[str], str] | None = None
    held_out_part: Callable[[str], str] = lambda task: ""
    describe: Callable[[Mapping[str, Any]], str] = lambda fingerprint: ""
    split_observation: Callable[[str], Sequence[str]] = split_lines
    find_instruction: Callable[[str], str] = first_line

    def new_part(self, observation: str, before: str) -> str:
        """The parts of an observation that the one before did not have."""
        known = set(self.split_observation(before))
        return " · ".join(part for part in self.split_observation(observation) if part not in known)


def chosen_names(
    given: str | Sequence[str],
    known: Iterable[str],
    thing: str,
    setting: str,
    *,
    also: Iterable[str] = (),
) -> tuple[str, ...]:
    """The names that a setting of an environment chooses: one, several, or "all".

    `also` are other values of the setting, which an error suggests. ConfigError for an unknown
    name, a repeated one, or none.

    >>> chosen_names("all", ["mapreader", "cookingworld"], "game", "games")
    ('mapreader', 'cookingworld')
    """
    known = tuple(known)
    if given == "all":
        return known
    names = (given,) if isinstance(given, str) else tuple(given)
    for name in names:
        if name not in known:
            raise unknown_name(thing, name, [*known, *also])
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"`env.{setting}` is {list(names)}; expected {setting}, each once")
    return names
