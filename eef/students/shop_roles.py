"""Lessons with roles in the shop's curriculum: plans, reflections, advice and critiques.

A student that has never seen such texts cannot use them. They are written by scripted roles, which
are sometimes wrong, and are placed where the methods and the ways of acting put them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from eef.chat import build_conversation
from eef.envs.webshop import WebShop
from eef.envs.webshop.expert import make_shop_expert, make_shop_role
from eef.methods.attempts import MEMORY, REFLECT
from eef.methods.planning import PLAN, SUFFIX
from eef.note import Advice, Shown
from eef.policy import GREEDY
from eef.roles import ADVISE, CRITICIZE, recorded_question, role_conversation, task_question
from eef.trajectory import Step, Trajectory

Kind = Literal["plan", "reflection", "advice", "critique"]
KINDS: tuple[Kind, ...] = get_args(Kind)

ROLE_WORDS = (
    "advice: aim at this next: look around first. plan may be helpful: step 1: 2: 3: 4: 5: 6: 7: "
    "8: 9: 10: 11: 12: 13: 14: 15: 16: 17: 18: 19: 20: reflections on earlier attempts task: 1. "
    "proposal critique contribution: a step. little. feasibility: possible. efficiency: direct. "
    "detour. grade: excellent. poor. revision: none"
)
"""The words of scripted roles, and of the frames that their texts are put in."""


@dataclass(frozen=True, slots=True)
class HelpedPath:
    """The path of a lesson, with what a role wrote.

    `steps` hold the advice; `shown` selects what the lesson shows of it. A plan or a reflection is
    in `prompt_suffix`. There is loss from step `first` on. `named` are the indices of steps whose
    action the texts name.
    """

    steps: tuple[Step, ...]
    named: frozenset[int]
    prompt_suffix: str = ""
    shown: Shown = "none"
    first: int = 0


class ShopRoles:
    """The scripted roles of one shop; `instructions` are those of its tasks, by id."""

    def __init__(self, shop: WebShop, instructions: Mapping[str, str], preset: str) -> None:
        self._instructions = instructions
        self._roles = {
            role: make_shop_role(shop, role, preset)
            for role in ("planner", "reflector", "reasoner", "critic")
        }
        self._proposer = make_shop_expert(shop, "weak")

    def help(self, trajectory: Trajectory, kind: Kind, rng: random.Random) -> HelpedPath:
        """The path of an episode with texts of one kind; a critique is about one of its turns."""
        if kind == "advice":
            return self._advised(trajectory, rng)
        if kind == "critique":
            return self._criticized(trajectory, rng)
        return self._planned(trajectory, kind, rng)

    def _planned(self, trajectory: Trajectory, kind: Kind, rng: random.Random) -> HelpedPath:
        role, request = ("planner", PLAN) if kind == "plan" else ("reflector", REFLECT)
        question = task_question(self._instructions[trajectory.task], request)
        text = self._ask(role, question, rng)
        suffix = SUFFIX.format(plan=text) if kind == "plan" else f"{MEMORY}\n1. {text}"
        named = {t for t, step in enumerate(trajectory.steps) if step.action in text}
        return HelpedPath(trajectory.steps, frozenset(named), prompt_suffix=suffix)

    def _advised(self, trajectory: Trajectory, rng: random.Random) -> HelpedPath:
        steps: list[Step] = []
        for t, step in enumerate(trajectory.steps):
            question = recorded_question([*steps, step], t, ADVISE, shown="all")
            text = self._ask("reasoner", question, rng)
            steps.append(replace(step, advice=(Advice(role="reasoner", text=text),)))
        named = {t for t, step in enumerate(steps) if step.action in step.advice[0].text}
        return HelpedPath(tuple(steps), frozenset(named), shown="all")

    def _criticized(self, trajectory: Trajectory, rng: random.Random) -> HelpedPath:
        """Two or three proposals of the weak expert for one turn, each with a critique."""
        t = rng.randrange(len(trajectory.steps))
        steps, step = trajectory.steps[: t + 1], trajectory.steps[t]
        conversation = build_conversation("", steps[:t], step.observation)
        seeds = [rng.randrange(2**31) for _ in range(rng.choice((2, 3)))]
        proposals = self._proposer.act([conversation] * len(seeds), seeds, GREEDY)
        critiques = []
        for proposal in proposals:
            question = recorded_question(steps, t, CRITICIZE, candidate=proposal.text)
            text = self._ask("critic", question, rng)
            critiques.append(Advice(role="critic", text=text, candidate=proposal.text))
        named = any(
            step.action in each.text or ("excellent" in each.text and step.action in each.candidate)
            for each in critiques
        )
        return HelpedPath(
            (*steps[:t], replace(step, advice=tuple(critiques))),
            frozenset({t} if named else ()),
            shown="last",
            first=t,
        )

    def _ask(self, role: str, question: str, rng: random.Random) -> str:
        conversation = role_conversation("", question)
        (completion,) = self._roles[role].act([conversation], [rng.randrange(2**31)], GREEDY)
        return completion.text
