"""ScienceWorld's curriculum: go through the house, find an object, focus on it, move it.

Its episodes are the gold paths of *development* variations, which none of the shipped recipes train
or test on. A small model soon memorizes a small world, so each episode occurs several times:

- with colors and numbers permuted, so that the student has to read the page;
- with distractor turns (actions on objects that are not there), so that it learns to continue.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from pydantic import Field

from eef.chat import build_conversation
from eef.env import FORMAT_ERROR
from eef.envs.registry import make_env, make_expert
from eef.envs.scienceworld.thoughts import think
from eef.errors import EnvError
from eef.policy import GREEDY
from eef.react import format_completion
from eef.renderer import Rendered, Renderer
from eef.rollouts.runner import RolloutParameters, play
from eef.rollouts.specs import RolloutSpec
from eef.students.curriculum import StudentSettings, copying
from eef.students.tokenizer import Vocabulary, build_tokenizer
from eef.trajectory import Step, Trajectory, TrajectorySet
from eef.utils.progress import OnProgress, Progress

SPLIT = "dev"
"""The split that is played; recipes train and test on the others."""

COLORS = ("red", "green", "blue", "orange", "yellow", "purple")
NUMBERS = tuple(str(number) for number in range(1, 11))
_APART = "[](),.:;'\""
_JOINED = ((" ,", ","), (" .", "."), (" :", ":"), ("( ", "("), (" )", ")"))
_UNKNOWN = "No known action matches that input."
_REFUSALS = (_UNKNOWN, "It's not clear how to get there from here.", FORMAT_ERROR)
"""Observations that never occur on gold paths, but do after a mistake."""

_STEP_LIMIT = 40
_AT_A_TIME = 25


class ScienceStudentSettings(StudentSettings):
    """Settings of ScienceWorld's base student."""

    task_groups: tuple[str, ...] = Field(
        default=("find-non-living-thing", "find-plant", "find-animal"), strict=False
    )
    """Task groups whose development variations are played."""

    tasks: int | None = Field(default=None, ge=1)
    """Variations that are played, round-robin over the groups; all by default."""

    augmentations: int = Field(default=8, ge=1)
    """Copies of each episode, each with colors and numbers permuted at random."""

    max_episode_tokens: int = Field(default=1200, ge=100)
    """Maximum tokens of an episode; longer episodes are skipped."""

    distractor_share: float = Field(default=0.1, ge=0, le=1)
    """Share of the turns that are preceded by a distractor turn: an action of another episode that
    fails here. Distractor turns carry no loss."""

    copying_share: float = Field(default=0.8, ge=0, le=1)
    """Share of the drills that copy a row of words; the others move an object as a task says."""

    drills: int = Field(default=20_000, ge=1)
    """Number of drills: short examples of copying and moving, trained on first."""

    drill_updates: int = Field(default=650, ge=1)
    """Optimizer updates on the drills."""

    updates: int = Field(default=800, ge=1)
    """Optimizer updates on the episodes, with as many drills mixed in."""

    batch_size: int = Field(default=16, ge=1)
    """Lessons per update."""


class ScienceCurriculum:
    """A `Curriculum`. It plays the gold paths at once: its tokenizer holds the words that occur."""

    def __init__(self, settings: ScienceStudentSettings, on_progress: OnProgress) -> None:
        self.settings = settings
        self.episodes = [each for each in play_gold(settings, on_progress) if each.success]
        self.steps = [step for each in self.episodes for step in each.steps]
        texts = chain.from_iterable((step.observation, step.completion) for step in self.steps)
        vocabulary = science_vocabulary([*texts, *COLORS, *_REFUSALS])
        self.words = vocabulary.words
        self.tokenizer = build_tokenizer(vocabulary)
        self.repeated_drills = len(self.episodes) * settings.augmentations
        self.about: dict[str, Any] = {"training_tasks": [each.task for each in self.episodes]}

    def drill(self, renderer: Renderer, rng: random.Random) -> Rendered:
        if rng.random() < self.settings.copying_share:
            return copying(renderer, [range(len(renderer.tokenizer))], rng)
        return putting(renderer, self.words, rng)

    def lessons(
        self, renderer: Renderer, rng: random.Random, on_progress: OnProgress
    ) -> Iterator[Rendered]:
        for trajectory in self.episodes:
            for _ in range(self.settings.augmentations):
                turns = insert_distractors(
                    trajectory.steps, self.steps, self.settings.distractor_share, rng
                )
                lesson = make_lesson(turns, renderer)
                if len(lesson.ids) <= self.settings.max_episode_tokens:
                    yield Rendered(permute_words(lesson.ids, renderer, rng), lesson.weights)


def putting(renderer: Renderer, words: Sequence[str], rng: random.Random) -> Rendered:
    """A drill in moving: a task, objects with made-up names, one of them moved as the task says."""
    things = [" ".join(rng.sample(words, rng.randint(1, 3))) for _ in range(rng.randint(3, 6))]
    thing, color = rng.choice(things), rng.choice(COLORS)
    room, kind = rng.sample(words, 2)
    task = (
        f"Your task is to find a(n) {kind}. First, focus on the thing. "
        f"Then, move it to the {color} box in the {room}."
    )
    seen = [f"{task} {' '.join(f'a {each}' for each in things)}", f"You focus on the {thing}."]
    done = [f"focus on {thing}", f"move {thing} to {color} box"]
    steps = [
        Step(
            observation=page,
            completion=format_completion(think(task, action), action),
            action=action,
            reward=0.0,
        )
        for page, action in zip(seen, done, strict=True)
    ]
    return renderer.render(build_conversation("", steps), [1.0, 1.0])


def science_vocabulary(texts: Iterable[str]) -> Vocabulary:
    """The words of all texts. Punctuation marks are separate; numbers below 100 are one token each.

    >>> tokenizer = build_tokenizer(science_vocabulary(["a flower pot (containing soil)"]))
    >>> tokenizer.tokenize("Flower pot 6 (containing soil).")
    ['flower', 'pot', '6', '(', 'containing', 'soil', ')', '.']
    >>> tokenizer.decode(tokenizer.encode("pot, (soil)"))
    'pot, (soil)'
    """
    spaced = str.maketrans(dict.fromkeys(_APART, " "))
    seen = {
        word
        for text in texts
        for word in text.lower().translate(spaced).split()
        if not word.isdigit()
    }
    return Vocabulary(
        ("thought", "action", *sorted(seen)), numbers=100, apart=_APART, joined=_JOINED
    )


def play_gold(settings: ScienceStudentSettings, on_progress: OnProgress) -> Iterator[Trajectory]:
    """Play the gold paths of the development variations, with the recipes' environment settings.

    EnvError if a path fails: the student would otherwise depend on which ones succeed.
    """
    options = {
        "tasks": settings.task_groups,
        "simplifications": "eto",
        "prompt": "none",
        "step_limit": _STEP_LIMIT,
    }
    env = make_env("scienceworld", options)
    tasks = env.tasks(SPLIT).head(settings.tasks)
    specs = [RolloutSpec(task.id, task, None, 0, 0) for task in tasks]
    try:
        found = play(
            specs,
            env=env,
            policy=make_expert(env, "flawless"),
            trajectories=TrajectorySet(),
            parameters=RolloutParameters(
                sampling=GREEDY, step_limit=env.step_limit, batch_size=_AT_A_TIME
            ),
        )
        for number, trajectory in enumerate(found, start=1):
            if trajectory.status == "error":
                raise EnvError(f"the gold path of {trajectory.task} failed: {trajectory.error}")
            yield trajectory
            on_progress(Progress("playing", number, len(tasks)))
    finally:
        env.close()


Turn = tuple[Step, bool]
"""A step, and whether it is the episode's own; otherwise it is a distractor."""


def insert_distractors(
    steps: Sequence[Step], others: Sequence[Step], share: float, rng: random.Random
) -> list[Turn]:
    """The steps of an episode, with distractor turns inserted before some of them.

    A distractor is the action of a step drawn from `others`, on an object that this episode has not
    shown yet. The step after it observes that the action failed.
    """
    turns: list[Turn] = []
    seen = ""
    for step in steps:
        seen += f"{step.observation} "
        distractor = rng.choice(others) if rng.random() < share else None
        if (
            distractor is None
            or distractor.action == "look around"
            or distractor.action.split()[-1] in seen
        ):
            turns.append((step, True))
        else:
            turns += [
                (replace(distractor, observation=step.observation), False),
                (replace(step, observation=_UNKNOWN), True),
            ]
    return turns


def make_lesson(turns: Sequence[Turn], renderer: Renderer) -> Rendered:
    """An episode with loss on its own turns; distractors are context only."""
    return renderer.render(
        build_conversation("", [step for step, _ in turns]), [float(own) for _, own in turns]
    )


def permute_words(ids: Iterable[int], renderer: Renderer, rng: random.Random) -> tuple[int, ...]:
    """The ids with all colors permuted, and all numbers, consistently throughout the episode."""
    to = {**_shuffle(COLORS, renderer, rng), **_shuffle(NUMBERS, renderer, rng)}
    return tuple(to.get(token, token) for token in ids)


def _shuffle(words: tuple[str, ...], renderer: Renderer, rng: random.Random) -> Mapping[int, int]:
    ids = renderer.tokenizer.convert_tokens_to_ids(list(words))
    return dict(zip(ids, rng.sample(ids, len(ids)), strict=True))
