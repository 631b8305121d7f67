"""The course of ScienceWorld: the way through the house, finding a thing of a kind, saying what it is, putting it down.

Its episodes are the gold paths of *development* variations, which no recipe of ours trains or tests on. A small world
is soon known by heart; so each episode is told several times over with its colours and numbers exchanged, for which the
page has to be read, and with slips, after which it has to go on: actions that name what is not there.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from pydantic import Field

from eef.chat import build_conversation, format_completion
from eef.env import FORMAT_ERROR
from eef.envs.registry import make_env, make_expert
from eef.envs.scienceworld.thoughts import think
from eef.errors import EnvError
from eef.policy import GREEDY
from eef.renderer import Rendered, Renderer
from eef.rollouts.runner import RolloutParameters, RolloutSpec, play
from eef.students.curriculum import StudentSettings, copying
from eef.students.tokenizer import Vocabulary, build_tokenizer
from eef.trajectory import Step, Trajectory, TrajectorySet
from eef.utils.progress import OnProgress, Progress

PART = "dev"
"""The official part that is played; the recipes train and test on the others."""

COLOURS = ("red", "green", "blue", "orange", "yellow", "purple")
NUMBERS = tuple(str(number) for number in range(1, 11))
_APART = "[](),.:;'\""
_JOINED = ((" ,", ","), (" .", "."), (" :", ":"), ("( ", "("), (" )", ")"))
_UNKNOWN = "No known action matches that input."
_REFUSALS = (_UNKNOWN, "It's not clear how to get there from here.", FORMAT_ERROR)
"""What gold paths never meet, but those who err do."""

_STEP_LIMIT = 40
_AT_A_TIME = 25


class ScienceStudent(StudentSettings):
    """How ScienceWorld's base student is made."""

    kinds: tuple[str, ...] = Field(
        default=("find-non-living-thing", "find-plant", "find-animal"), strict=False
    )
    """TaskGroups of tasks whose development variations are played."""

    tasks: int | None = Field(default=None, ge=1)
    """Variations that are on_progress, one of each kind in turn; all when left out."""

    tellings: int = Field(default=8, ge=1)
    """Times that each episode is told, each time with colours and numbers exchanged at random."""

    longest: int = Field(default=1200, ge=100)
    """Tokens of an episode; longer ones are left out."""

    slips: float = Field(default=0.1, ge=0, le=1)
    """Share of the turns before which an action of another episode is put that means nothing there; without loss."""

    copying_share: float = Field(default=0.8, ge=0, le=1)
    """Share of the drills that copy a row of words; in the others a thing of a list is put where the task says."""

    drills: int = Field(default=20_000, ge=1)
    """Short lessons in copying and putting, which come first."""

    drill_updates: int = Field(default=650, ge=1)
    """Optimizer updates on the drills."""

    updates: int = Field(default=800, ge=1)
    """Optimizer updates on episodes with as many drills among them."""

    batch_size: int = Field(default=16, ge=1)
    """Lessons an update."""


class ScienceCourse:
    """Follows `eef.students.curriculum.Course`; plays when it is made, for its tokenizer knows the words that were seen."""

    def __init__(self, settings: ScienceStudent, on_progress: OnProgress) -> None:
        self.settings = settings
        self.episodes = [each for each in play_gold(settings, on_progress) if each.success]
        self.steps = [step for each in self.episodes for step in each.steps]
        texts = chain.from_iterable((step.observation, step.completion) for step in self.steps)
        vocabulary = science_vocabulary([*texts, *COLOURS, *_REFUSALS])
        self.words = vocabulary.words
        self.tokenizer = build_tokenizer(vocabulary)
        self.again = len(self.episodes) * settings.tellings
        self.about: dict[str, Any] = {"made_from": [each.task for each in self.episodes]}

    def drill(self, renderer: Renderer, rng: random.Random) -> Rendered:
        if rng.random() < self.settings.copying_share:
            return copying(renderer, [range(len(renderer.tokenizer))], rng)
        return putting(renderer, self.words, rng)

    def lessons(
        self, renderer: Renderer, rng: random.Random, on_progress: OnProgress
    ) -> Iterator[Rendered]:
        for trajectory in self.episodes:
            for _ in range(self.settings.tellings):
                turns = with_slips(trajectory.steps, self.steps, self.settings.slips, rng)
                lesson = make_lesson(turns, renderer)
                if len(lesson.ids) <= self.settings.longest:
                    yield Rendered(exchanged(lesson.ids, renderer, rng), lesson.weights)


def putting(renderer: Renderer, words: Sequence[str], rng: random.Random) -> Rendered:
    """A drill: a task, a list of things with made-up names, and one of these put where the task says."""
    things = [" ".join(rng.sample(words, rng.randint(1, 3))) for _ in range(rng.randint(3, 6))]
    thing, colour = rng.choice(things), rng.choice(COLOURS)
    room, kind = rng.sample(words, 2)
    goal = f"find a(n) {kind}. First, focus on the thing. Then, move it to the {colour} box in the {room}."
    task = f"Your task is to {goal}"
    seen = [f"{task} {' '.join(f'a {each}' for each in things)}", f"You focus on the {thing}."]
    done = [f"focus on {thing}", f"move {thing} to {colour} box"]
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
    """The words of what was seen and said; marks of punctuation stand apart, numbers below a hundred are one token.

    >>> tokenizer = build_tokenizer(science_vocabulary(["a flower pot (containing soil)"]))
    >>> tokenizer.tokenize("Flower pot 6 (containing soil)."), tokenizer.decode(tokenizer.encode("pot, (soil)"))
    (['flower', 'pot', '6', '(', 'containing', 'soil', ')', '.'], 'pot, (soil)')
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


def play_gold(settings: ScienceStudent, on_progress: OnProgress) -> Iterator[Trajectory]:
    """The gold paths of the development variations, played in the world of the recipes (open containers, no prompt).

    EnvError where one breaks: a student made from the others would be another one.
    """
    options = {
        "tasks": settings.kinds,
        "simplifications": "eto",
        "prompt": "none",
        "step_limit": _STEP_LIMIT,
    }
    env = make_env("scienceworld", options)
    tasks = env.tasks(PART).head(settings.tasks)
    launches = [RolloutSpec(task.id, task, None, 0, 0) for task in tasks]
    try:
        found = play(
            launches,
            env=env,
            policy=make_expert(env, "flawless"),
            trajectories=TrajectorySet(),
            parameters=RolloutParameters(
                sampling=GREEDY, step_limit=env.step_limit, batch_size=_AT_A_TIME
            ),
        )
        for number, trajectory in enumerate(found, start=1):
            if trajectory.status == "error":
                raise EnvError(f"{trajectory.task} cannot be learned from: {trajectory.error}")
            yield trajectory
            on_progress(Progress("playing", number, len(tasks)))
    finally:
        env.close()


Turn = tuple[Step, bool]
"""A step, and whether it is the episode's own; else it is a slip."""


def with_slips(
    steps: Sequence[Step], others: Sequence[Step], share: float, rng: random.Random
) -> list[Turn]:
    """The steps of an episode with slips before some of them: what another episode did there, where what it names has
    not been seen in this one."""
    told: list[Turn] = []
    known = ""
    for step in steps:
        known += f"{step.observation} "
        slip = rng.choice(others) if rng.random() < share else None
        if slip is None or slip.action == "look around" or slip.action.split()[-1] in known:
            told.append((step, True))
        else:
            told += [
                (replace(slip, observation=step.observation), False),
                (replace(step, observation=_UNKNOWN), True),
            ]
    return told


def make_lesson(turns: Sequence[Turn], renderer: Renderer) -> Rendered:
    """An episode with loss on its own turns; its slips are there to be read."""
    return renderer.render(
        build_conversation("", [step for step, _ in turns]), [float(own) for _, own in turns]
    )


def exchanged(ids: Iterable[int], renderer: Renderer, rng: random.Random) -> tuple[int, ...]:
    """The ids with colours among each other, and numbers among each other, exchanged at random, everywhere alike."""
    to = {**_shuffle(COLOURS, renderer, rng), **_shuffle(NUMBERS, renderer, rng)}
    return tuple(to.get(token, token) for token in ids)


def _shuffle(words: tuple[str, ...], renderer: Renderer, rng: random.Random) -> Mapping[int, int]:
    ids = renderer.tokenizer.convert_tokens_to_ids(list(words))
    return dict(zip(ids, rng.sample(ids, len(ids)), strict=True))
