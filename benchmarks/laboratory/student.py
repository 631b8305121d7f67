"""Student: a softmax over four actions for each kind of decision, trained by weighted examples.

The log-odds of `right` differ from task to task by the decision's difficulty; what is learned is
shared by all decisions of a kind. The loss is that of `eef`: the weighted mean of the negative
log-likelihoods of the trained actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.laboratory.world import (
    COSTLY,
    DETOUR,
    HARMLESS,
    RIGHT,
    Place,
    Setting,
    World,
)

Array = NDArray[np.float64]


class Actions(NamedTuple):
    """Trained actions with their weights; `decision` is `DETOUR` on a detour."""

    task: NDArray[np.intp]
    decision: NDArray[np.intp]
    action: NDArray[np.intp]
    weight: Array

    @classmethod
    def join(cls, examples: Sequence[Actions], chosen: Sequence[int]) -> Actions:
        """The actions of several examples together."""
        return cls(
            *(np.concatenate(part) for part in zip(*(examples[i] for i in chosen), strict=True))
        )


@dataclass(frozen=True, slots=True)
class Student:
    """`logits[kind, action]`; the last kind is the detour."""

    world: World
    logits: Array

    @classmethod
    def untrained(cls, world: World) -> Student:
        """The base student: it has the common skills and hardly the rare ones."""
        setting = world.setting
        right = [setting.common] * setting.common_skills + [setting.rare] * setting.rare_skills
        return cls(world, np.log([_chances(chance, setting) for chance in [*right, setting.undo]]))

    def chances(self, contexts: NDArray[np.intp], offsets: Array) -> Array:
        """Chances of the actions, [task, decision, action]; the detour is the last decision."""
        return _softmax(self._shifted(contexts, offsets))

    def tables(self) -> list[list[list[float]]]:
        """Cumulative chances on the training tasks (see `eef`'s laboratory `play`)."""
        chances = self.chances(self.world.contexts, self.world.offsets)
        tables: list[list[list[float]]] = chances.cumsum(axis=2).tolist()
        return tables

    def win_rate(self) -> float:
        """Share of test tasks won greedily: those whose every decision is acted on right.

        A greedy student that errs at a decision errs there again, so it cannot win.
        """
        shifted = self._shifted(self.world.test_contexts, self.world.test_offsets)[:, :-1]
        return float((shifted.argmax(axis=2) == RIGHT).all(axis=1).mean())

    def solved(self) -> NDArray[np.bool_]:
        """Whether each test task is won greedily."""
        shifted = self._shifted(self.world.test_contexts, self.world.test_offsets)[:, :-1]
        return np.asarray((shifted.argmax(axis=2) == RIGHT).all(axis=1))

    def win_chances(self, task: int) -> list[list[tuple[float, float]]]:
        """[steps left][decision] → chance to win a task from there: (at it, on a detour from it).

        A doomed episode has chance 0. Steps left count from 0 to the step limit.
        """
        setting = self.world.setting
        rows = self.chances(self.world.contexts[[task]], self.world.offsets[[task]])[0].tolist()
        back = rows[-1]
        length = setting.length
        values = [[(0.0, 0.0)] * length + [(1.0, 1.0)]]
        for _ in range(setting.step_limit):
            last, now = values[-1], []
            for i in range(length):
                row, (here, away) = rows[i], last[i]
                now.append(
                    (
                        row[RIGHT] * last[i + 1][0] + row[HARMLESS] * here + row[COSTLY] * away,
                        back[RIGHT] * here + (back[HARMLESS] + back[COSTLY]) * away,
                    )
                )
            values.append([*now, (1.0, 1.0)])
        return values

    def train(self, examples: Sequence[Actions], seed: int) -> Student:
        """The student after a round's updates; batches are drawn from shuffled passes.

        The optimizer starts without memory in every round, as that of `eef.training` does.

        Source: Kingma and Ba, Adam, arXiv 1412.6980.
        """
        setting = self.world.setting
        batches = _batches(len(examples), setting.batch_size, setting.updates, seed)
        logits, mean, square = self.logits, np.zeros_like(self.logits), np.zeros_like(self.logits)
        for update, batch in enumerate(batches, 1):
            gradient = Student(self.world, logits).gradient(Actions.join(examples, batch))
            mean = 0.9 * mean + 0.1 * gradient
            square = 0.999 * square + 0.001 * gradient**2
            corrected = mean / (1 - 0.9**update)
            scale = np.sqrt(square / (1 - 0.999**update)) + 1e-8
            logits = logits - setting.rate * corrected / scale
        return Student(self.world, logits)

    def loss(self, actions: Actions) -> float:
        """Weighted mean negative log-likelihood of actions on the training tasks."""
        chances = self._chances_of(actions)[np.arange(len(actions.action)), actions.action]
        return float(-(actions.weight * np.log(chances)).sum() / actions.weight.sum())

    def gradient(self, actions: Actions) -> Array:
        """Gradient of `loss` by the logits."""
        errors = self._chances_of(actions)
        errors[np.arange(len(actions.action)), actions.action] -= 1
        errors *= (actions.weight / actions.weight.sum())[:, None]
        gradient = np.zeros_like(self.logits)
        np.add.at(gradient, self._kinds(actions), errors)
        return gradient

    def _kinds(self, actions: Actions) -> NDArray[np.intp]:
        """The kind of decision of each action; that of the detour is the last."""
        kinds = self.world.contexts[actions.task, actions.decision]
        return np.where(actions.decision == DETOUR, len(self.logits) - 1, kinds)

    def _chances_of(self, actions: Actions) -> Array:
        """Chances of all actions where each action was taken, [n, 4]."""
        logits = self.logits[self._kinds(actions)]
        offsets = self.world.offsets[actions.task, actions.decision]
        logits[:, RIGHT] += np.where(actions.decision == DETOUR, 0.0, offsets)
        return _softmax(logits)

    def _shifted(self, contexts: NDArray[np.intp], offsets: Array) -> Array:
        logits = np.empty((*contexts.shape[:1], contexts.shape[1] + 1, 4))
        logits[:, :-1] = self.logits[contexts]
        logits[:, :-1, RIGHT] += offsets
        logits[:, -1] = self.logits[-1]
        return logits


def chance_at(values: Sequence[Sequence[tuple[float, float]]], place: Place, left: int) -> float:
    """The chance to win from a place with so many steps left, by `Student.win_chances`."""
    return 0.0 if place.doomed else values[left][place.decision][place.detour]


def _batches(count: int, size: int, updates: int, seed: int) -> list[list[int]]:
    """The examples of each update, from shuffled passes over all of them."""
    if not count:
        return []
    generator = np.random.default_rng([seed, 2])
    passes = -(-updates * size // count)
    order = np.concatenate([generator.permutation(count) for _ in range(passes)]).tolist()
    return [order[first : first + size] for first in range(0, updates * size, size)]


def _chances(right: float, setting: Setting) -> list[float]:
    return [right, *((1 - right) * share for share in setting.errors)]


def _softmax(logits: Array) -> Array:
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))
