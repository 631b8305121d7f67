"""World: each task is a chain of decisions, and each decision needs one skill.

A task has `length` decisions, in order. Most need a *common* skill, which the student mostly has.
In a share of the tasks, some need a *rare* one: the student hardly ever shows it by itself, and the
expert does. Four actions are possible at a decision:

    right     the next decision follows
    harmless  nothing changes; a step is lost
    costly    the agent is on a detour, from which only `right` returns to the decision
    fatal     the next decision follows, but the episode can no longer be won

The episode ends after the last decision and is won if there was no fatal action. At the step
limit, `length + slack`, it is lost. `right` has several `styles` without an effect: distinct ways
to do the same, as a model has different thoughts and clicks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eef.trajectory import Step

RIGHT, HARMLESS, COSTLY, FATAL = range(4)
ACTIONS = ("right", "harmless", "costly", "fatal")
DETOUR = -1
"""Position in `Step.observation` of a step taken on a detour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One setting of the laboratory. Chances are per decision.

    `needs` is the share of tasks with `rare_per_task` rare decisions; there are `rare_skills` kinds
    of these, so a kind is shared by about `tasks · needs · rare_per_task / rare_skills` tasks.
    `rare` and `common` are the student's chances to act right before any training, and `undo` its
    chance to leave a detour. `spread` is the deviation, in log-odds, of a single decision's
    difficulty. `errors` are the shares of harmless, costly and fatal actions among the student's
    errors.

    The expert errs with chance `expert_rare` at a rare decision, and at a common one with chance
    `expert_before` until it has shown a rare skill, with chance `expert_after` from then on.
    `expert_errors` are the shares of its errors, `expert_undo` is its chance to leave a detour.

    A round trains with `updates` steps of Adam at `rate`, on batches of `batch_size` examples.
    `rollouts` are played per task and round, and `label_flips` is the chance that an outcome is
    recorded wrong.
    """

    tasks: int = 40
    length: int = 6
    slack: int = 6
    styles: int = 3
    needs: float = 0.6
    rare_per_task: int = 1
    rare_skills: int = 3
    common_skills: int = 4
    rare: float = 0.02
    common: float = 0.85
    undo: float = 0.3
    spread: float = 1.0
    errors: tuple[float, float, float] = (0.4, 0.3, 0.3)
    expert_before: float = 0.06
    expert_rare: float = 0.1
    expert_after: float = 0.25
    expert_errors: tuple[float, float, float] = (0.1, 0.2, 0.7)
    expert_undo: float = 0.7
    rounds: int = 3
    rollouts: int = 6
    updates: int = 26
    batch_size: int = 16
    rate: float = 0.1
    label_flips: float = 0.0

    @property
    def step_limit(self) -> int:
        return self.length + self.slack

    @property
    def contexts(self) -> int:
        """Number of kinds of decisions: common skills, rare skills, and the detour."""
        return self.common_skills + self.rare_skills + 1


class Place(NamedTuple):
    """Where an episode stands: the next decision, and whether it is on a detour or lost."""

    decision: int = 0
    detour: bool = False
    doomed: bool = False


def advance(place: Place, action: int) -> Place:
    """The place after an action.

    >>> advance(Place(2), RIGHT), advance(Place(2), COSTLY)
    (Place(decision=3, detour=False, doomed=False), Place(decision=2, detour=True, doomed=False))
    """
    decision, detour, doomed = place
    if action == RIGHT:
        return Place(decision, False, doomed) if detour else Place(decision + 1, False, doomed)
    if action == COSTLY:
        return Place(decision, True, doomed)
    return Place(decision + 1, False, True) if action == FATAL else place


@cache
def step_of(position: int, action: int, style: int) -> Step:
    """The recorded step of an action at a decision, or on a detour (`DETOUR`)."""
    name = f"{ACTIONS[action]} {style}" if action == RIGHT else ACTIONS[action]
    return Step(observation=str(position), completion=f"Action: {name}", action=name)


def action_of(step: Step) -> int:
    return ACTIONS.index(step.action.partition(" ")[0])


Tables = Sequence[Sequence[Sequence[float]]]
"""By task and decision (the detour last): cumulative chances of the actions."""


def play(
    chances: Callable[[int, bool], Sequence[float]],
    start: Place,
    steps_left: int,
    length: int,
    styles: int,
    generator: random.Random,
    *,
    rare: Callable[[int], bool] = lambda decision: False,
) -> tuple[list[Step], bool, bool]:
    """An episode from a place: (steps, won, ended by itself).

    `chances(decision, shown)` are the cumulative chances of the actions at a decision, or on a
    detour (`DETOUR`); `shown` is whether a decision that is `rare` has been acted on right.
    """
    decision, detour, doomed = start
    steps: list[Step] = []
    shown, draw = False, generator.random
    while steps_left > 0:
        at = DETOUR if detour else decision
        row, value = chances(at, shown), draw()
        action = RIGHT if value < row[0] else 1 if value < row[1] else 2 if value < row[2] else 3
        style = int(draw() * styles) if action == RIGHT and not detour else 0
        steps.append(step_of(at, action, style))
        steps_left -= 1
        shown = shown or (action == RIGHT and not detour and rare(decision))
        decision, detour, doomed = advance(Place(decision, detour, doomed), action)
        if decision == length:
            return steps, not doomed, True
    return steps, False, False


@dataclass(frozen=True, slots=True)
class World:
    """The tasks of a setting with one seed.

    `contexts[task, i]` is the kind of decision i, common skills first; `offsets[task, i]` is its
    difficulty, added to the log-odds of acting right. `test_contexts` and `test_offsets` are those
    of the test tasks, which need the same skills.
    """

    setting: Setting
    seed: int
    contexts: NDArray[np.intp]
    offsets: NDArray[np.float64]
    test_contexts: NDArray[np.intp]
    test_offsets: NDArray[np.float64]

    @classmethod
    def make(cls, setting: Setting, seed: int, test_tasks: int = 200) -> World:
        """The same world for equal arguments."""
        generator = np.random.default_rng([seed, 1])
        train = _draw_tasks(setting, setting.tasks, generator)
        test = _draw_tasks(setting, test_tasks, generator)
        return cls(setting, seed, *train, *test)

    def is_rare(self, task: int, decision: int) -> bool:
        return bool(self.contexts[task, decision] >= self.setting.common_skills)

    def rare_decisions(self, task: int) -> list[int]:
        return [i for i in range(self.setting.length) if self.is_rare(task, i)]

    def expert_episode(self, task: int) -> tuple[list[Step], bool, bool]:
        """The expert's episode of a task: (steps, won, ended by itself)."""
        setting = self.setting
        rows = {
            name: _cumulative(1 - error, setting.expert_errors)
            for name, error in (
                ("rare", setting.expert_rare),
                ("before", setting.expert_before),
                ("after", setting.expert_after),
                ("detour", 1 - setting.expert_undo),
            )
        }
        rare = {i: self.is_rare(task, i) for i in range(setting.length)}

        def chances(decision: int, shown: bool) -> Sequence[float]:
            if decision == DETOUR:
                return rows["detour"]
            return rows["rare" if rare[decision] else "after" if shown else "before"]

        generator = random.Random(f"expert {self.seed} {task}")
        return play(
            chances,
            Place(),
            setting.step_limit,
            setting.length,
            setting.styles,
            generator,
            rare=rare.__getitem__,
        )


def _draw_tasks(
    setting: Setting, count: int, generator: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Contexts and offsets of `count` tasks; rare kinds are spread evenly over the needy tasks."""
    contexts = generator.integers(0, setting.common_skills, (count, setting.length))
    needy = generator.permutation(count)[: round(setting.needs * count)]
    kinds = generator.permutation(len(needy) * setting.rare_per_task) % setting.rare_skills
    for index, task in enumerate(needy):
        # never the last decision: what an expert does after the rare step has to matter
        places = generator.permutation(max(1, setting.length - 1))[: setting.rare_per_task]
        own = kinds[index * setting.rare_per_task :][: len(places)]
        contexts[task, places] = setting.common_skills + own
    return contexts, generator.normal(0, setting.spread, (count, setting.length))


def _cumulative(right: float, errors: tuple[float, float, float]) -> list[float]:
    """Cumulative chances of the four actions."""
    return np.cumsum([right, *((1 - right) * share for share in errors)]).tolist()
