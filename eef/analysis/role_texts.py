"""The texts of roles about a trajectory, and a sample of each method that asks roles."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from eef.note import Advice, Note, NoteSet
from eef.pipeline.run_directory import RunData
from eef.pipeline.stages import Stage
from eef.react import parse_completion
from eef.trajectory import Trajectory, TrajectorySet

WAYS = {
    "alone": "acts alone",
    "advised": "is advised before each turn",
    "criticized": "proposes, is criticized and decides",
    "lookahead": "proposes, and a lookahead decides",
}


@dataclass(frozen=True, slots=True)
class RoleTexts:
    """The notes of a trajectory: those in the prompt it was played with, and those about it."""

    in_prompt: tuple[Note, ...] = ()
    about: tuple[Note, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.in_prompt or self.about)


def role_texts(item: Trajectory, noted: Iterable[NoteSet]) -> RoleTexts:
    """The notes of a trajectory among those of some stores."""
    found = [notes.of_trajectory(item.id, item.task, item.prompt_suffix) for notes in noted]
    return RoleTexts(
        tuple(note for in_prompt, _ in found for note in in_prompt),
        tuple(note for _, about in found for note in about),
    )


def advice_heading(advice: Advice) -> str:
    """Who wrote a piece of advice and about what: `critic on click[Buy Now]`, `reasoner`."""
    if not advice.candidate:
        return advice.role
    about = (
        f"{advice.role} on {parse_completion(advice.candidate)[1] or 'a turn without an action'}"
    )
    return about if advice.score is None else f"{about}, score {advice.score:g}"


@dataclass(frozen=True, slots=True)
class Sample:
    """A trajectory that shows how a method uses its roles. `stage` is that of the trajectory.

    `way` is how its agent acted, a key of `WAYS`. `trajectories` hold what it branches from.
    """

    method: str
    stage: str
    way: str
    trajectory: Trajectory
    trajectories: TrajectorySet
    texts: RoleTexts

    @property
    def title(self) -> str:
        """`the agent acts alone, with what roles wrote in its prompt (exploration, round 2)`"""
        noted = ", with texts of roles in its prompt" if self.texts.in_prompt else ""
        return f"the agent {WAYS[self.way]}{noted} ({self.stage})"


def find_samples(run: RunData) -> list[Sample]:
    """A sample of each method that asks roles: the rollout of its last explored or evaluated rounds
    with the most texts of roles; without any, a judged win of an expert.

    Won rollouts come before lost ones, and shorter ones of two turns and more before longer ones. A
    method whose roles have written nothing has none.
    """
    samples = []
    for method in run.methods:
        if run.methods[method].roles:
            found = max(_samples(run, method), key=_instructiveness, default=None)
            if found is not None and _instructiveness(found)[0]:
                samples.append(found)
    return samples


def _samples(run: RunData, method: str) -> Iterator[Sample]:
    for round in range(run.rounds_of(method), 0, -1):
        if run.is_done(Stage(method, round, "explore")):
            trajectories = run.trajectories(method)
            for item in trajectories:
                if item.by_expert or item.round == round:
                    stage = "expert data" if item.by_expert else f"exploration, round {round}"
                    yield _sample(method, stage, item, trajectories)
            break
    for round in range(run.rounds_of(method), 0, -1):
        if run.is_done(Stage(method, round, "evaluate")):
            tests = run.evaluation_rollouts(method, round)
            for item in tests:
                yield _sample(method, f"test, round {round}", item, tests)
            break


def _sample(method: str, stage: str, item: Trajectory, trajectories: TrajectorySet) -> Sample:
    advised = [each for step in item.steps for each in step.advice]
    if any(each.score is not None or each.seen is not None for each in advised):
        way = "lookahead"
    elif any(each.candidate for each in advised):
        way = "criticized"
    else:
        way = "advised" if advised else "alone"
    texts = role_texts(item, [trajectories.notes])
    return Sample(method, stage, way, item, trajectories, texts)


def _instructiveness(sample: Sample) -> tuple[int, bool, bool, int]:
    item, texts = sample.trajectory, sample.texts
    kinds = (
        bool(texts.in_prompt),
        any(not note.problem for note in texts.about),
        any(step.advice for step in item.steps),
    )
    return sum(kinds), item.success, len(item.steps) > 1, -len(item.steps)
