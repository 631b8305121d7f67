"""Steps as they are shown: what is new in an observation, the thought, the action, the label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eef.analysis.role_texts import advice_heading
from eef.envs.spec import EnvSpec
from eef.react import thought_of
from eef.trajectory import PathStep


@dataclass(frozen=True, slots=True)
class ShownStep:
    """A step of a path. `new` is the part of the observation that the one before did not have.

    `own` is whether the trajectory that is shown played it. `label` is that of the expert's
    segment it belongs to, "" if there is none. `advantage` is that of an act that was trained on
    by policy gradient. `drifted` is whether the text gives other token ids than those sampled.
    `advice` is what roles wrote before the turn, as (heading, text).
    """

    t: int
    observation: str
    new: str
    thought: str
    action: str
    completion: str
    reward: float
    author: str
    role: str
    own: bool
    label: str = ""
    advantage: float | None = None
    drifted: bool = False
    advice: tuple[tuple[str, str], ...] = ()


def shown_steps(
    path: Sequence[PathStep],
    owner: str,
    spec: EnvSpec,
    labels: Mapping[int, str] | None = None,
    advantages: Mapping[int, float] | None = None,
) -> list[ShownStep]:
    """The steps of a path; `owner` is the id of the trajectory that is shown."""
    steps, before = [], ""
    for t, item in enumerate(path):
        step = item.step
        steps.append(
            ShownStep(
                t=t,
                observation=step.observation,
                new=spec.new_part(step.observation, before),
                thought=thought_of(step.completion),
                action=step.action,
                completion=step.completion,
                reward=step.reward,
                author=item.author.name,
                role=item.author.role,
                own=item.trajectory == owner,
                label=(labels or {}).get(t, ""),
                drifted=step.tokens is not None,
                advice=tuple((advice_heading(each), each.text) for each in step.advice),
                advantage=(advantages or {}).get(t) if item.trajectory == owner else None,
            )
        )
        before = step.observation
    return steps
